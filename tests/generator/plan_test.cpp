// Launch plans: how many launches, how many blocks, how much workspace, and that all of it is what the kernels rely on.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "backward_args.h"
#include "catch.h"
#include "chunk_shape.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"
#include "problems.h"

using namespace gla;
using namespace gla::test;

namespace {

const std::string kChunkParameters =
    " chunk=32 tile_v=64 warps_v=2 warps_k=2 group_tile=1 stages=1 score_parts=2 state_parts=2 async_copy=1 "
    "producers=0 cluster=1 min_blocks=1";

const std::string kWalkParameters =
    " chunk=32 tile_k=64 tile_v=32 warps=4 stages=1 score_parts=2 state_parts=2 async_copy=1 producers=0";

Variant fused() {
  return variant("fused" + kChunkParameters);
}
Variant overlapped(int segments) {
  return variant("overlapped segments=" + std::to_string(segments) + kChunkParameters);
}
Variant segmented(int segments) {
  return variant("segmented segments=" + std::to_string(segments) + kChunkParameters);
}

/// Whether shape_of() says what it launches.
bool is_chunk_forward(const Variant& one) {
  return one.family == Family::fused || one.family == Family::overlapped || one.family == Family::segmented;
}

/// Every `step`th variant of a space.
std::vector<Variant> some_variants(const Problem& problem, std::size_t step) {
  std::vector<Variant> taken;
  const std::vector<Variant> all = space(problem, architecture("sm_90a"));
  for (std::size_t i = 0; i < all.size(); i += step) taken.push_back(all[i]);
  return taken;
}

std::vector<Problem> several_problems() {
  Problem ungated = chunk_of(64, 37, DType::fp16);
  ungated.gate_k = false;
  Problem fp32_gates = chunk_of(256, 128, DType::bf16, 2);
  fp32_gates.gate_dtype = DType::fp32;
  return {chunk_of(128, 128),  chunk_of(60, 100, DType::fp32, 4), ungated, fp32_gates, recurrent_of(128, 256),
          backward_of(64, 100)};
}

}  // namespace

TEST_CASE("family fused is one launch of a block per sequence, head and value tile, without a workspace") {
  for (const int group : {1, 4}) {
    const Problem problem = chunk_of(128, 200, DType::bf16, group);
    const Variant whole_groups = with(fused(), Parameter::group_tile, group);
    const LaunchPlan found = plan(problem, whole_groups, {3, 5, 1000, false});
    REQUIRE(found.launches.size() == 1);
    CHECK(found.launches[0].entry == 0);
    CHECK(found.launches[0].grid == 3 * 5 * 4);  // 200 channels in tiles of 64
    CHECK(found.launches[0].threads == 128);
    CHECK(found.workspace_bytes == 0);
    CHECK(found.segment_tokens == 0);
    CHECK(found.segments == 0);
    CHECK(found.decays_offset == 0);
    CHECK(plan(problem, whole_groups, {3, 5, 1, false}).launches[0].grid == 3 * 5 * 4);
    CHECK(plan(problem, whole_groups, {3, 5, 1000, true}).launches[0].grid == 3 * 5 * 4);
  }
}

TEST_CASE(
    "family overlapped is one launch of a block per segment, sequence, head and value tile, without a "
    "workspace") {
  const Problem problem = chunk_of(128, 200);
  for (const bool packed : {false, true}) {
    const LaunchPlan found = plan(problem, overlapped(3), {4, 5, 1000, packed});
    REQUIRE(found.launches.size() == 1);
    CHECK(found.launches[0].grid == 3 * 4 * 5 * 4);
    CHECK(found.workspace_bytes == 0);
    CHECK(found.segments == 3);
    CHECK(found.segment_tokens == 0);
  }
}

TEST_CASE("family segmented is three launches: states, scan, outputs") {
  const LaunchPlan found = plan(chunk_of(128, 200), segmented(8), {3, 5, 1000, false});
  REQUIRE(found.launches.size() == 3);
  for (int i = 0; i < 3; ++i) {
    CHECK(found.launches[static_cast<std::size_t>(i)].entry == i);
    CHECK(found.launches[static_cast<std::size_t>(i)].needs == (i == 1 ? kSegmentScan : 0));
  }
  CHECK(found.segment_tokens == 128);  // 125, rounded up to chunks of 32
  CHECK(found.segments == 8);
  CHECK(found.launches[0].grid == 3 * 5 * 4 * 8);
  CHECK(found.launches[1].grid == 3 * 5 * 25);  // 128 * 200 state elements, 4 to a thread, 256 of those
  CHECK(found.launches[2].grid == 3 * 5 * 4 * 8);
}

