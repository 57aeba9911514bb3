// Verification on the emulator: what it asks of a kernel, and what it notices.
#include <algorithm>
#include <cstring>
#include <set>

#include "catch.h"
#include "emulated_verifier.h"
#include "kernel_case.h"

using namespace gla;

namespace {

Problem small_problem() {
  Problem problem;
  problem.operation = Operation::recurrent_forward;
  problem.head_dim_k = problem.head_dim_v = 16;
  return problem;
}

Variant small_variant() {
  return *parse_variant("decode lanes_k=4 rows_v=1 warps=1 stages=1 min_blocks=1");
}

VerificationCase small_case() {
  VerificationCase one;
  one.name = "small";
  one.problem = small_problem();
  one.tokens = 12;
  return one;
}

/// Runs the small variant, then does something to its arguments' memory.
LaunchKernel followed_by(const std::function<void(const KernelArgs&)>& deed) {
  const LaunchKernel kernel = kernel_of(small_problem(), small_variant());
  return [=](const BackwardArgs& args, const Workload& workload, const RunOptions& options) {
    kernel(args, workload, options);
    deed(args);
  };
}

}  // namespace

TEST_CASE("an emulated case is its verification case, and the cases of a set take all orders of threads") {
  const auto cases = full_cases(small_problem());
  std::set<emulator::Order> orders;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const VerificationCase& spec = cases[i];
    INFO(spec.name);
    const KernelCase one = kernel_case_of(spec, 1, i);
    orders.insert(one.options.order);
    CHECK(one.sequences() == spec.sequences());
    CHECK(one.tokens == spec.tokens);
    CHECK(one.heads == spec.heads);
    CHECK(one.cu_seqlens == spec.cu_seqlens);
    CHECK(one.cu_seqlens_is_int64 == spec.cu_seqlens_is_int64);
    CHECK(one.gates == spec.gates);
    CHECK(one.initial_state == spec.initial_state);
    CHECK(one.final_state == spec.final_state);
    CHECK(one.gradients == spec.gradients);
    CHECK(one.in_place == spec.in_place);
    CHECK(one.padded == spec.padded);
    CHECK(one.nan_gate == spec.nan_gate);
    CHECK(one.scale.value_or(0) == spec.scale);
  }
  CHECK(orders.size() == 3);
}

TEST_CASE("padding is NaN for the kernel, and a write into it is noticed") {
  for (const bool head_major : {false, true}) {
    KernelCase c{.batch = 2, .tokens = 12, .heads = 2, .padded = true, .head_major = head_major};
    bool nan = true;
    const auto look = [&](const KernelArgs& args) {
      const auto* behind_the_first_row = static_cast<const unsigned short*>(args.q.data) + 16;
      nan = nan && *behind_the_first_row == 0xffff;
    };
    const KernelOutcome clean = run_case(small_problem(), c, followed_by(look));
    CHECK(nan);
    CHECK(complaint(clean, accuracy_bar(small_problem(), c.gates, Accuracy::standard)) == "");
    const auto spill = [](const KernelArgs& args) { static_cast<unsigned short*>(args.o.data)[16] = 0; };
    CHECK_FALSE(run_case(small_problem(), c, followed_by(spill)).untouched);
    CHECK(run_case(small_problem(), c, followed_by([](const KernelArgs&) {})).untouched);
  }
}

TEST_CASE("a NaN gate must make its own sequence and head NaN in o, and nothing else") {
  const KernelCase c{.tokens = 30, .heads = 2, .cu_seqlens = {0, 10, 30}, .nan_gate = true};
  const Bar bar = accuracy_bar(small_problem(), c.gates, Accuracy::standard);
  CHECK(complaint(run_case(small_problem(), c, followed_by([](const KernelArgs&) {})), bar) == "");
  const auto element = [](const KernelArgs& args, std::int64_t token, std::int64_t head) {
    return static_cast<unsigned short*>(args.o.data) + (token * 2 + head) * 16;
  };
  const auto hide = [&](const KernelArgs& args) { *element(args, 29, 0) = 0; };
  CHECK(run_case(small_problem(), c, followed_by(hide)).o.nan_mismatches == 1);
  const auto leak = [&](const KernelArgs& args) { *element(args, 29, 1) = 0xffff; };
  CHECK(run_case(small_problem(), c, followed_by(leak)).o.nan_mismatches == 1);
  // How far it reaches into its own state is not promised; that it stays there is.
  const auto own_state = [](const KernelArgs& args) {
    std::memset(static_cast<float*>(args.final_state) + 2 * 16 * 16, 0xff, 16 * 16 * sizeof(float));
  };
  CHECK(run_case(small_problem(), c, followed_by(own_state)).final_state.nan_mismatches == 0);
  const auto other_state = [](const KernelArgs& args) {
    std::memset(static_cast<float*>(args.final_state) + 3 * 16 * 16, 0xff, sizeof(float));
  };
  CHECK(run_case(small_problem(), c, followed_by(other_state)).final_state.nan_mismatches == 1);
}

