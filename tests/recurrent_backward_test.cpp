// recurrent_backward on the emulator: every gradient, held to the fp64 reference.
#include <cmath>
#include <limits>

#include "catch.h"
#include "gla/generator/space.h"
#include "kernel_case.h"
#include "small_variants.h"

using namespace gla;
using namespace gla::test;

namespace {

/// With both gates.
Problem both_gates(int dim_k, int dim_v, DType dtype = DType::bf16, int group = 1) {
  Problem problem = recurrent_backward_of(dim_k, dim_v, dtype, group);
  problem.gate_v = true;
  return problem;
}

}  // namespace

TEST_CASE("recurrent gradients of every gate distribution, in fp32 to its last digits") {
  const Problem problem = both_gates(20, 12, DType::fp32);
  const LaunchKernel kernel = kernel_of(problem, lines_variant(problem, {}));
  for (const Gates gates : kAllGates) {
    // Segments of 32 tokens, units of 8 and chunks of 4: a part of a chunk, a segment, one and a part of the next.
    for (const std::int64_t tokens : {3, 32, 50}) {
      const KernelCase c{.batch = 2, .tokens = tokens, .gates = gates};
      INFO(to_string(gates) << ", T=" << tokens);
      CHECK(complaint(run_case(problem, c, kernel), accuracy_bar(problem, gates, Accuracy::standard)) == "");
    }
  }
}

TEST_CASE("recurrent gradients of every type, layout and direction, of packed and padded sequences",
          "[wide]") {
  const KernelCase packed{
      .tokens = 63, .heads = 2, .cu_seqlens = {0, 0, 1, 40, 60}, .gates = Gates::resets, .padded = true};
  for (const DType dtype : kDTypes) {
    Problem problem = both_gates(17, 36, dtype);
    problem.state_v_first = dtype != DType::fp16;
    problem.reverse = dtype != DType::fp32;
    if (dtype == DType::bf16) problem.gate_dtype = DType::fp32;
    expect_right(problem, packed, kernel_of(problem, lines_variant(problem, {.lanes = 8, .chunk = 2})));
  }
}

TEST_CASE("recurrent gradients of sequences whose states between chunks are in the workspace", "[wide]") {
  const Problem problem = both_gates(20, 12);
  const LaunchKernel kernel = kernel_of(problem, lines_variant(problem, {.chunk = 2}));
  expect_right(problem, {.batch = 2, .tokens = 150, .gates = Gates::one}, kernel);
  expect_right(problem, {.tokens = 330, .heads = 2, .cu_seqlens = {0, 149, 149, 330}, .gates = Gates::one},
               kernel);
}

TEST_CASE("recurrent gradients of gates of 16 bits in fp32, to their last digits") {
  for (const DType dtype : {DType::fp16, DType::bf16}) {
    Problem problem = both_gates(20, 12, dtype);
    problem.fp32_gate_gradients = true;
    const KernelCase c{.batch = 2, .tokens = 40, .gates = Gates::one, .padded = true};
    Bar bar = accuracy_bar(problem, c.gates, Accuracy::fast);
    bar.dgk = bar.dgv = 1e-6;
    CHECK(complaint(run_case(problem, c, kernel_of(problem, lines_variant(problem, {.rows = 4, .chunk = 2}))),
                    bar) == "");
  }
}

TEST_CASE("recurrent gradients of a group's keys are sums over its queries") {
  const Problem problem = both_gates(16, 24, DType::bf16, 3);
  const LaunchKernel kernel = kernel_of(problem, lines_variant(problem, {.lanes = 2, .rows = 1, .warps = 1}));
  for (const Gates gates : {Gates::one, Gates::hundred})
    expect_right(problem, {.batch = 2, .tokens = 20, .heads = 2, .gates = gates}, kernel);
}

TEST_CASE("recurrent gradients with one gate, with the other and with none", "[wide]") {
  for (const unsigned gates : {0u, 1u, 2u}) {
    Problem problem = recurrent_backward_of(20, 12);
    problem.gate_k = gates == 1;
    problem.gate_v = gates == 2;
    const LaunchKernel kernel = kernel_of(problem, lines_variant(problem, {.chunk = 2}));
    expect_right(problem, {.batch = 2, .tokens = 40, .initial_state = false, .final_state = false}, kernel);
  }
}