TEST_CASE(
    "the queries of a group are split over the blocks that make outputs, not over those that make states") {
  const Problem problem = chunk_of(128, 128, DType::bf16, 4);
  const LaunchPlan split = plan(problem, with(segmented(4), Parameter::group_tile, 2), {1, 2, 4096, false});
  CHECK(split.launches[0].grid == 2 * 2 * 4);
  CHECK(split.launches[2].grid == 2 * 2 * 4 * 2);
}

TEST_CASE("the last segments of a batch's sequences are as short as the room asks that the others leave") {
  const Problem problem = chunk_of(128, 128, DType::bf16, 4);
  const auto plan_of = [&](int segments, std::int64_t sequences, std::int64_t heads, int multiprocessors) {
    return plan(problem,
                variant("segmented segments=" + std::to_string(segments) +
                        " chunk=32 tile_v=128 warps_v=8 warps_k=1 group_tile=4 stages=2 score_parts=2 "
                        "state_parts=1 async_copy=1 producers=8 cluster=1 min_blocks=1"),
                {sequences, heads, 8192, false}, {.multiprocessors = multiprocessors});
  };
  // 128 chunks of 64, as the walk for states has: five segments of 24 for 120 blocks, and two of 8, one after the other, on each
  // multiprocessor that is left.
  const LaunchPlan found = plan_of(6, 1, 24, 132);
  CHECK(found.segment_tokens == 24 * 64);
  CHECK(found.segments == 6);
  CHECK(found.launches[2].grid == 6 * 24);
  CHECK(plan_of(6, 3, 8, 132) == plan_of(6, 1, 24, 132));
  CHECK(plan_of(3, 1, 48, 132).segment_tokens == 52 * 64);  // two for 96 blocks, two times 24 for 36
  CHECK(plan_of(5, 1, 32, 132).segment_tokens == 32 * 64);  // four for 128: nothing is left for 4 to do
  CHECK(plan_of(5, 1, 32, 132).segments == 4);
  // All have room at once; whole rounds; the device's size is unknown.
  CHECK(plan_of(5, 1, 24, 132).segment_tokens == 26 * 64);
  CHECK(plan_of(3, 1, 66, 132).segment_tokens == 43 * 64);
  CHECK(plan_of(6, 1, 24, 0).segment_tokens == 22 * 64);
}

TEST_CASE("few segments of dense sequences chain themselves") {
  const Problem problem = chunk_of(128, 128);
  CHECK(plan(problem, segmented(8), {3, 5, 4096, false}).may_chain);
  CHECK_FALSE(plan(problem, segmented(16), {3, 5, 4096, false}).may_chain);
  CHECK_FALSE(plan(problem, segmented(2), {3, 5, 4096, true}).may_chain);
  CHECK(plan(problem, segmented(2), {3, 60, 40960, true}, {.multiprocessors = 132}).may_chain);
  // One may have all tokens.
  CHECK_FALSE(plan(problem, segmented(2), {3, 5, 40960, true}, {.multiprocessors = 132}).may_chain);
}

TEST_CASE("a cluster has as many blocks as its size where one block would be; the scan has no clusters") {
  const Problem problem = chunk_of(128, 200);
  const std::string parameters =
      " chunk=64 tile_v=128 warps_v=8 warps_k=1 group_tile=1 stages=2 score_parts=2 state_parts=1 "
      "async_copy=1 producers=8 cluster=";
  const auto plan_of = [&](const std::string& family, int blocks) {
    return plan(problem, variant(family + parameters + std::to_string(blocks) + " min_blocks=1"),
                {3, 5, 1000, false});
  };
  const LaunchPlan whole = plan_of("fused", 2);
  REQUIRE(whole.launches.size() == 1);
  CHECK(whole.launches[0].cluster == 2);
  CHECK(whole.launches[0].grid == 3 * 5 * 2 * 2);  // 200 channels in tiles of 128
  const LaunchPlan alone = plan_of("segmented segments=4", 1), pairs = plan_of("segmented segments=4", 2);
  REQUIRE(pairs.launches.size() == 3);
  for (const std::size_t i : {0, 2}) {
    CHECK(alone.launches[i].cluster == 1);
    CHECK(pairs.launches[i].cluster == 2);
    CHECK(pairs.launches[i].grid == 2 * alone.launches[i].grid);
  }
  CHECK(pairs.launches[1] == alone.launches[1]);
  CHECK(pairs.launches[1].cluster == 1);
  CHECK(pairs.workspace_bytes == alone.workspace_bytes);
  CHECK(pairs.decays_offset == alone.decays_offset);
}

