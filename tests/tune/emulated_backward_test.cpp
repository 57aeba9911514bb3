// Emulated cases of a backward operation: what a kernel is given, and what is noticed of what it leaves behind.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "catch.h"
#include "element.h"
#include "emulated_verifier.h"
#include "gla/generator/space.h"
#include "kernel.h"
#include "kernel_case.h"

using namespace gla;

namespace {

Problem small_problem(DType dtype = DType::bf16) {
  Problem problem;
  problem.operation = Operation::chunk_backward;
  problem.dtype = problem.gate_dtype = dtype;
  problem.head_dim_k = 16;
  problem.head_dim_v = 8;
  problem.group = 2;
  return problem;
}

/// A "kernel" that writes the reference's answer where the arguments say, and then does something to their memory.
class RightAnswer {
 public:
  RightAnswer(const Problem& problem, const KernelCase& c)
      : inputs_(make_inputs(problem, c)), expected_(expected_outputs(inputs_, make_loss(inputs_, c))) {}

  LaunchKernel then(const std::function<void(const BackwardArgs&)>& deed) const {
    return [this, deed](const BackwardArgs& args, const Workload&, const RunOptions&) {
      write(args.dq, Output::dq);
      write(args.dk, Output::dk);
      write(args.dv, Output::dv);
      write(args.dgk, Output::dgk);
      for (std::size_t i = 0; args.d_initial_state != nullptr && i < expected_.d_initial_state.size(); ++i)
        args.d_initial_state[i] = static_cast<float>(expected_.d_initial_state[i]);
      deed(args);
    };
  }

 private:
  void write(const Tensor& tensor, Output output) const {
    if (tensor.data == nullptr) return;
    const Problem& problem = inputs_.problem;
    const Extent extent = extent_of(problem, output, {}, inputs_.heads);
    const DType dtype = dtype_of(problem, output);
    const std::int64_t tokens =
        inputs_.cu_seqlens.empty() ? inputs_.tokens : inputs_.cu_seqlens.back();  // those of a sequence
    for (std::int64_t b = 0; b < inputs_.batch; ++b) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t h = 0; h < extent.heads; ++h) {
          const std::int64_t row = ((b * inputs_.tokens + t) * extent.heads + h) * extent.channels;
          const auto first = expected_[output].begin() + row;
          const std::vector<std::byte> bytes =
              encode(dtype, std::vector<float>(first, first + extent.channels));
          const std::int64_t place =
              b * tensor.stride_batch + t * tensor.stride_token + h * tensor.stride_head;
          std::memcpy(
              static_cast<std::byte*>(tensor.data) + place * static_cast<std::int64_t>(size_of(dtype)),
              bytes.data(), bytes.size());
        }
      }
    }
  }

  ReferenceInput inputs_;
  ExpectedOutputs expected_;
};

void nothing(const BackwardArgs&) {}

KernelOutcome outcome_of(const Problem& problem, const KernelCase& c,
                         const std::function<void(const BackwardArgs&)>& deed = nothing) {
  const RightAnswer kernel(problem, c);
  return run_case(problem, c, kernel.then(deed));
}

std::string complaint_of(const Problem& problem, const KernelCase& c,
                         const std::function<void(const BackwardArgs&)>& deed = nothing) {
  return complaint(outcome_of(problem, c, deed), accuracy_bar(problem, c.gates, Accuracy::standard));
}

std::int64_t mismatches(const KernelOutcome& outcome) {
  std::int64_t count = 0;
  for (const Output output : kOutputs) count += outcome[output].nan_mismatches;
  return count;
}

const KernelCase kPacked{.tokens = 40, .heads = 2, .cu_seqlens = {0, 0, 10, 10, 33}};

}  // namespace

