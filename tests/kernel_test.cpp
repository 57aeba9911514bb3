// The kernels on the emulator against the fp64 reference: every family, every path that gates can force a chunk into,
// every layout and odd size. A variant is compiled once and then serves many cases.
#include <cmath>
#include <limits>
#include <utility>

#include "catch.h"
#include "gla/generator/architecture.h"
#include "gla/generator/space.h"
#include "kernel_case.h"
#include "random.h"
#include "small_variants.h"

using namespace gla;
using namespace gla::test;
using emulator::Options;
using emulator::Order;

namespace {

const std::vector<std::int64_t> kOddLengths{0, 0, 1, 16, 17, 50, 63};

/// Small outputs are small samples, so they are held to the looser class; see the test of the standard bars.
void expect_right(const Problem& problem, const KernelCase& c, const LaunchKernel& kernel) {
  INFO(to_string(problem) << ", " << to_string(c.gates) << ", T=" << c.tokens << ", order "
                          << static_cast<int>(c.options.order));
  CHECK(complaint(run_case(problem, c, kernel), accuracy_bar(problem, c.gates, Accuracy::fast)) == "");
}

/// All gates in all orders, on dense and on packed sequences, with and without what is optional.
void expect_right_everywhere(const Problem& problem, const Variant& tested) {
  INFO(to_string(tested));
  const LaunchKernel kernel = kernel_of(problem, tested);
  std::uint64_t seed = 1;
  for (const Gates gates : kAllGates) {
    const Options options{static_cast<Order>(seed % 3), seed};
    KernelCase dense{.batch = 2, .tokens = 75, .heads = 2, .gates = gates, .seed = seed, .options = options};
    expect_right(problem, dense, kernel);
    KernelCase packed{.tokens = 66, .heads = 2, .cu_seqlens = kOddLengths, .gates = gates, .seed = seed};
    packed.cu_seqlens_is_int64 = seed % 2 == 0;
    packed.options = {static_cast<Order>((seed + 1) % 3), seed};
    expect_right(problem, packed, kernel);
    ++seed;
  }
  expect_right(problem, {.tokens = 1, .initial_state = false}, kernel);
  expect_right(problem, {.batch = 3, .tokens = 40, .final_state = false, .scale = 0.5f}, kernel);
}

}  // namespace

TEST_CASE("fused chunk kernels are right for every dtype") {
  const Problem bf16 = chunk_of(64, 64);
  expect_right_everywhere(bf16, chunk_variant(bf16, {.chunk = 64, .tile_v = 64, .warps_v = 4, .warps_k = 1}));
  Problem wide_gates = bf16;
  wide_gates.gate_dtype = DType::fp32;
  expect_right_everywhere(wide_gates,
                          chunk_variant(wide_gates, {.chunk = 16, .tile_v = 64, .state_parts = 2}));
  const Problem fp16 = chunk_of(64, 64, DType::fp16);
  expect_right_everywhere(fp16,
                          chunk_variant(fp16, {.tile_v = 64, .warps_k = 4, .stages = 1, .state_parts = 2}));
  const Problem fp32 = chunk_of(64, 64, DType::fp32);
  expect_right_everywhere(fp32, chunk_variant(fp32, {.tile_v = 64, .score_parts = 3, .state_parts = 3}));
}

TEST_CASE("chunk kernels are right for head dims that are no multiple of 16, and for K other than V") {
  const Problem k60 = chunk_of(60, 100, DType::bf16);
  expect_right_everywhere(k60, chunk_variant(k60, {.tile_v = 64}));
  const Problem k100 = chunk_of(100, 60, DType::fp32);
  expect_right_everywhere(
      k100,
      chunk_variant(k100, {.tile_v = 64, .warps_v = 4, .warps_k = 1, .score_parts = 3, .state_parts = 3}));
  const Problem odd = chunk_of(17, 33, DType::bf16);
  expect_right_everywhere(odd, chunk_variant(odd, {.stages = 1, .async_copy = 0}));
}

TEST_CASE("chunk kernels are right for grouped queries, in one block and in several") {
  const Problem problem = chunk_of(32, 64, DType::bf16, 4);
  for (const int group_tile : {4, 2, 1}) {
    const std::string family = group_tile == problem.group ? "fused" : "segmented segments=2";
    expect_right_everywhere(
        problem,
        chunk_variant(problem, {.family = family, .tile_v = 64, .group_tile = group_tile, .stages = 1}));
  }
}

TEST_CASE("chunk kernels are right without gates") {
  Problem problem = chunk_of(32, 32);
  problem.gate_k = false;
  expect_right_everywhere(problem, chunk_variant(problem, {}));
}