TEST_CASE("the workspace holds a state and K decays for each head and segment, both parts aligned") {
  const LaunchPlan found = plan(chunk_of(10, 20), segmented(4), {3, 5, 100, false});
  CHECK(found.segments == 4);
  const std::size_t slots = 3 * 4;
  CHECK(found.decays_offset == (slots * 5 * 10 * 20 * 4 + 255) / 256 * 256);
  CHECK(found.workspace_bytes == found.decays_offset + (slots * 5 * 10 * 4 + 255) / 256 * 256);
}

TEST_CASE("packed sequences have blocks and slots for as many segments as their tokens can fill") {
  const LaunchPlan found = plan(chunk_of(16, 16), segmented(4), {7, 1, 1000, true});
  CHECK(found.segment_tokens == 64);  // a quarter of a sequence of 143, in chunks of 32
  CHECK(found.segments == 15);
  CHECK(found.decays_offset == (15 + 7) * 16 * 16 * 4);  // and one for the last segment of each that is cut
  REQUIRE(found.launches.size() == 4);
  CHECK(found.launches[0].entry == 3);  // the schedule comes first
  CHECK(found.launches[0].grid == 1);
  CHECK(found.launches[1].grid == 15);
  CHECK(found.launches[2].grid == 7);  // sequences of more than two segments
  CHECK(found.launches[3].grid == 7 + 15);
  CHECK(found.schedule.walks == 7 + 15);
  CHECK(found.schedule.segments == 15);
  CHECK(found.schedule.offset + (22 + 15 + 7) * 16 <= found.workspace_bytes);
}

TEST_CASE(
    "packed sequences are cut by what there is for each multiprocessor to do, if they can be long beside "
    "that") {
  const Problem problem = chunk_of(128, 128);
  const auto plan_on = [&](int multiprocessors, std::int64_t sequences, std::int64_t heads,
                           std::int64_t tokens) {
    return plan(problem,
                variant("segmented segments=2 chunk=64 tile_v=128 warps_v=8 warps_k=1 group_tile=1 stages=2 "
                        "score_parts=2 state_parts=1 async_copy=1 producers=8 cluster=1 min_blocks=1"),
                {sequences, heads, tokens, true}, {.multiprocessors = multiprocessors});
  };
  const LaunchPlan many = plan_on(132, 64, 16, 64000);
  CHECK(many.schedule.share == 7758);  // 64000 * 16 / 132
  CHECK(many.segment_tokens == 3904);  // half of that, in chunks
  CHECK(many.segments == 16);
  CHECK(plan_on(66, 64, 16, 64000).schedule.share == 15516);
  // States take up to a tenth of the memory.
  CHECK(plan_on(132, 64, 1, 64000).segment_tokens == 768);
  // Heads of one sequence fill the device: the longest begin first, and that is all.
  const LaunchPlan full = plan_on(132, 64, 200, 64000);
  REQUIRE(full.launches.size() == 4);
  CHECK(full.launches[0].grid == 1);
  CHECK(full.launches[1].grid == 0);
  CHECK(full.launches[2].grid == 0);
  CHECK(full.launches[3].grid == 64 * 200);
  CHECK(full.schedule.segments == 0);
  CHECK(full.decays_offset == 0);
  // All begin at once.
  const LaunchPlan few = plan_on(132, 4, 4, 1500);
  REQUIRE(few.launches.size() == 3);
  CHECK(few.schedule.walks == 0);
  CHECK(few.launches[2].grid == 4 * 4);
  // A batch has nothing of that.
  CHECK(plan(problem, segmented(4), {64, 16, 1000, false}, {.multiprocessors = 132}).schedule ==
        SchedulePlan{});
}