TEST_CASE("the reference's gradients, rounded, are within every bar, and those of another draw are not") {
  for (const DType dtype : {DType::bf16, DType::fp16, DType::fp32}) {
    const Problem problem = small_problem(dtype);
    for (const bool head_major : {false, true}) {
      for (const Gates gates : kAllGates) {
        INFO(to_string(dtype) << ", " << to_string(gates));
        const KernelCase c{
            .batch = 2, .tokens = 40, .heads = 2, .gates = gates, .padded = true, .head_major = head_major};
        CHECK(complaint_of(problem, c) == "");
      }
    }
    CHECK(complaint_of(problem, kPacked) == "");
  }
  const Problem problem = small_problem();
  KernelCase other = kPacked;
  other.seed = 2;
  const RightAnswer kernel(problem, other);
  const std::string found = complaint(run_case(problem, kPacked, kernel.then(nothing)),
                                      accuracy_bar(problem, kPacked.gates, Accuracy::fast));
  for (const char* name : {"dq: ", "dk: ", "dv: ", "dgk: ", "d_initial_state: "})
    CHECK(found.find(name) != std::string::npos);
}

TEST_CASE("a gradient that is not written is noticed, one that was not asked for has no memory") {
  const Problem problem = small_problem(DType::fp32);
  const auto idle = [](const BackwardArgs&, const Workload&, const RunOptions&) {};
  const KernelOutcome unwritten = run_case(problem, kPacked, idle);
  for (const Output output : outputs_of(problem)) CHECK(unwritten[output].nan_mismatches > 0);
  CHECK(unwritten.untouched);

  for (const unsigned gradients : {0u, 1u, 2u, 4u, 8u, 16u, 31u}) {
    KernelCase c = kPacked;
    c.gradients = gradients;
    unsigned given = 0;
    CHECK(complaint_of(problem, c, [&](const BackwardArgs& args) { given = wanted_gradients(args); }) == "");
    CHECK(given == gradients);
  }
  Problem ungated = problem;
  ungated.gate_k = false;
  unsigned given = 0;
  CHECK(complaint_of(ungated, kPacked, [&](const BackwardArgs& args) { given = wanted_gradients(args); }) ==
        "");
  CHECK(given == (kAllGradients & ~(kGradientGk | kGradientGv)));
}

TEST_CASE("the gradient of the final state is given or zero, and nothing of the forward's outputs is") {
  for (const bool given : {false, true}) {
    KernelCase c = kPacked;
    c.final_state = given;
    bool seen = false;
    CHECK(complaint_of(small_problem(), c, [&](const BackwardArgs& args) {
            seen = args.d_final_state != nullptr;
            CHECK(args.o.data == nullptr);
            CHECK(args.final_state == nullptr);
          }) == "");
    CHECK(seen == given);
  }
}

TEST_CASE("writes between the rows of a gradient, behind the last sequence and behind a state are noticed") {
  KernelCase padded{.batch = 2, .tokens = 12, .heads = 2, .padded = true};
  for (const bool head_major : {false, true}) {
    padded.head_major = head_major;
    CHECK(outcome_of(small_problem(), padded).untouched);
    const auto between = [](auto tensor, int channels) {
      return
          [=](const BackwardArgs& args) { static_cast<unsigned short*>((args.*tensor).data)[channels] = 0; };
    };
    CHECK_FALSE(outcome_of(small_problem(), padded, between(&BackwardArgs::dq, 16)).untouched);
    CHECK_FALSE(outcome_of(small_problem(), padded, between(&BackwardArgs::dk, 16)).untouched);
    CHECK_FALSE(outcome_of(small_problem(), padded, between(&BackwardArgs::dv, 8)).untouched);
    CHECK_FALSE(outcome_of(small_problem(), padded, between(&BackwardArgs::dgk, 16)).untouched);
  }
  // Token 33 belongs to no sequence.
  CHECK_FALSE(outcome_of(small_problem(), kPacked, [](const BackwardArgs& args) {
                static_cast<unsigned short*>(args.dk.data)[33 * 2 * 16] = 0;
              }).untouched);
  Problem odd = small_problem(DType::fp32);
  odd.head_dim_k = odd.head_dim_v = 3;  // 9 floats, and 3 of the alignment behind them
  CHECK_FALSE(outcome_of(odd, {.tokens = 5}, [](const BackwardArgs& args) {
                args.d_initial_state[9] = 0;
              }).untouched);
}

