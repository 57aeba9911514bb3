// chunk_backward on the emulator: every gradient, held to the fp64 reference.
#include <cmath>
#include <limits>

#include "catch.h"
#include "gla/generator/space.h"
#include "kernel_case.h"
#include "small_variants.h"

using namespace gla;
using namespace gla::test;

TEST_CASE("gradients of every gate distribution") {
  const Problem problem = backward_of(32, 32);
  for (const WalksChoice& choice :
       {WalksChoice{}, WalksChoice{.chunk = 64, .tile_k = 16, .tile_v = 16, .warps = 2, .stages = 1}}) {
    const LaunchKernel kernel = kernel_of(problem, walks_variant(problem, choice));
    for (const Gates gates : kAllGates)
      expect_right(problem, {.batch = 2, .tokens = 150, .gates = gates}, kernel);
  }
}

TEST_CASE("gradients of every type, with channels to spare on both sides", "[wide]") {
  const KernelCase packed{
      .tokens = 150, .cu_seqlens = {0, 0, 1, 65, 140}, .gates = Gates::resets, .padded = true};
  for (const DType dtype : kDTypes) {
    Problem problem = backward_of(56, 104, dtype);
    problem.state_v_first = dtype != DType::fp16;
    if (dtype == DType::bf16) problem.gate_dtype = DType::fp32;
    const int parts = dtype == DType::fp32 ? 3 : 2;
    // Four warps share the key channels' rows; two the value channels'.
    const WalksChoice shared{.tile_k = 16, .score_parts = parts, .state_parts = parts};
    expect_right(problem, packed, kernel_of(problem, walks_variant(problem, shared)));
  }
}

TEST_CASE("gradients of a group's keys are sums over its queries") {
  const Problem problem = backward_of(32, 32, DType::bf16, 3);
  const LaunchKernel kernel = kernel_of(problem, walks_variant(problem, {.chunk = 16}));
  for (const Gates gates : {Gates::one, Gates::hundred})
    expect_right(problem, {.batch = 2, .tokens = 70, .heads = 2, .gates = gates}, kernel);
}

TEST_CASE("gradients without gates, and of rows that are no whole words", "[wide]") {
  Problem problem = backward_of(32, 32);
  problem.gate_k = false;
  expect_right(problem, {.batch = 2, .tokens = 70}, kernel_of(problem, walks_variant(problem, {})));
  const Problem odd = backward_of(33, 17);
  expect_right(
      odd, {.tokens = 70, .heads = 2, .gates = Gates::growth},
      kernel_of(odd,
                walks_variant(odd, {.tile_k = 16, .tile_v = 16, .warps = 1, .stages = 1, .async_copy = 0})));
}

TEST_CASE("gradients of gates of 16 bits in fp32, closer than 16 bits can be", "[wide]") {
  const auto tested = [](Problem problem, const WalksChoice& choice) {
    problem.fp32_gate_gradients = true;
    const LaunchKernel kernel = kernel_of(problem, walks_variant(problem, choice));
    const KernelCase packed{
        .tokens = 150, .cu_seqlens = {0, 0, 1, 65, 140}, .gates = Gates::resets, .padded = true};
    const KernelCase alone{.tokens = 100, .heads = 2, .gates = Gates::one, .gradients = kGradientGk};
    for (const KernelCase& c : {packed, alone}) {
      Bar bar = accuracy_bar(problem, c.gates, Accuracy::fast);
      bar.dgk = 1e-4;
      INFO(to_string(problem));
      CHECK(complaint(run_case(problem, c, kernel), bar) == "");
    }
  };
  tested(backward_of(20, 32), {.stages = 1});
  tested(backward_of(32, 32, DType::fp16, 2), {.segments = 2, .chunk = 16, .warps = 2});
  tested(backward_of(128, 64), {.chunk = 32, .tile_k = 64, .tile_v = 64, .producers = 4});
  tested(backward_of(120, 64),
         {.segments = 2, .chunk = 64, .tile_k = 128, .tile_v = 64, .warps = 8, .producers = 4});
}

TEST_CASE("each gradient by itself", "[wide]") {
  const Problem problem = backward_of(32, 32);
  const LaunchKernel kernel = kernel_of(problem, walks_variant(problem, {}));
  for (const unsigned wanted :
       {+kGradientQ, +kGradientK, +kGradientV, kGradientGk | kGradientK, +kGradientState})
    expect_right(problem, {.batch = 2, .tokens = 70, .gradients = wanted}, kernel);
  expect_right(problem, {.batch = 2, .tokens = 70, .initial_state = false, .final_state = false}, kernel);
}

TEST_CASE("gradients through segments, all and each by itself", "[wide]") {
  const KernelCase dense{.batch = 2, .tokens = 150, .heads = 2};
  const KernelCase packed{.tokens = 250, .heads = 2, .cu_seqlens = {0, 0, 1, 65, 240}, .gates = Gates::ten};
  for (const int group : {1, 2}) {
    Problem problem = backward_of(32, 32, DType::bf16, group);
    problem.state_v_first = group > 1;
    const LaunchKernel kernel =
        kernel_of(problem, walks_variant(problem, {.segments = 4, .chunk = group == 1 ? 32 : 16}));
    expect_right(problem, dense, kernel);
    expect_right(problem, packed, kernel);
    for (const unsigned wanted :
         {+kGradientQ, +kGradientK, +kGradientV, kGradientGk | kGradientK, +kGradientState})
      expect_right(problem, {.tokens = 150, .final_state = false, .gradients = wanted}, kernel);
  }
}

