// What kernels owe beyond the cases of covering_test: the standard accuracy at the size that it is stated for, the path
// that gates ask for, tensors and states that lie elsewhere, and NaN that stays where it is.
#include <cmath>
#include <limits>
#include <utility>

#include "catch.h"
#include "gla/generator/space.h"
#include "kernel_case.h"
#include "small_variants.h"

using namespace gla;
using namespace gla::test;

TEST_CASE("variants meant for standard accuracy reach it at the size that it is stated for", "[wide]") {
  const Problem bf16 = chunk_of(128, 128);
  const Problem fp16 = chunk_of(128, 128, DType::fp16);
  const Problem fp32 = chunk_of(128, 128, DType::fp32);
  const std::pair<Problem, Variant> tested[] = {
      {bf16, chunk_variant(bf16, {.chunk = 64, .tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 1})},
      {bf16, chunk_variant(bf16, {.chunk = 64, .tile_v = 128, .warps_v = 8, .warps_k = 1, .producers = 8})},
      {fp16, chunk_variant(fp16, {.tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 1, .state_parts = 2})},
      {fp32,
       chunk_variant(
           fp32,
           {.tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 1, .score_parts = 3, .state_parts = 3})}};
  for (const auto& [problem, chosen] : tested) {
    CHECK(meant_for(problem, chosen, Accuracy::standard));
    const LaunchKernel kernel = kernel_of(problem, chosen);
    for (const Gates gates : {Gates::sixteenth, Gates::one, Gates::resets}) {
      INFO(to_string(problem) << ", " << to_string(gates));
      const KernelCase c{.tokens = 512, .gates = gates};
      CHECK(complaint(run_case(problem, c, kernel), accuracy_bar(problem, gates, Accuracy::standard)) == "");
    }
    // Steep for chunks of 64 and not for those of 32.
    const KernelCase c{.tokens = 512, .gates = Gates::one};
    ReferenceInput twice = make_inputs(problem, c);
    for (float& gate : twice.gk) gate *= 2;
    CHECK(complaint(judge(twice, run_kernel(twice, c, kernel)),
                    accuracy_bar(problem, Gates::one, Accuracy::standard)) == "");
  }
}

TEST_CASE("one part of the state is enough where the last few tokens are most of it", "[wide]") {
  const Problem problem = chunk_of(64, 64);
  for (const int chunk : {16, 32}) {
    const Variant chosen = chunk_variant(problem, {.chunk = chunk, .tile_v = 64});
    const KernelCase c{.tokens = 500, .heads = 2, .gates = Gates::ten, .seed = 102};
    expect_right(problem, c, kernel_of(problem, chosen));
  }
}

TEST_CASE("what a segment takes over is exact where gates sum up to thousands", "[wide]") {
  const Problem problem = small_problem(Family::overlapped, DType::fp32);
  for (const int chunk : {16, 64}) {
    const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, {.family = "overlapped segments=2",
                                                                           .chunk = chunk,
                                                                           .score_parts = 3,
                                                                           .state_parts = 3}));
    // Sequences of a chunk and one token, of whose gate something of what the chunk has left comes through.
    KernelCase c{.tokens = 4 * (chunk + 1), .gates = Gates::hundred};
    for (int n = 0; n <= 4; ++n) c.cu_seqlens.push_back(n * (chunk + 1));
    ReferenceInput in = make_inputs(problem, c);
    const std::size_t row = in.gk.size() / static_cast<std::size_t>(c.tokens);
    for (std::size_t i = 0; i < in.gk.size(); ++i)
      if (i / row % (chunk + 1) == static_cast<std::size_t>(chunk)) in.gk[i] = -0.5f;
    INFO("chunks of " << chunk);
    CHECK(complaint(judge(in, run_kernel(in, c, kernel)), {.o = 2e-6, .final_state = 2e-6}) == "");
  }
}

TEST_CASE("ordinary gates stay on the fast path and steep ones leave it") {
  const Problem problem = chunk_of(32, 32);
  const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, {}));
  const auto paths = [&](Gates gates) {
    const KernelOutcome outcome = run_case(problem, {.tokens = 64, .heads = 2, .gates = gates}, kernel);
    return std::vector(outcome.paths, outcome.paths + kPathCounters);
  };
  CHECK(paths(Gates::sixteenth) == std::vector<std::int64_t>{4, 0});
  CHECK(paths(Gates::one) == std::vector<std::int64_t>{4, 0});
  CHECK(paths(Gates::hundred) == std::vector<std::int64_t>{0, 8});
}

/// Two segments of a group's query heads in blocks of their own, with gates of another dtype.
Problem grouped_problem() {
  Problem grouped = chunk_of(64, 64, DType::bf16, 2);
  grouped.gate_dtype = DType::fp32;
  return grouped;
}
const ChunkChoice kGroupedPipeline{.family = "segmented segments=2", .warps_v = 4, .producers = 4};