TEST_CASE("segmented chunk kernels are right, whatever falls into a segment") {
  for (const int segments : {2, 4}) {
    const std::string family = "segmented segments=" + std::to_string(segments);
    Problem problem = chunk_of(64, 32, DType::bf16);
    expect_right_everywhere(problem, chunk_variant(problem, {.family = family, .chunk = 16}));
    problem = chunk_of(60, 32, DType::fp16, 2);
    problem.state_v_first = true;
    expect_right_everywhere(
        problem, chunk_variant(problem, {.family = family, .chunk = 16, .group_tile = 2, .state_parts = 2}));
  }
}

TEST_CASE("decode kernels are right for every dtype, direction and gate") {
  Problem problem = recurrent_of(64, 64, DType::bf16, 4);
  expect_right_everywhere(problem, legal(problem, "decode lanes_k=8 rows_v=2 warps=2 stages=2 min_blocks=1"));
  problem = recurrent_of(60, 100, DType::bf16);
  problem.gate_v = problem.reverse = true;
  problem.state_dtype = DType::bf16;
  expect_right_everywhere(problem,
                          legal(problem, "decode lanes_k=16 rows_v=1 warps=4 stages=1 min_blocks=1"));
  problem = recurrent_of(32, 48, DType::fp16);
  problem.gate_k = false;
  problem.gate_v = problem.state_v_first = true;
  expect_right_everywhere(problem, legal(problem, "decode lanes_k=8 rows_v=4 warps=1 stages=2 min_blocks=1"));
  problem = recurrent_of(17, 9, DType::fp32);
  problem.reverse = problem.state_v_first = true;
  expect_right_everywhere(problem, legal(problem, "decode lanes_k=4 rows_v=1 warps=2 stages=2 min_blocks=1"));
}

TEST_CASE("variants drawn from the spaces are right") {
  const Architecture architecture = *parse_architecture("sm_90a");
  const Problem problems[] = {chunk_of(32, 64, DType::bf16, 2), chunk_of(48, 32, DType::fp16),
                              chunk_of(32, 48, DType::fp32), recurrent_of(48, 40, DType::bf16)};
  for (const Problem& problem : problems) {
    const std::vector<Variant> variants = space(problem, architecture);
    REQUIRE(!variants.empty());
    for (unsigned long long draw = 0; draw < 5; ++draw) {
      const Variant& drawn = variants[random_bits(2026, draw) % variants.size()];
      INFO(to_string(drawn));
      const LaunchKernel kernel = kernel_of(problem, drawn);
      expect_right(problem, {.tokens = 150, .gates = Gates::sixteenth, .options = {Order::random, draw}},
                   kernel);
      expect_right(problem, {.tokens = 40, .gates = Gates::resets, .options = {Order::backward, draw}},
                   kernel);
    }
  }
}

TEST_CASE("variants meant for standard accuracy reach it at the size that it is stated for") {
  const Problem bf16 = chunk_of(128, 128, DType::bf16);
  const Problem fp16 = chunk_of(128, 128, DType::fp16);
  const Problem fp32 = chunk_of(128, 128, DType::fp32);
  const std::pair<Problem, Variant> tested[] = {
      {bf16, chunk_variant(bf16, {.chunk = 64, .tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 1})},
      {fp16, chunk_variant(fp16, {.tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 1, .state_parts = 2})},
      {fp32,
       chunk_variant(
           fp32,
           {.tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 1, .score_parts = 3, .state_parts = 3})}};
  for (const auto& [problem, chosen] : tested) {
    CHECK(meant_for(problem, chosen, Accuracy::standard));
    const LaunchKernel kernel = kernel_of(problem, chosen);
    for (const Gates gates : kAllGates) {
      INFO(to_string(problem) << ", " << to_string(gates));
      const KernelCase c{.tokens = 512, .heads = 2, .gates = gates};
      CHECK(complaint(run_case(problem, c, kernel), accuracy_bar(problem, gates, Accuracy::standard)) == "");
    }
  }
}

TEST_CASE("one part of the state is enough where the last few tokens are most of it") {
  const Problem problem = chunk_of(64, 64);
  for (const int chunk : {16, 32}) {
    const Variant chosen = chunk_variant(problem, {.chunk = chunk, .tile_v = 64});
    const KernelCase c{.tokens = 500, .heads = 2, .gates = Gates::ten, .seed = 102};
    expect_right(problem, c, kernel_of(problem, chosen));
  }
}

TEST_CASE("ordinary gates stay on the fast path and steep ones leave it") {
  const Problem problem = chunk_of(32, 32);
  const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, {}));
  const auto paths = [&](Gates gates) {
    const KernelOutcome outcome = run_case(problem, {.tokens = 64, .heads = 2, .gates = gates}, kernel);
    return std::vector(outcome.paths, outcome.paths + 3);
  };
  CHECK(paths(Gates::sixteenth) == std::vector<std::int64_t>{4, 0, 0});
  CHECK(paths(Gates::one) == std::vector<std::int64_t>{4, 0, 0});
  CHECK(paths(Gates::hundred) == std::vector<std::int64_t>{0, 0, 8});
}