TEST_CASE(
    "a group's blocks of a packed sequence may read its initial state late, and so may those of overlapping "
    "segments") {
  const Problem grouped = chunk_of(128, 128, DType::bf16, 4);
  CHECK(plan(grouped, with(segmented(4), Parameter::group_tile, 2), {3, 2, 4096, true}).reads_late);
  CHECK_FALSE(plan(grouped, with(segmented(4), Parameter::group_tile, 4), {3, 2, 4096, true}).reads_late);
  CHECK_FALSE(plan(grouped, with(segmented(4), Parameter::group_tile, 2), {3, 2, 4096, false}).reads_late);
  CHECK(plan(chunk_of(128, 128), overlapped(2), {3, 2, 4096, false}).reads_late);
}

TEST_CASE("segments are whole chunks, cover every token, and are at most as many as the variant says") {
  const Problem problem = chunk_of(64, 64);
  for (const int segments : {2, 4, 8, 16, 32, 64})
    for (const int tokens_per_chunk : {16, 32, 64, 128})
      for (const std::int64_t tokens : {0, 1, 15, 16, 17, 127, 128, 1000, 4096, 65535, 1 << 20}) {
        const Variant one = with(segmented(segments), Parameter::chunk, tokens_per_chunk);
        const LaunchPlan found = plan(problem, one, {1, 1, tokens, false});
        INFO(segments << " segments, chunk " << tokens_per_chunk << ", T" << tokens);
        CHECK(found.segment_tokens > 0);
        CHECK(found.segment_tokens % tokens_per_chunk == 0);
        CHECK(found.segments >= 1);
        CHECK(found.segments <= segments);
        CHECK(found.segments * found.segment_tokens >= tokens);
        CHECK((found.segments - 1) * found.segment_tokens <= std::max<std::int64_t>(tokens - 1, 0));
      }
}

TEST_CASE("family walks is three launches, each for some of the gradients") {
  const LaunchPlan found =
      plan(backward_of(128, 200), variant("walks segments=1" + kWalkParameters), {3, 5, 1000, false});
  REQUIRE(found.launches.size() == 3);
  CHECK(found.launches[0].grid == 3 * 5 * 2);  // 128 key channels in tiles of 64
  CHECK(found.launches[1].grid == 3 * 5 * 7);  // 200 value channels in tiles of 32
  CHECK(found.launches[2].grid == 3 * 5 * 2);
  CHECK(found.launches[0].needs == (kGradientQ | kGradientGk));
  CHECK(found.launches[1].needs == (kGradientV | kGradientState));
  CHECK(found.launches[2].needs == (kGradientK | kGradientGk));
  CHECK(found.segment_tokens == 0);
  CHECK(found.workspace_bytes == 3 * 5 * 128 * 4);  // what flows through each gate behind the sequence
}

TEST_CASE(
    "family walks over segments is walks for states and their gradients, two scans, and the walks for "
    "outputs") {
  const LaunchPlan found =
      plan(backward_of(128, 200), variant("walks segments=8" + kWalkParameters), {3, 5, 1000, false});
  REQUIRE(found.launches.size() == 7);
  CHECK(found.segment_tokens == 128);  // 125, rounded up to chunks of 32
  CHECK(found.segments == 8);
  for (const std::size_t walk : {0, 1, 4, 6}) CHECK(found.launches[walk].grid == 3 * 5 * 2 * 8);
  for (const std::size_t scan : {2, 3}) CHECK(found.launches[scan].grid == 3 * 5 * 25);  // as of segmented
  CHECK(found.launches[5].grid == 3 * 5 * 7 * 8);
  constexpr std::size_t kVectors = 3 * 5 * 8 * 128 * 4, kStates = kVectors * 200;
  CHECK(found.decays_offset == kStates);
  CHECK(found.gradients_offset == kStates + kVectors);
  CHECK(found.gradient_decays_offset == 2 * kStates + kVectors);
  CHECK(found.flows_offset == 2 * (kStates + kVectors));
  CHECK(found.workspace_bytes == 2 * (kStates + kVectors) + kVectors + 3 * 5 * 128 * 4);
}