/// In a cluster, whose second block has key channels to spare.
Problem clustered_problem() {
  Problem v_first = chunk_of(128, 128);
  v_first.state_v_first = true;
  return v_first;
}
const ChunkChoice kClusteredPipeline{.family = "overlapped segments=2",
                                     .chunk = 64,
                                     .tile_v = 128,
                                     .warps_v = 8,
                                     .producers = 8,
                                     .cluster = 2};

TEST_CASE("a pipeline of producers and warpgroups does what all warps together do", "[wide]") {
  const auto tested = [](const Problem& problem, ChunkChoice choice, const KernelCase& c) {
    choice.warps_k = 1;
    if (choice.cluster == 1) choice.tile_v = 16 * choice.warps_v;
    const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, choice));
    for (const Gates gates : {Gates::sixteenth, Gates::ten}) {
      if (!problem.gate_k && gates != Gates::ten) continue;
      KernelCase with_gates = c;
      with_gates.gates = gates;
      expect_right(problem, with_gates, kernel);
    }
    expect_right(problem, {.batch = 4, .tokens = 1, .heads = 4}, kernel);
  };
  const KernelCase dense{.batch = 2, .tokens = 150}, packed{.tokens = 150, .cu_seqlens = {0, 0, 1, 65, 140}};
  // Whole chunks of 64, padded channels on both sides; a tile and a half of V, one part of the scores.
  tested(chunk_of(56, 120), {.chunk = 64, .warps_v = 8, .producers = 8}, packed);
  tested(chunk_of(64, 104), {.chunk = 64, .warps_v = 4, .score_parts = 1, .producers = 4}, dense);
  // Tight stages: after a lead, and with one part of the scores.
  const ChunkChoice tight{
      .family = "overlapped segments=2", .chunk = 64, .warps_v = 8, .stages = 3, .producers = 8};
  tested(chunk_of(128, 128), tight, {.tokens = 260});
  tested(chunk_of(128, 128), {.chunk = 64, .warps_v = 8, .stages = 3, .score_parts = 1, .producers = 8},
         packed);
  Problem wide_gates = chunk_of(128, 128);
  wide_gates.gate_dtype = DType::fp32;
  tested(wide_gates, {.chunk = 64, .warps_v = 4, .producers = 8}, {.tokens = 200});
  Problem ungated_and_tight = chunk_of(128, 128);
  ungated_and_tight.gate_k = false;
  tested(ungated_and_tight, {.chunk = 64, .warps_v = 4, .stages = 3, .producers = 8}, packed);
  tested(grouped_problem(), kGroupedPipeline, packed);
  // The queries of a group in one block, with pairs of heads for two warpgroups of producers; with one pair and one part of the scores.
  const ChunkChoice four{.family = "segmented segments=2", .warps_v = 8, .group_tile = 4, .producers = 8};
  tested(chunk_of(128, 128, DType::bf16, 4), four, packed);
  const ChunkChoice two{.warps_v = 4, .group_tile = 2, .score_parts = 1, .producers = 4};
  tested(chunk_of(64, 64, DType::bf16, 2), two, packed);
  Problem ungated = chunk_of(64, 64);
  ungated.gate_k = false;
  tested(ungated, {.warps_v = 4, .stages = 3, .producers = 8}, packed);
  // Two teams of producers were those; three.
  const ChunkChoice three_teams{
      .family = "overlapped segments=3", .chunk = 64, .warps_v = 4, .stages = 4, .producers = 12};
  tested(chunk_of(64, 64), three_teams, packed);
  tested(chunk_of(256, 128), {.warps_v = 8, .producers = 4}, dense);
  // Clusters. A second tile that has no value channels for the second block, which has key channels to spare; a second
  // block with 8 key channels, and two blocks of value channels to a warp.
  tested(clustered_problem(), kClusteredPipeline, packed);
  Problem odd = chunk_of(200, 136);
  odd.gate_dtype = DType::fp32;
  tested(odd, {.family = "segmented segments=2", .tile_v = 128, .warps_v = 8, .producers = 4, .cluster = 2},
         packed);
  tested(chunk_of(136, 248), {.tile_v = 256, .warps_v = 8, .stages = 3, .producers = 4, .cluster = 2},
         {.tokens = 100});
  Problem ungated_in_cluster = chunk_of(128, 128);
  ungated_in_cluster.gate_k = false;
  tested(ungated_in_cluster, {.tile_v = 128, .warps_v = 8, .score_parts = 1, .producers = 4, .cluster = 2},
         dense);
}