TEST_CASE("a NaN gate may do as it likes to the gradients of its sequence and head, and to no others") {
  KernelCase c = kPacked;
  c.nan_gate = true;
  const Problem problem = small_problem(DType::fp32);
  const auto stain = [](Tensor BackwardArgs::*tensor, std::int64_t token, std::int64_t head) {
    return [=](const BackwardArgs& args) {
      const Tensor& t = args.*tensor;
      static_cast<float*>(t.data)[token * t.stride_token + head * t.stride_head] = std::nanf("");
    };
  };
  CHECK(complaint_of(problem, c) == "");
  // Query heads 0 and 1 are of head 0; the last sequence has the tokens from 10 on.
  CHECK(mismatches(outcome_of(problem, c, stain(&BackwardArgs::dq, 32, 1))) == 0);
  CHECK(mismatches(outcome_of(problem, c, stain(&BackwardArgs::dv, 20, 0))) == 0);
  CHECK(mismatches(outcome_of(problem, c, stain(&BackwardArgs::dq, 32, 2))) == 1);
  CHECK(mismatches(outcome_of(problem, c, stain(&BackwardArgs::dk, 20, 1))) == 1);
  CHECK(mismatches(outcome_of(problem, c, stain(&BackwardArgs::dgk, 9, 0))) == 1);
  const auto stain_state = [](std::int64_t state) {
    return [=](const BackwardArgs& args) { args.d_initial_state[state * 16 * 8] = std::nanf(""); };
  };
  CHECK(mismatches(outcome_of(problem, c, stain_state(3 * 2))) == 0);
  CHECK(mismatches(outcome_of(problem, c, stain_state(3 * 2 + 1))) == 1);
}

TEST_CASE("the verifier runs a backward variant on its cases, and tells the errors of what is wanted") {
  VerificationCase whole;
  whole.name = "whole";
  whole.problem = small_problem();
  whole.tokens = 40;
  VerificationCase part = whole;
  part.gradients = kGradientV;
  EmulatedVerifier verifier(source_toolchain(), {whole, part}, kGpuSeed);
  const std::vector<Variant> variants = space(whole.problem, *parse_architecture("sm_90a"));
  const auto variant = std::find_if(variants.begin(), variants.end(), [&](const Variant& each) {
    return meant_for(whole.problem, each, Accuracy::standard);
  });
  REQUIRE(variant != variants.end());
  const auto answer = verifier.verify(*variant);
  INFO(answer.refusal.detail);
  REQUIRE_FALSE(answer.refused());
  CHECK(answer.value.verdict.fast);
  const std::vector<CaseOutcome>& cases = answer.value.cases;
  REQUIRE(cases.size() == 2);
  for (const Output output : outputs_of(whole.problem)) {
    INFO(to_string(output));
    CHECK(cases[0].errors[output] > 0);
    CHECK((cases[1].errors[output] > 0) == (output == Output::dv));
  }
  CHECK(cases[0].errors.o == 0);
}

TEST_CASE("launches that are for no wanted gradient are left out") {
  const emulator::Program program = emulator::Program::build("counts", R"(
#include "backward_args.h"
#include "device/launch.cuh"
GLA_DEVICE void count(gla::BackwardArgs& args, int kernel) {
  gla::wait_for_earlier_kernels();
  args.path_counts[kernel] += 1;
}
GLA_KERNEL void first(gla::BackwardArgs args) { count(args, 0); }
GLA_KERNEL void second(gla::BackwardArgs args) { count(args, 1); }
GLA_KERNEL void always(gla::BackwardArgs args) { count(args, 2); }
)",
                                                             source_toolchain());
  LaunchPlan plan;
  plan.launches.add({.entry = 0, .needs = kGradientQ | kGradientGk});
  plan.launches.add({.entry = 1, .needs = kGradientV | kGradientState});
  plan.launches.add({.entry = 2});
  const auto launched = [&](Tensor BackwardArgs::*wanted) {
    std::vector<unsigned long long> counts(3);
    float memory = 0;
    BackwardArgs args;
    (args.*wanted).data = &memory;
    args.path_counts = counts.data();
    run_plan(program, {"first", "second", "always"}, plan, args, {});
    return counts;
  };
  CHECK(launched(&BackwardArgs::dgk) == std::vector<unsigned long long>{1, 0, 1});
  CHECK(launched(&BackwardArgs::dv) == std::vector<unsigned long long>{0, 1, 1});
  CHECK(launched(&BackwardArgs::dk) == std::vector<unsigned long long>{0, 0, 1});
}