TEST_CASE("tensors may lie head by head") {
  Problem problem = chunk_of(32, 48, DType::bf16, 2);
  const KernelCase c{.batch = 2, .tokens = 70, .heads = 3, .head_major = true};
  expect_right(problem, c,
               kernel_of(problem, chunk_variant(
                                      problem, {.tile_v = 16, .warps_v = 1, .warps_k = 2, .group_tile = 2})));
  problem.operation = Operation::recurrent_forward;
  problem.gate_v = true;
  expect_right(problem, c,
               kernel_of(problem, legal(problem, "decode lanes_k=4 rows_v=2 warps=2 stages=2 min_blocks=1")));
}

TEST_CASE("the final state may take the initial state's place") {
  for (const bool v_first : {false, true}) {
    Problem problem = chunk_of(32, 48, DType::bf16, 2);
    problem.state_v_first = v_first;
    const KernelCase c{.batch = 2, .tokens = 70, .heads = 2, .in_place = true};
    const ChunkChoice whole_group{.tile_v = 16, .warps_v = 1, .warps_k = 2, .group_tile = 2};
    expect_right(problem, c, kernel_of(problem, chunk_variant(problem, whole_group)));
    ChunkChoice segmented = whole_group;
    segmented.family = "segmented segments=2";
    segmented.group_tile = 1;
    expect_right(problem, c, kernel_of(problem, chunk_variant(problem, segmented)));
    problem.operation = Operation::recurrent_forward;
    expect_right(
        problem, c,
        kernel_of(problem, legal(problem, "decode lanes_k=4 rows_v=2 warps=2 stages=2 min_blocks=1")));
  }
}

TEST_CASE("a NaN stays in its sequence and head") {
  for (const int chunk : {16, 32}) {
    const Problem problem = chunk_of(32, 32);
    const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, {.chunk = chunk}));
    const KernelCase c{.tokens = 70, .heads = 2, .cu_seqlens = {0, 20, 50, 70}};
    ReferenceInput in = make_inputs(problem, c);
    const KernelResult clean = run_kernel(in, c, kernel);
    for (std::vector<float>* stained : {&in.q, &in.k, &in.v, &in.gk}) {
      const std::size_t element = 25 * 2 * 32;  // token 25 (of sequence 1), head 0
      const float before = std::exchange((*stained)[element], std::numeric_limits<float>::quiet_NaN());
      const KernelResult result = run_kernel(in, c, kernel);
      (*stained)[element] = before;
      int changed = 0;
      for (std::size_t i = 0; i < clean.o.size(); ++i) {
        const bool own = i / 64 >= 20 && i / 64 < 50 && i / 32 % 2 == 0;
        changed += !own && result.o[i] != clean.o[i] ? 1 : 0;
      }
      for (std::size_t i = 0; i < clean.final_state.size(); ++i) {
        const bool own = i / (32 * 32) == 2;
        changed += !own && result.final_state[i] != clean.final_state[i] ? 1 : 0;
      }
      CHECK(changed == 0);
      CHECK(std::isnan(result.o[element]));
      CHECK(std::isnan(result.final_state[2 * 32 * 32]) == (stained != &in.q));
    }
  }
}

TEST_CASE("a sequence may be cut and continued from its state") {
  Problem problem = chunk_of(32, 32);
  const KernelCase c{.tokens = 80};
  const ReferenceInput whole = make_inputs(problem, c);
  const auto part = [&](std::int64_t begin, std::int64_t end) {
    ReferenceInput in = whole;
    in.tokens = end - begin;
    for (std::vector<float>* each : {&in.q, &in.k, &in.v, &in.gk})
      *each = {each->begin() + begin * 32, each->begin() + end * 32};
    return in;
  };
  const auto expect_same = [&](const LaunchKernel& kernel) {
    KernelResult joined = run_kernel(part(0, 37), c, kernel);
    ReferenceInput rest = part(37, 80);
    rest.initial_state = joined.final_state;
    const KernelResult second = run_kernel(rest, c, kernel);
    joined.o.insert(joined.o.end(), second.o.begin(), second.o.end());
    joined.final_state = second.final_state;
    CHECK(complaint(judge(whole, joined), accuracy_bar(problem, c.gates, Accuracy::fast)) == "");
  };
  expect_same(kernel_of(problem, chunk_variant(problem, {})));
  problem.operation = Operation::recurrent_forward;
  expect_same(kernel_of(problem, legal(problem, "decode lanes_k=4 rows_v=2 warps=2 stages=2 min_blocks=1")));
}