TEST_CASE(
    "teams of producers do not meet each other's warps where one makes scores and the next a steep chunk",
    "[wide]") {
  const Problem problem = chunk_of(64, 64, DType::bf16, 2);
  for (const int teams : {2, 3}) {
    const Variant variant = chunk_variant(
        problem,
        {.tile_v = 64, .warps_v = 4, .warps_k = 1, .group_tile = 2, .stages = teams, .producers = 4 * teams});
    const int chunk = variant[Parameter::chunk];
    const KernelCase c{.tokens = 8 * chunk, .heads = 2, .gates = Gates::sixteenth};
    ReferenceInput in = make_inputs(problem, c);
    const std::size_t row = in.gk.size() / static_cast<std::size_t>(c.tokens);
    for (std::size_t i = 0; i < in.gk.size(); ++i)
      if (i / row / static_cast<std::size_t>(chunk) % 2 == 1) in.gk[i] *= 1000;
    INFO(teams << " teams");
    CHECK(complaint(judge(in, run_kernel(in, c, kernel_of(problem, variant))),
                    accuracy_bar(problem, c.gates, Accuracy::fast)) == "");
  }
}

TEST_CASE("scores of a pipeline are as exact where fp16 does not hold the operands", "[wide]") {
  constexpr std::int64_t kTokens = 640;
  struct Inputs {
    std::string_view name;
    void (*change)(ReferenceInput& in, std::size_t element, int token, int channel);
    int made_otherwise;  ///< chunks of 32 of these 20
  };
  // A walk's last chunk is made in parts in any case; after its first one it waits for 8, after chunk 8 until 24.
  const Inputs tested[] = {
      {"as they are", [](ReferenceInput&, std::size_t, int, int) {}, 0},
      {"small queries", [](ReferenceInput& in, std::size_t i, int, int) { in.q[i] *= 0x1p-20f; }, 2},
      {"queries a little too small", [](ReferenceInput& in, std::size_t i, int, int) { in.q[i] *= 0x1p-13f; },
       2},
      {"small keys", [](ReferenceInput& in, std::size_t i, int, int) { in.k[i] *= 0x1p-20f; }, 2},
      {"great keys", [](ReferenceInput& in, std::size_t i, int, int) { in.k[i] *= 0x1p16f; }, 2},
      {"great queries", [](ReferenceInput& in, std::size_t i, int, int) { in.q[i] *= 0x1p20f; }, 2},
      {"a small key of a great value",
       [](ReferenceInput& in, std::size_t i, int token, int) {
         if (token != 70) return;
         in.k[i] *= 0x1p-24f;
         in.v[i] *= 0x1p24f;
       },
       1},
      {"gates that fall far in some channels from the sixth chunk on",
       [](ReferenceInput& in, std::size_t i, int token, int channel) {
         if (channel < 16 && token >= 160) in.gk[i] = -1;
       },
       2},
      {"gates that fall far in all channels",
       [](ReferenceInput& in, std::size_t i, int, int) { in.gk[i] = -1; }, 0}};
  const Problem problem = chunk_of(64, 64);
  for (const int producers : {4, 8}) {
    const LaunchKernel kernel = kernel_of(
        problem,
        chunk_variant(problem,
                      {.tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 3, .producers = producers}));
    for (const Inputs& inputs : tested) {
      INFO(inputs.name << ", producers=" << producers);
      const KernelCase c{.tokens = kTokens, .heads = 1, .gates = Gates::sixteenth};
      ReferenceInput in = make_inputs(problem, c);
      in.initial_state.assign(in.initial_state.size(), 0.0f);  // keys are what outputs come of
      for (std::size_t i = 0; i < in.k.size(); ++i)
        inputs.change(in, i, static_cast<int>(i) / 64, static_cast<int>(i) % 64);
      const KernelOutcome outcome = judge(in, run_kernel(in, c, kernel));
      CHECK(complaint(outcome, accuracy_bar(problem, c.gates, Accuracy::standard)) == "");
      // Two teams each find out by themselves.
      if (producers == 4) CHECK(outcome.paths[1] == 2 * inputs.made_otherwise);
    }
  }
}