TEST_CASE("each recurrent gradient by itself") {
  const Problem problem = both_gates(20, 12);
  const LaunchKernel kernel = kernel_of(problem, lines_variant(problem, {}));
  for (unsigned wanted = 1; wanted < kAllGradients; wanted *= 2)
    expect_right(problem, {.batch = 2, .tokens = 40, .gradients = wanted}, kernel);
}

TEST_CASE("a recurrent gradient of a gate that is -inf is zero, and those before it are finite") {
  const Problem problem = both_gates(20, 12, DType::fp32);
  const KernelCase c{.tokens = 12};
  ReferenceInput in = make_inputs(problem, c);
  for (const std::size_t channel : {0, 3, 7})
    in.gk[5 * 20 + channel] = -std::numeric_limits<float>::infinity();
  const ReferenceLoss loss = make_loss(in, c);
  const KernelResult result = run_kernel(in, c, kernel_of(problem, lines_variant(problem, {})), loss);
  CHECK(complaint(judge(in, result, loss), accuracy_bar(problem, c.gates, Accuracy::standard)) == "");
  for (const std::size_t channel : {0, 3, 7}) CHECK(result.dgk[5 * 20 + channel] == 0.0f);
  for (const float gradient : result.dgk) CHECK(std::isfinite(gradient));
}

TEST_CASE("no recurrent gradient grows less exact with T", "[wide]") {
  const Problem problem = both_gates(8, 4, DType::fp32);
  const LaunchKernel kernel =
      kernel_of(problem, lines_variant(problem, {.lanes = 1, .rows = 1, .warps = 1, .chunk = 4}));
  for (const Gates gates : {Gates::sixteenth, Gates::resets}) {
    INFO(to_string(gates));
    for (const std::int64_t tokens : {64, 2048}) {
      const KernelCase c{.tokens = tokens, .gates = gates};
      Bar bar = accuracy_bar(problem, gates, Accuracy::standard);
      for (const Output output : kOutputs) bar[output] = 2e-6;
      CHECK(complaint(run_case(problem, c, kernel), bar) == "");
    }
  }
}

TEST_CASE("a recurrent gradient that is NaN does not reach the gates behind it, nor another sequence") {
  const Problem problem = both_gates(20, 12);
  const KernelCase c{.tokens = 40, .cu_seqlens = {0, 20, 40}};
  const ReferenceInput in = make_inputs(problem, c);
  ReferenceLoss loss = make_loss(in, c);
  const std::vector<double> expected = naive_backward(in, loss).gk;
  loss.o[10 * 12] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> found =
      run_kernel(in, c, kernel_of(problem, lines_variant(problem, {})), loss).dgk;
  for (std::size_t i = 11 * 20; i < found.size(); ++i)
    if (!(std::abs(found[i] - expected[i]) <= 0.05))
      FAIL_CHECK("token " << i / 20 << ", channel " << i % 20 << ": " << found[i] << " for " << expected[i]);
  expect_right(problem, {.tokens = 40, .cu_seqlens = {0, 20, 40}, .nan_gate = true},
               kernel_of(problem, lines_variant(problem, {})));
}

TEST_CASE("the same call gives the same recurrent gradients, in whatever order the threads run") {
  const Problem problem = both_gates(20, 12);
  const LaunchKernel kernel = kernel_of(problem, lines_variant(problem, {}));
  KernelCase c{.batch = 2, .tokens = 50};
  const ReferenceInput in = make_inputs(problem, c);
  const ReferenceLoss loss = make_loss(in, c);
  const KernelResult first = run_kernel(in, c, kernel, loss);
  c.options = {emulator::Order::random, 7};
  const KernelResult again = run_kernel(in, c, kernel, loss);
  for (const Output output : outputs_of(problem)) CHECK(first[output] == again[output]);
}