TEST_CASE("seeds draw different inputs; the same seed gives the same errors") {
  const auto error_of = [&](std::uint64_t seed) {
    EmulatedVerifier verifier(source_toolchain(), {small_case()}, seed);
    const auto answer = verifier.verify(small_variant());
    REQUIRE_FALSE(answer.refused());
    CHECK(answer.value.verdict.standard);
    return answer.value.cases.at(0).errors.o;
  };
  CHECK(error_of(1) == error_of(1));
  CHECK(error_of(1) != error_of(2));
}

TEST_CASE("a kernel that does not compile is refused with the compiler's words") {
  const emulator::Toolchain headless(GLA_HOST_COMPILER, {}, GLA_EMULATOR_CACHE);
  EmulatedVerifier broken(headless, {small_case()}, 1);
  const auto answer = broken.verify(small_variant());
  CHECK(answer.refusal.reason == "compile");
  CHECK(answer.refusal.detail.find("recurrent_forward.cuh") != std::string::npos);
}

TEST_CASE("kernels that take boxes find the tensors of the call in their maps") {
  const emulator::Program program = emulator::Program::build("boxes", R"(
#include "args.h"
#include "device/launch.cuh"
#include "device/tensor_copy.cuh"
#include "device/thread.cuh"
namespace gla {
/// o = q, one block per batch row and head: two boxes of 64 channels, of which the second has 16.
GLA_DEVICE void copy(const TensorArgs& args) {
  wait_for_earlier_kernels();
  unsigned char* tile = shared_memory();
  auto* barrier = reinterpret_cast<unsigned long long*>(tile + 1024);
  const int head = static_cast<int>(block_index()) % 3, batch = static_cast<int>(block_index()) / 3;
  barrier_init(barrier, 1);
  for (int i = 0; i < 6; ++i) {
    const int channel = i / 3 * 64, token = i % 3 * 8;
    barrier_arrive_expect(barrier, 1024);
    tensor_load(tile, &args.maps.q, channel, token, head, batch, barrier);
    barrier_wait(barrier, i % 2);
    tensor_store(&args.maps.o, tile, channel, token, head, batch);
    bulk_commit();
    bulk_wait_read<0>();
  }
}
}  // namespace gla
GLA_KERNEL void boxes(const GLA_GRID_CONSTANT gla::TensorArgs args) {
  gla::copy(args);
}
)",
                                                             source_toolchain());
  constexpr int kElements = 2 * 3 * 20 * 80;
  alignas(16) static unsigned short in[kElements], out[kElements];
  for (int i = 0; i < kElements; ++i) in[i] = static_cast<unsigned short>(i);
  KernelArgs args;
  args.q = {in, 4800, 240, 80};
  args.o = {out, 4800, 80, 1600};  // [B, H, T, D]
  args.sequences = 2;
  args.tokens = 20;
  args.heads = 3;
  LaunchPlan plan;
  plan.boxes = {.rows = 8, .head_dim_k = 80, .head_dim_v = 80, .element_bytes = 2};
  plan.launches.add({.entry = 0, .grid = 6, .threads = 1, .shared_bytes = 1024 + 16});
  run_plan(program, {"boxes"}, plan, args, {});
  int wrong = 0;
  for (int b = 0; b < 2; ++b)
    for (int h = 0; h < 3; ++h)
      for (int t = 0; t < 20; ++t)
        for (int c = 0; c < 80; ++c)
          wrong += out[b * 4800 + h * 1600 + t * 80 + c] == in[b * 4800 + t * 240 + h * 80 + c] ? 0 : 1;
  CHECK(wrong == 0);
}