TEST_CASE("gradients by walks in legs, all and each by itself", "[wide]") {
  const auto tested = [](const Problem& problem, const WalksChoice& choice) {
    const LaunchKernel kernel = kernel_of(problem, walks_variant(problem, choice));
    for (const Gates gates : {Gates::one, Gates::resets})
      expect_right(problem, {.batch = 2, .tokens = 230, .heads = 2, .gates = gates, .legs = 3}, kernel);
    for (const unsigned wanted :
         {+kGradientQ, +kGradientK, +kGradientV, kGradientGk | kGradientK, +kGradientState})
      expect_right(problem, {.tokens = 150, .gradients = wanted, .legs = 2}, kernel);
    expect_right(problem, {.tokens = 150, .initial_state = false, .final_state = false, .legs = 2}, kernel);
  };
  tested(backward_of(32, 32), {});
  tested(backward_of(32, 32, DType::bf16, 2), {.chunk = 16});
  Problem v_first = backward_of(56, 120);
  v_first.state_v_first = true;
  tested(v_first, {.chunk = 64, .tile_k = 64, .tile_v = 128, .producers = 8});
  // dk's by two warpgroups that share key channels, dq's by two that do not.
  tested(backward_of(128, 64), {.tile_k = 128, .tile_v = 64, .warps = 8, .producers = 8, .tile_k_back = 64});
}

TEST_CASE("gradients by producers and warpgroups", "[wide]") {
  const KernelCase packed{.tokens = 250, .cu_seqlens = {0, 0, 1, 65, 240}, .gates = Gates::one};
  const auto tested = [&](const Problem& problem, const WalksChoice& choice) {
    const LaunchKernel kernel = kernel_of(problem, walks_variant(problem, choice));
    expect_right(problem, packed, kernel);
    KernelCase of_state = packed;
    of_state.gates = Gates::ten;
    of_state.gradients = kGradientState;
    expect_right(problem, of_state, kernel);
    for (const unsigned wanted : {+kGradientQ, +kGradientK, kGradientGk | kGradientK})
      expect_right(problem, {.tokens = 100, .gradients = wanted}, kernel);
    for (const Gates gates : {Gates::sixteenth, Gates::ten, Gates::resets, Gates::growth})
      expect_right(problem, {.tokens = 200, .heads = 2, .gates = gates}, kernel);
  };
  Problem unlike = backward_of(64, 64);
  unlike.state_v_first = true;
  unlike.gate_dtype = DType::fp32;
  tested(unlike, {.tile_k = 64, .tile_v = 64, .producers = 4});
  tested(backward_of(56, 120), {.segments = 2, .chunk = 64, .tile_k = 64, .tile_v = 128, .producers = 8});
  // Two warpgroups share key channels.
  tested(backward_of(56, 120), {.segments = 2, .tile_k = 64, .tile_v = 64, .warps = 8, .producers = 8});
  Problem shared = backward_of(64, 56);
  shared.state_v_first = shared.fp32_gate_gradients = true;
  tested(shared, {.chunk = 64, .tile_k = 64, .tile_v = 64, .warps = 8, .producers = 8});
}

TEST_CASE("gradients by two warpgroups of key channels, which choose their paths by themselves", "[wide]") {
  const Problem problem = backward_of(128, 64);
  const LaunchKernel kernel = kernel_of(
      problem,
      walks_variant(problem, {.chunk = 64, .tile_k = 128, .tile_v = 64, .warps = 8, .producers = 4}));
  for (const Gates gates : {Gates::one, Gates::resets})
    expect_right(problem, {.tokens = 150, .gates = gates}, kernel);
}

TEST_CASE("a gradient that is NaN does not reach the gates behind it") {
  // Key channels to spare, whose staged outputs are NaN too.
  const Problem problem = backward_of(20, 32);
  const KernelCase c{.tokens = 160};
  const ReferenceInput in = make_inputs(problem, c);
  ReferenceLoss loss = make_loss(in, c);
  const std::vector<double> expected = naive_backward(in, loss).gk;
  loss.o[10 * 32] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> found =
      run_kernel(in, c, kernel_of(problem, walks_variant(problem, {})), loss).dgk;
  for (std::size_t i = 32 * 20; i < found.size(); ++i)
    if (!(std::abs(found[i] - expected[i]) <= 0.05))
      FAIL_CHECK("token " << i / 20 << ", channel " << i % 20 << ": " << found[i] << " for " << expected[i]);
}

TEST_CASE("NaN gates stay in their sequence and head, going back too") {
  const Problem problem = backward_of(32, 32);
  expect_right(problem, {.tokens = 150, .heads = 2, .cu_seqlens = {0, 65, 140}, .nan_gate = true},
               kernel_of(problem, walks_variant(problem, {})));
}

TEST_CASE(
    "gradients of v by warpgroups beside those of q by warps, of value channels that no warpgroup holds",
    "[wide]") {
  const Problem problem = backward_of(64, 136);
  for (const int segments : {1, 2}) {
    const Variant chosen = walks_variant(
        problem,
        {.segments = segments, .chunk = 16, .tile_k = 64, .tile_v = 128, .warps = 4, .producers = 4});
    const LaunchKernel kernel = kernel_of(problem, chosen);
    for (const Gates gates : {Gates::one, Gates::resets})
      expect_right(problem, {.tokens = 100, .cu_seqlens = {0, 33, 97}, .gates = gates}, kernel);
  }
}

TEST_CASE("gradients of v by two blocks that share out the key channels", "[wide]") {
  const Problem problem = backward_of(256, 128);
  const LaunchKernel kernel =
      kernel_of(problem, walks_variant(problem, {.tile_k = 128, .tile_v = 128, .warps = 8, .producers = 4}));
  for (const Gates gates : {Gates::one, Gates::resets})
    expect_right(problem, {.tokens = 100, .cu_seqlens = {0, 33, 97}, .gates = gates}, kernel);
}