TEST_CASE("two blocks share out more key channels than one has by warpgroups, and all walks share boxes") {
  const Problem problem = backward_of(256, 256);
  const Variant one = variant(
      "walks segments=1 chunk=32 tile_k=128 tile_v=256 warps=8 stages=2 score_parts=2 state_parts=2 "
      "async_copy=1 producers=4");
  const LaunchPlan found = plan(problem, one, {3, 5, 1000, false});
  REQUIRE(found.launches.size() == 3);
  for (const std::size_t walk : {0, 2}) {
    CHECK(found.launches[walk].grid == 3 * 5 * 2);
    CHECK(found.launches[walk].threads == 12 * 32);  // 8 warps of 16 key channels, 4 producers
    CHECK(found.launches[walk].cluster == 1);
  }
  CHECK(found.launches[1].grid == 3 * 5 * 2);
  CHECK(found.launches[1].cluster == 2);
  CHECK(found.boxes.rows == 32);
  CHECK(found.boxes.gate_gradient_bytes == 2);
}

TEST_CASE("two warpgroups share key channels, each with half of more value channels than one holds") {
  const Problem problem = backward_of(256, 512);
  const auto keys = [&](int tile_k, int warps) {
    const Variant one = variant("walks segments=1 chunk=32 tile_k=" + std::to_string(tile_k) +
                                " tile_v=256 warps=" + std::to_string(warps) +
                                " stages=2 score_parts=2 state_parts=2 async_copy=1 producers=4");
    return plan(problem, one, {3, 5, 1000, false}).launches[0];
  };
  CHECK(keys(64, 8).threads == 12 * 32);
  CHECK(keys(64, 8).grid == 3 * 5 * 4);
  CHECK(keys(32, 8).threads == 8 * 32);  // by mma.sync: four warps share 16 channels
}

TEST_CASE("gates' gradients in fp32 take no more shared memory, nor another workspace") {
  const Problem problem = backward_of(64, 64);
  Problem wide = problem;
  wide.fp32_gate_gradients = true;
  const Workload workload{3, 5, 1000, false};
  for (const Variant& one : some_variants(problem, 10)) {
    INFO(to_string(one));
    const LaunchPlan found = plan(wide, one, workload), usual = plan(problem, one, workload);
    CHECK(found.workspace_bytes == usual.workspace_bytes);
    CHECK(found.boxes.gate_gradient_bytes == (found.boxes.rows == 0 ? 0 : 4));
    const auto most = [](const LaunchPlan& of) {
      const auto less = [](const Launch& a, const Launch& b) { return a.shared_bytes < b.shared_bytes; };
      return std::max_element(of.launches.begin(), of.launches.end(), less)->shared_bytes;
    };
    CHECK(most(found) <= most(usual));
  }
}

TEST_CASE("family lines gives each warp some rows of one state, then some columns") {
  const Variant one = variant("lines lanes=8 rows=2 warps=4 chunk=4");
  Problem problem = recurrent_backward_of(128, 100);
  const LaunchPlan found = plan(problem, one, {3, 5, 1000, false});
  REQUIRE(found.launches.size() == 2);
  // A warp holds 4 groups of lanes by 2 rows: 16 warps for 128 rows, 13 for 100 columns; 4 to a block.
  CHECK(found.launches[0].grid == 3 * 5 * 4);
  CHECK(found.launches[1].grid == 49);
  CHECK(found.launches[0].needs == (kGradientQ | kGradientK | kGradientGk | kGradientState));
  CHECK(found.launches[1].needs == (kGradientV | kGradientGv));
  // 250 chunks are 16 segments of 16 chunks of 4 tokens: a slot for each segment, and each chunk of one, but the first; rows of
  // 100 are rounded up to 128.
  CHECK(found.segment_tokens == 64);
  CHECK(found.workspace_bytes == std::size_t{3} * 5 * (15 + 15) * 128 * 128 * 4);
  // Inputs of two units of 8 tokens: of rows v and dO of 100 channels, padded to 128, and 8 channels of k, q and gk each; of
  // columns k, q and gk of 128 and 8 channels of dO.
  CHECK(found.launches[0].shared_bytes == 4 * 2 * 8 * (2 * 256 + 3 * 16));
  CHECK(found.launches[1].shared_bytes == 4 * 2 * 8 * (3 * 256 + 16));

  // Shared memory has the chunks of up to 8 in a segment: there is a slot for each segment but the first.
  const LaunchPlan few = plan(problem, one, {3, 5, 9, false});
  CHECK(few.workspace_bytes == 0);
  CHECK(few.launches[0].shared_bytes == found.launches[0].shared_bytes + 4 * 2 * (8 * 128 * 4));
  const LaunchPlan shared = plan(problem, one, {3, 5, 100, false});
  CHECK(shared.segment_tokens == 32);
  CHECK(shared.workspace_bytes == std::size_t{3} * 5 * 3 * 128 * 128 * 4);
  // Packed sequences are cut as one of their usual length, and have no more slots than all their tokens have segments.
  const LaunchPlan packed = plan(problem, one, {3, 5, 1000, true});
  CHECK(packed.segment_tokens == 40);
  CHECK(packed.workspace_bytes == std::size_t{5} * (3 * 9 + 25) * 128 * 128 * 4);
  // The walks run beside each other, and have slots each.
  problem.gate_v = true;
  CHECK(plan(problem, one, {3, 5, 100, false}).workspace_bytes ==
        std::size_t{3} * 5 * 3 * (128 * 128 + 104 * 128) * 4);
  problem.gate_v = false;
  // Only gradients of gates go back over states.
  problem.gate_k = false;
  problem.state_v_first = true;
  const LaunchPlan ungated = plan(problem, one, {3, 5, 1000, false});
  CHECK(ungated.workspace_bytes == 0);
  CHECK(ungated.launches[1].needs == (kGradientV | kGradientGv | kGradientState));
}