TEST_CASE("a chunk of a pipeline may be steep in some channels or in all") {
  constexpr float kReset = -std::numeric_limits<float>::infinity();
  constexpr std::int64_t kTokens = 300, kHeads = 1;
  const auto tested = [](const Problem& problem, ChunkChoice choice) {
    choice.warps_k = 1;
    if (choice.cluster == 1) choice.tile_v = 16 * choice.warps_v;
    const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, choice));
    const int length = choice.chunk, channels = problem.head_dim_k;
    // What becomes of the gate of a token and channel.
    using Change = float (*)(float gate, int token, int channel, int chunk);
    const Change changes[] = {
        [](float gate, int, int channel, int) { return channel % 40 < 3 ? 30 * gate : gate; },
        [](float gate, int token, int, int chunk) { return token / chunk == 2 ? 2 * gate - 5 : gate; },
        [](float gate, int token, int channel, int) { return token == 0 || channel == 1 ? kReset : gate; },
        [](float, int, int, int) { return kReset; },
        // A reset in the middle of every chunk: one pivot, but no one factor of the state between two of them.
        [](float gate, int token, int channel, int chunk) {
          return token % chunk == chunk / 2 && channel % 3 == 0 ? kReset : gate / 16;
        },
        [](float gate, int token, int channel, int chunk) {
          return token % (2 * chunk) == 9 ? kReset : channel < 20 && token > 130 ? 20 * gate : gate / 16;
        },
        // Steep in one channel where another one grows.
        [](float gate, int token, int channel, int) {
          return channel == 3 ? 5 * gate : channel == 5 && token > 70 && token < 90 ? 3.0f : gate / 16;
        }};
    for (const Change& change : changes) {
      INFO(to_string(problem) << ", chunk " << length << ", change " << &change - changes);
      const KernelCase c{.tokens = kTokens, .heads = kHeads, .gates = Gates::one};
      ReferenceInput in = make_inputs(problem, c);
      for (std::size_t i = 0; i < in.gk.size(); ++i) {
        const auto row = static_cast<int>(i) / channels;
        in.gk[i] = change(in.gk[i], row / static_cast<int>(kHeads), static_cast<int>(i) % channels, length);
      }
      const KernelOutcome outcome = judge(in, run_kernel(in, c, kernel));
      CHECK(complaint(outcome, accuracy_bar(problem, Gates::resets, Accuracy::fast)) == "");
      CHECK(outcome.paths[1] > 0);
    }
  };
  tested(chunk_of(128, 128), {.chunk = 64, .warps_v = 8, .producers = 8});
  tested(grouped_problem(), kGroupedPipeline);
  tested(clustered_problem(), kClusteredPipeline);
}

TEST_CASE("each segment finds its sequence among many packed ones, short, empty and long") {
  const Problem problem = small_problem(Family::segmented, DType::bf16);
  const ChunkChoice choice{.family = "segmented segments=3", .tile_v = 32};
  KernelCase c{.cu_seqlens = {0}};
  for (int n = 0; n < 75; ++n) c.cu_seqlens.push_back(c.cu_seqlens.back() + (n == 40 ? 300 : n * 7 % 23));
  c.tokens = c.cu_seqlens.back();
  const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, choice));
  expect_right(problem, c, kernel);
  c.in_place = true;
  expect_right(problem, c, kernel);
}

TEST_CASE("overlapping segments do what one walk does, to the bit", "[wide]") {
  const auto tested = [](const Problem& problem, ChunkChoice choice) {
    const LaunchKernel whole = kernel_of(problem, chunk_variant(problem, choice));
    for (const char* family : {"overlapped segments=2", "overlapped segments=3"}) {
      choice.family = family;
      const LaunchKernel overlapped = kernel_of(problem, chunk_variant(problem, choice));
      for (const KernelCase& c : {KernelCase{.batch = 2, .tokens = 150},
                                  KernelCase{.tokens = 230, .cu_seqlens = {0, 0, 1, 65, 230}},
                                  KernelCase{.batch = 2, .tokens = 70, .in_place = true}}) {
        INFO(to_string(problem) << ", " << family << ", T=" << c.tokens);
        const ReferenceInput in = make_inputs(problem, c);
        const KernelResult expected = run_kernel(in, c, whole), found = run_kernel(in, c, overlapped);
        CHECK((found.o == expected.o));
        CHECK((found.final_state == expected.final_state));
      }
    }
  };
  tested(chunk_of(32, 48, DType::bf16, 2), {.tile_v = 16, .warps_v = 1, .group_tile = 2});
  tested(chunk_of(64, 64), {.tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 3, .producers = 8});
}

TEST_CASE("walks in legs, whatever the order in which blocks run", "[wide]") {
  const auto tested = [](const Problem& problem, const ChunkChoice& choice) {
    const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, choice));
    for (const int legs : {2, 3, 7}) {
      for (const Gates gates : {Gates::sixteenth, Gates::resets})
        expect_right(problem, {.batch = 2, .tokens = 230, .heads = 2, .gates = gates, .legs = legs}, kernel);
      expect_right(problem, {.tokens = 150, .in_place = true, .legs = legs}, kernel);
    }
  };
  tested(chunk_of(32, 48, DType::bf16, 2), {.tile_v = 16, .warps_v = 1, .group_tile = 2});
  tested(chunk_of(64, 64), {.tile_v = 64, .warps_v = 4, .warps_k = 1, .stages = 3, .producers = 8});
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