TEST_CASE("family decode gives each warp some value channels of one state") {
  const Variant one = variant("decode lanes_k=8 rows_v=4 warps=4 stages=2 min_blocks=1");
  const LaunchPlan found = plan(recurrent_of(128, 100), one, {3, 5, 1, false});
  REQUIRE(found.launches.size() == 1);
  CHECK(found.launches[0].entry == 0);
  // A warp holds 4 groups of lanes by 4 rows: 7 warps for 100 channels; 3 * 5 * 7 warps, 4 to a block.
  CHECK(found.launches[0].grid == 27);
  CHECK(found.launches[0].threads == 128);
  CHECK(found.launches[0].shared_bytes == 0);
  CHECK(found.workspace_bytes == 0);
}

TEST_CASE("grids and workspaces of more than 2^32 are counted whole") {
  const LaunchPlan found = plan(chunk_of(512, 512), segmented(64), {4096, 64, 8192, false});
  CHECK(found.launches[1].grid == std::int64_t{4096} * 64 * 256);
  CHECK(found.decays_offset == std::size_t{4096} * 64 * 64 * 512 * 512 * 4);
  CHECK(found.launches[2].grid == std::int64_t{4096} * 64 * 8 * 64);
}

TEST_CASE(
    "a plan launches every entry once, if sequences are packed, with the threads and shared memory of its "
    "shape") {
  for (const Problem& problem : several_problems())
    for (const Variant& one : some_variants(problem, 211)) {
      INFO(to_string(problem) << ": " << to_string(one));
      const std::vector<EntryShape> shapes = entry_shapes(problem, one);
      const LaunchPlan found = plan(problem, one, {2, 3, 700, true});
      CHECK(shapes.size() == render(problem, one).entries.size());
      REQUIRE(found.launches.size() == shapes.size());
      const bool scheduled = found.schedule.walks > 0;
      for (std::size_t i = 0; i < shapes.size(); ++i) {
        const EntryShape& shape = shapes[static_cast<std::size_t>(found.launches[i].entry)];
        CHECK(found.launches[i].entry == static_cast<int>((i + shapes.size() - scheduled) % shapes.size()));
        CHECK(found.launches[i].grid >= (scheduled ? 0 : 1));
        CHECK(found.launches[i].grid % found.launches[i].cluster == 0);
        CHECK(found.launches[i].threads == shape.threads);
        CHECK(found.launches[i].shared_bytes == shape.shared_bytes);
        CHECK(shape.threads % 32 == 0);
        CHECK(shape.threads <= 1024);
      }
    }
}

TEST_CASE("the chunk kernels get the shared memory of their layout, within what a block may have") {
  const Architecture gpu = architecture("sm_90a");
  for (const Problem& problem : several_problems())
    for (const Variant& one : some_variants(problem, 101)) {
      if (!is_chunk_forward(one)) continue;
      INFO(to_string(problem) << ": " << to_string(one));
      const std::vector<EntryShape> shapes = entry_shapes(problem, one);
      const ChunkShape shape = shape_of(problem, one);
      const auto bytes = static_cast<std::size_t>(shared_bytes(shape));
      const ChunkShape first = one.family == Family::segmented ? without_queries(shape) : shape;
      CHECK(first.stages >= shape.stages);
      CHECK(shapes.front().shared_bytes == static_cast<std::size_t>(shared_bytes(first)));
      CHECK(shapes.front().shared_bytes <= bytes);
      const EntryShape& outputs = one.family == Family::segmented ? shapes[2] : shapes.back();
      CHECK(outputs.shared_bytes == bytes);
      CHECK(outputs.threads == shape.threads());
      CHECK(shapes.front().threads == shape.threads());
      CHECK(bytes <= gpu.shared_memory_per_block);
      CHECK(occupancy(gpu, shape.threads(), 16, bytes) >= shapes.front().min_blocks);
    }
}

TEST_CASE("what chunk kernels copy or multiply 16 bytes at a time lies at multiples of 16") {
  for (const Problem& problem : several_problems())
    for (const Variant& one : some_variants(problem, 101)) {
      if (!is_chunk_forward(one)) continue;
      const ChunkShape shape = shape_of(problem, one);
      if (shape.producers != 0) continue;
      const ChunkLayout layout(shape);
      for (const int offset : {layout.q_row,         layout.k_row,       layout.gate_row,
                               layout.v_row,         layout.operand_row, layout.v_part_row,
                               layout.score_row,     layout.out_row,     layout.k,
                               layout.gate,          layout.v,           layout.stage_bytes,
                               layout.v_bytes,       layout.q_operand,   layout.k_operand,
                               layout.v_operand,     layout.scores,      layout.out,
                               layout.operand_plane, layout.v_plane,     layout.score_plane,
                               layout.out_plane,     layout.steep_totals})
        if (offset % 16 != 0) FAIL_CHECK(to_string(problem) << ": " << to_string(one));
    }
}

TEST_CASE("what warpgroups multiply and tensor copies move lies at multiples of 1024") {
  for (const Problem& problem : {chunk_of(128, 128), chunk_of(64, 104), chunk_of(256, 512)})
    for (const Variant& one : space(problem, architecture("sm_90a"))) {
      if (one[Parameter::producers] == 0) continue;
      const PipelineLayout layout(shape_of(problem, one));
      for (const int offset : {layout.q, layout.k, layout.gate, layout.q_rest, layout.k_rest, layout.v,
                               layout.scores, layout.stage_bytes, layout.out, layout.inbox})
        if (offset % 1024 != 0) FAIL_CHECK(to_string(problem) << ": " << to_string(one));
      for (const int offset :
           {layout.loaded, layout.converted, layout.made, layout.reloaded, layout.received})
        if (offset % 8 != 0) FAIL_CHECK(to_string(problem) << ": " << to_string(one));
    }
}

TEST_CASE("a pipeline's launches say which boxes its tensor copies move") {
  const Problem problem = chunk_of(64, 128, DType::bf16, 2);
  for (const Variant& one : space(problem, architecture("sm_90a"))) {
    const TensorBoxes boxes = plan(problem, one, {3, 5, 1000, false}).boxes;
    TensorBoxes expected;
    if (one[Parameter::producers] != 0) expected = {one[Parameter::chunk], 64, 128, 2, 2, 2};
    if (boxes != expected) FAIL_CHECK(to_string(one));
  }
}

TEST_CASE("walks of a few more blocks than there is room for are cut into legs, others are not") {
  const Problem problem = chunk_of(128, 128);
  const Variant fused = variant(
      "fused chunk=64 tile_v=128 warps_v=8 warps_k=1 group_tile=1 stages=2 score_parts=2 state_parts=1 "
      "async_copy=1 producers=8 cluster=1 min_blocks=1");
  REQUIRE(check(problem, *parse_architecture("sm_90a"), fused).ok());
  const Relaying device{.multiprocessors = 132};
  for (const std::int64_t heads : {96, 132, 256, 264}) {
    INFO(heads);
    CHECK(plan(problem, fused, {1, heads, 8192, false}, device) ==
          plan(problem, fused, {1, heads, 8192, false}));
  }
  const LaunchPlan whole = plan(problem, fused, {2, 80, 8000, false}),
                   cut = plan(problem, fused, {2, 80, 8000, false}, device);
  const RelayPlan& relay = cut.relays[0];
  CHECK(relay.legs > 1);
  CHECK(relay.leg_tokens % 64 == 0);
  CHECK(relay.legs * relay.leg_tokens >= 8000);
  CHECK((relay.legs - 1) * relay.leg_tokens < 8000);  // none is empty
  CHECK(cut.launches[0].grid == whole.launches[0].grid * relay.legs);
  // States, and behind them a counter for blocks that have started and one for each walk.
  CHECK(relay.states_offset == 0);
  CHECK(cut.counters_offset == std::size_t{160} * 128 * 128 * 4);
  CHECK(relay.counters_offset == cut.counters_offset);
  CHECK(cut.counters_bytes >= (1 + 160) * 4);
  CHECK(cut.workspace_bytes == cut.counters_offset + cut.counters_bytes);
  // Sequences of unlike lengths, and too few chunks for a leg to be worth while.
  CHECK(plan(problem, fused, {160, 1, 8000, true}, device) == plan(problem, fused, {160, 1, 8000, true}));
  CHECK(plan(problem, fused, {2, 80, 256, false}, device) == plan(problem, fused, {2, 80, 256, false}));
  // Three states of 64 KB a head are a tenth of ten tensors of 768 tokens.
  Variant small_chunks = fused;
  small_chunks.set(Parameter::chunk, 32);
  REQUIRE(check(problem, *parse_architecture("sm_90a"), small_chunks).ok());
  CHECK(plan(problem, small_chunks, {2, 80, 832, false}, device).relays[0].legs > 1);
  CHECK(plan(problem, small_chunks, {2, 80, 704, false}, device) ==
        plan(problem, small_chunks, {2, 80, 704, false}));
}

TEST_CASE("the walk for dv runs aside, in legs, where that for dq leaves multiprocessors idle") {
  const Problem problem = backward_of(128, 128);
  const Variant walks = variant(
      "walks segments=1 chunk=64 tile_k=128 tile_v=128 warps=8 stages=2 score_parts=2 state_parts=2 "
      "async_copy=1 producers=8");
  const auto planned = [&](std::int64_t heads, std::int64_t tokens) {
    return plan(problem, walks, {1, heads, tokens, false}, {.multiprocessors = 132});
  };
  const LaunchPlan few = planned(96, 8192);
  REQUIRE(few.launches.size() == 3);
  CHECK_FALSE(few.launches[0].aside);
  CHECK(few.launches[1].aside);
  CHECK_FALSE(few.launches[2].aside);
  CHECK(few.relays[static_cast<std::size_t>(WalkKind::inputs)].legs == 0);
  CHECK(few.relays[static_cast<std::size_t>(WalkKind::values)].legs == 8);
  CHECK(few.relays[static_cast<std::size_t>(WalkKind::keys)].legs == 0);
  for (const LaunchPlan& other : {planned(128, 8192), planned(96, 1024), planned(160, 8192)})
    for (const Launch& launch : other.launches) CHECK_FALSE(launch.aside);
  // Walks in clusters are not cut, and whole ones would keep others waiting.
  const Problem wide = backward_of(256, 256);
  const Variant clustered = variant(
      "walks segments=1 chunk=32 tile_k=128 tile_v=128 warps=8 stages=2 score_parts=2 state_parts=2 "
      "async_copy=1 producers=8");
  CHECK(plan(wide, clustered, {1, 4, 8192, false}, {.multiprocessors = 132}).launches[1] ==
        plan(wide, clustered, {1, 4, 8192, false}).launches[1]);
  // Every walk that is cut has a place of its own.
  const LaunchPlan all = plan(problem, walks, {1, 3, 1024, false}, {.legs = 4});
  std::set<std::size_t> places{all.flows_offset};
  for (const RelayPlan& relay : all.relays) {
    CHECK(relay.legs == 4);
    CHECK(places.insert(relay.states_offset).second);
    CHECK(places.insert(relay.counters_offset).second);
  }
  CHECK(all.counters_bytes == 3 * 256);
}
