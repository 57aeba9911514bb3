// The chunk families: what their parameters may be, and how their variants are rendered and launched.
#include <algorithm>

#include "chunk_shape.h"
#include "family_space.h"
#include "names.h"
#include "render_common.h"

namespace gla {
namespace {

constexpr int kLeastWarps = 4, kMostWarps = 8;  // a multiprocessor has four schedulers
constexpr int kLeastThreadState = 8, kMostThreadState = 128;
constexpr int kLeastTileV = 64;  // where V is that wide: each tile makes the operands of q, k and gk anew
constexpr int kMostStages = 2;   // of copies without producers: they are not what the kernel waits for
// Segments whose states each finds by itself: a chain of reads, not short if they are many. Of packed sequences few are cut, and
// the scan costs those their time too that are not; verification, which is for no device in particular, has it.
constexpr int kMostChained = 8, kMostPackedChained = 16;
constexpr int kMostOutputs = 128;  // tokens times 16-row blocks of O^T that a warp accumulates

/// Warps that the state of a tile can be dealt to, 16 x 16 channels at the least.
int most_warps(const ChunkShape& shape) {
  const int blocks_k = shape.padded_k() / 16;
  return shape.tile_v / 16 * (blocks_k % 4 == 0 ? 4 : blocks_k % 2 == 0 ? 2 : 1);
}

std::vector<std::int16_t> divisors(int number) {
  std::vector<std::int16_t> found;
  for (int i = 1; i <= number; ++i)
    if (number % i == 0) found.push_back(static_cast<std::int16_t>(i));
  return found;
}

Status chunk_constraints(const Problem& problem, const Architecture& architecture, const Variant& variant) {
  const ChunkShape shape = shape_of(problem, variant);
  if (shape.tile_v - 16 >= shape.head_dim_v && shape.tile_v > 16)
    return invalid_argument(
        fmt::format("tile_v={} wastes 16 or more channels of head_dim_v={}", shape.tile_v, shape.head_dim_v));
  if (shape.tile_v < kLeastTileV && shape.head_dim_v > kLeastTileV - 16) {
    return invalid_argument(fmt::format("tile_v={} is a small part of head_dim_v={}; accepted from {} on",
                                        shape.tile_v, shape.head_dim_v, kLeastTileV));
  }
  if (shape.tile_v % (16 * shape.warps_v) != 0)
    return invalid_argument(
        fmt::format("tile_v={} is not a multiple of 16*warps_v={}", shape.tile_v, 16 * shape.warps_v));
  if (shape.padded_k() % (16 * shape.warps_k) != 0) {
    return invalid_argument(fmt::format("head_dim_k={}, padded to {}, is not a multiple of 16*warps_k={}",
                                        shape.head_dim_k, shape.padded_k(), 16 * shape.warps_k));
  }
  if (blocks_v(shape) * shape.chunk > kMostOutputs) {
    return invalid_argument(
        fmt::format("chunk*tile_v/(16*warps_v)={} is above {}", blocks_v(shape) * shape.chunk, kMostOutputs));
  }
  const int warps = shape.warps_v * shape.warps_k;
  if (warps > kMostWarps)
    return invalid_argument(fmt::format("warps_v*warps_k={} is above {}", warps, kMostWarps));
  if (warps < std::min(kLeastWarps, most_warps(shape)))
    return invalid_argument(
        fmt::format("warps_v*warps_k={} is below {}", warps, std::min(kLeastWarps, most_warps(shape))));
  const int thread_state = shape.tile_v * shape.padded_k() / (32 * warps);
  if (thread_state > kMostThreadState || (thread_state < kLeastThreadState && warps > 1)) {
    return invalid_argument(
        fmt::format("tile_v*head_dim_k/threads={} state elements per thread; accepted: {} to {}",
                    thread_state, kLeastThreadState, kMostThreadState));
  }
  if (problem.dtype == DType::bf16 ? shape.state_parts > shape.score_parts
                                   : shape.state_parts != shape.score_parts) {
    return invalid_argument(fmt::format("state_parts={} with score_parts={}; {} wants {}", shape.state_parts,
                                        shape.score_parts, to_string(problem.dtype),
                                        problem.dtype == DType::bf16 ? "no more of them" : "as many"));
  }
  if (problem.dtype == DType::bf16 && shape.state_parts > 1 && shape.chunk > kSplitStateChunk) {
    return invalid_argument(
        fmt::format("state_parts={} with chunk={}; above chunk={} one part is exact enough",
                    shape.state_parts, shape.chunk, kSplitStateChunk));
  }
  // A split group would have one block write final_state while another still reads initial_state, in place.
  if (variant.family != Family::segmented && shape.group_tile != problem.group) {
    return invalid_argument(fmt::format("family {} serves a whole group per block: group_tile={} is not {}",
                                        to_string(variant.family), shape.group_tile, problem.group));
  }
  const int min_blocks = variant[Parameter::min_blocks];
  if (!shape.async_copy && (shape.stages > 1 || min_blocks > 1)) {
    return invalid_argument(fmt::format("async_copy=0 with stages={}, min_blocks={}; it goes with 1 and 1",
                                        shape.stages, min_blocks));
  }
  if (shape.producers != 0) {
    if (Status status = pipeline_constraints(shape, min_blocks); !status.ok()) return status;
  } else if (shape.cluster != 1) {
    return invalid_argument(fmt::format("cluster={} with producers=0; accepted: 1", shape.cluster));
  } else if (shape.stages > kMostStages) {
    return invalid_argument(
        fmt::format("stages={} with producers=0; accepted: up to {}", shape.stages, kMostStages));
  }
  const bool words = copies_async(problem);
  if (words && !shape.async_copy)
    return invalid_argument("async_copy=0 is for rows that are not whole 4-byte words");
  if (shape.async_copy && !words) {
    return invalid_argument(
        fmt::format("async_copy=1 needs rows of whole 4-byte words; head dims are {} and {}",
                    shape.head_dim_k, shape.head_dim_v));
  }
  const auto shared = static_cast<std::size_t>(shared_bytes(shape));
  if (shared > architecture.shared_memory_per_block) {
    return invalid_argument(fmt::format("needs {} bytes of shared memory; a block has {}", shared,
                                        architecture.shared_memory_per_block));
  }
  const int registers = estimated_chunk_registers(problem, variant);
  const int most_registers = shape.moves_registers() ? shape.consumer_registers() : 255;
  if (registers > most_registers ||
      (!shape.moves_registers() &&
       registers * shape.threads() * min_blocks > architecture.registers_per_multiprocessor)) {
    return invalid_argument(fmt::format("needs about {} registers in each of {} threads", registers,
                                        shape.threads() * min_blocks));
  }
  if (min_blocks > 1 && shape.stages > 1 && shape.producers == 0) {
    return invalid_argument(
        fmt::format("stages={} with min_blocks={}; a second stage and a second block hide the same latency",
                    shape.stages, min_blocks));
  }
  if (min_blocks > 1 && occupancy(architecture, shape.threads(), 16, shared) < min_blocks)
    return invalid_argument(fmt::format("min_blocks={} blocks do not fit on a multiprocessor", min_blocks));
  return {};
}

/// See FamilySpace: of the constraints above those that cut whole branches.
bool is_hopeless(const Variant& variant, Parameter parameter) {
  const int warps_v = variant[Parameter::warps_v], tile_v = variant[Parameter::tile_v];
  switch (parameter) {
    case Parameter::warps_v:
      return tile_v % (16 * warps_v) != 0;
    case Parameter::warps_k:
      return warps_v * variant[Parameter::warps_k] > kMostWarps;
    case Parameter::producers:
      return variant[Parameter::producers] != 0 &&
             (variant[Parameter::warps_k] != 1 || warps_v % 4 != 0 || variant[Parameter::state_parts] != 1 ||
              variant[Parameter::stages] < 2);
    case Parameter::cluster:
      return variant[Parameter::cluster] != 1 && variant[Parameter::producers] == 0;
    default:
      return false;
  }
}

std::vector<std::int16_t> parts(DType dtype) {
  if (dtype == DType::bf16) return {1, 2};
  return {2, 3};
}

}  // namespace

Status pipeline_constraints(const ChunkShape& shape, int min_blocks) {
  if (!shape.element_is_bf16 || shape.state_parts != 1 || shape.warps_k != 1) {
    return invalid_argument(
        fmt::format("producers={} goes with bf16 elements, state_parts=1, warps_k=1; got {} bytes, {}, {}",
                    shape.producers, shape.element_bytes, shape.state_parts, shape.warps_k));
  }
  // Pairs of heads make scores together, and the rows of all heads are the columns of one product.
  const bool has_pairs = shape.group_tile == 2 || shape.group_tile == 4;
  if (shape.group_tile != 1 &&
      (!has_pairs || shape.chunk != 32 || shape.cluster != 1 || shape.padded_k() > 128)) {
    return invalid_argument(fmt::format(
        "producers={} with group_tile={}; accepted: 1, and with chunk=32, cluster=1 and head_dim_k "
        "up to 128 also 2, 4; got chunk={}, cluster={}, head_dim_k={}",
        shape.producers, shape.group_tile, shape.chunk, shape.cluster, shape.head_dim_k));
  }
  if (shape.stages < 2 || shape.stages > PipelineLayout::kMostStages || !shape.async_copy) {
    return invalid_argument(fmt::format("producers={} goes with stages 2 to {}, async_copy=1; got {}, {}",
                                        shape.producers, int{PipelineLayout::kMostStages}, shape.stages,
                                        int{shape.async_copy}));
  }
  if (shape.warps_v % 4 != 0 || (shape.cluster == 1 && shape.tile_v != 16 * shape.warps_v)) {
    return invalid_argument(fmt::format(
        "producers={} needs 16 channels of tile_v for each of 4 or 8 warps_v; got warps_v={}, tile_v={}",
        shape.producers, shape.warps_v, shape.tile_v));
  }
  if (shape.cluster > 1) {
    if (shape.warps_v != 8 || blocks_v(shape) > 2) {
      return invalid_argument(fmt::format("cluster={} goes with warps_v=8 and tile_v=128 or 256; got {}, {}",
                                          shape.cluster, shape.warps_v, shape.tile_v));
    }
    if (shape.head_dim_k <= shape.padded_k()) {
      return invalid_argument(fmt::format("cluster={} leaves the second block none of head_dim_k={}",
                                          shape.cluster, shape.head_dim_k));
    }
  }
  if (shape.chunk != 32 && shape.chunk != 64) {
    return invalid_argument(
        fmt::format("producers={} with chunk={}; accepted: 32, 64", shape.producers, shape.chunk));
  }
  const int k = shape.padded_k();
  if (k != 64 && k != 128 && k != 256) {
    return invalid_argument(
        fmt::format("producers={} with head_dim_k={}, padded to {}; accepted: 64, 128, 256", shape.producers,
                    shape.head_dim_k, k));
  }
  if (shape.producers == 12 && (k != 64 || shape.warps_v != 4)) {
    return invalid_argument(fmt::format(
        "producers=12 goes with 64 key channels in a block and warps_v=4; got {}, {}", k, shape.warps_v));
  }
  if (shape.stages < shape.producers / shape.team()) {
    return invalid_argument(fmt::format("producers={} are {} teams, which need as many stages; got {}",
                                        shape.producers, shape.producers / shape.team(), shape.stages));
  }
  if (k * blocks_v(shape) > 128 && shape.producers != 4) {
    return invalid_argument(
        fmt::format("producers={} with head_dim_k={}, tile_v={}; accepted: 4, which leave consumers the "
                    "registers for the state",
                    shape.producers, shape.head_dim_k, shape.tile_v));
  }
  constexpr int kAlignment = 16;
  if (shape.head_dim_k * 2 % kAlignment != 0 || shape.head_dim_v * 2 % kAlignment != 0) {
    return invalid_argument(fmt::format("producers={} needs rows of whole {} bytes; head dims are {} and {}",
                                        shape.producers, kAlignment, shape.head_dim_k, shape.head_dim_v));
  }
  if (shape.moves_registers() && min_blocks != 1) {
    return invalid_argument(fmt::format(
        "producers={} with warps_v={}, min_blocks={}; such blocks have a multiprocessor to themselves",
        shape.producers, shape.warps_v, min_blocks));
  }
  return {};
}

bool copies_async(const Problem& problem) {
  constexpr std::size_t kWord = 4;
  const auto whole = [](int channels, DType dtype) {
    return static_cast<std::size_t>(channels) * size_of(dtype) % kWord == 0;
  };
  return whole(problem.head_dim_k, problem.dtype) && whole(problem.head_dim_v, problem.dtype) &&
         (!problem.gate_k || whole(problem.head_dim_k, problem.gate_dtype));
}

std::string shape_text(const ChunkShape& s) {
  return fmt::format(
      R"(  static constexpr ChunkShape shape = {{.head_dim_k = {}, .head_dim_v = {}, .chunk = {}, .tile_v = {},
                                       .warps_v = {}, .warps_k = {}, .group_tile = {}, .stages = {},
                                       .score_parts = {}, .state_parts = {}, .element_bytes = {},
                                       .element_is_bf16 = {}, .gate_bytes = {}, .async_copy = {},
                                       .producers = {}, .cluster = {}, .value_gradients = {}}};
)",
      s.head_dim_k, s.head_dim_v, s.chunk, s.tile_v, s.warps_v, s.warps_k, s.group_tile, s.stages,
      s.score_parts, s.state_parts, s.element_bytes, s.element_is_bf16, s.gate_bytes, s.async_copy,
      s.producers, s.cluster, s.value_gradients);
}

FamilySpace chunk_family(const Problem& problem, const Architecture& architecture, Family family) {
  const std::vector<ParameterValues> declared = {
      {Parameter::segments, family == Family::overlapped
                                ? std::vector<std::int16_t>{2, 3}
                                : std::vector<std::int16_t>{2, 3, 4, 5, 6, 7, 8, 16, 32}},
      {Parameter::chunk, {16, 32, 64, 128}},
      {Parameter::tile_v, {16, 32, 64, 128, 256}},
      {Parameter::warps_v, {1, 2, 4, 8}},
      {Parameter::warps_k, {1, 2, 4}},
      {Parameter::group_tile, divisors(problem.group)},
      {Parameter::stages,
       architecture.has_wgmma() ? std::vector<std::int16_t>{1, 2, 3, 4} : std::vector<std::int16_t>{1, 2}},
      {Parameter::score_parts, parts(problem.dtype)},
      {Parameter::state_parts, parts(problem.dtype)},
      {Parameter::async_copy, {0, 1}},
      {Parameter::producers,
       architecture.has_wgmma() ? std::vector<std::int16_t>{0, 4, 8, 12} : std::vector<std::int16_t>{0}},
      {Parameter::cluster,
       architecture.has_wgmma() ? std::vector<std::int16_t>{1, 2} : std::vector<std::int16_t>{1}},
      {Parameter::min_blocks, {1, 2}},
  };
  FamilySpace space{family,
                    {},
                    [problem, architecture](const Variant& variant) {
                      return chunk_constraints(problem, architecture, variant);
                    },
                    is_hopeless};
  for (Parameter parameter : parameters_of(family))
    for (const ParameterValues& values : declared)
      if (values.parameter == parameter) space.parameters.push_back(values);
  return space;
}

namespace {

Source render_chunk(const Problem& problem, const Variant& variant) {
  const ChunkShape shape = shape_of(problem, variant);
  const int blocks = variant[Parameter::min_blocks];
  const std::string_view walk = shape.producers ? "chunk_pipeline" : "chunk_forward";
  std::vector<std::string_view> headers{shape.producers ? "chunk_pipeline.cuh" : "chunk_forward.cuh"};
  if (variant.family == Family::segmented)
    headers.insert(headers.end(), {"schedule.cuh", "segment_scan.cuh"});
  Source source{"chunk_forward.cu", config_text(problem, headers, shape_text(shape)), {}};
  const auto add_pass = [&](std::string_view entry, std::string_view pass) {
    const bool has_maps = shape.producers != 0;
    add_entry(source, {.name = entry,
                       .threads = shape.threads(),
                       .min_blocks = blocks,
                       .call = fmt::format("{}<gla::Config, gla::Pass::{}>(args)", walk, pass),
                       .args_type = has_maps ? "TensorArgs" : "KernelArgs",
                       .cluster = shape.cluster,
                       .start = has_maps ? Start::by_itself : Start::early});
  };
  if (variant.family == Family::fused) {
    add_pass("chunk_fused", "whole");
  } else if (variant.family == Family::overlapped) {
    add_pass("chunk_overlapped", "overlapped");
  } else {
    add_pass("chunk_segment_states", "segment_states");
    add_entry(source, {.name = "chunk_segment_scan",
                       .threads = kScanThreads,
                       .call = fmt::format("segment_scan<gla::Config, {}>(args)", kScanThreads),
                       .start = Start::waited});
    add_pass("chunk_segment_outputs", "segment_outputs");
    add_schedule_entry(source);
  }
  return source;
}

std::vector<EntryShape> chunk_entry_shapes(const Problem& problem, const Variant& variant) {
  const ChunkShape shape = shape_of(problem, variant);
  const EntryShape walk{shape.threads(), static_cast<std::size_t>(shared_bytes(shape)),
                        variant[Parameter::min_blocks]};
  if (variant.family != Family::segmented) return {walk};
  EntryShape states = walk;
  states.shared_bytes = static_cast<std::size_t>(shared_bytes(without_queries(shape)));
  return {states, EntryShape{kScanThreads, 0, 1}, walk, schedule_shape()};
}

}  // namespace

TensorBoxes boxes_of(const Problem& problem, const ChunkShape& shape) {
  if (shape.producers == 0) return {};
  return {.rows = shape.chunk,
          .head_dim_k = problem.head_dim_k,
          .head_dim_v = problem.head_dim_v,
          .group = problem.group,
          .element_bytes = shape.element_bytes,
          .gate_bytes = shape.gate_bytes};
}

LaunchPlan plan_chunk(const Problem& problem, const Variant& variant, const Workload& workload,
                      int multiprocessors) {
  const ChunkShape shape = shape_of(problem, variant);
  const std::vector<EntryShape> shapes = chunk_entry_shapes(problem, variant);
  const std::int64_t state_tiles = workload.heads * state_blocks(shape);  // of a sequence
  const std::int64_t output_tiles = state_tiles * (problem.group / shape.group_tile);
  LaunchPlan plan;
  plan.boxes = boxes_of(problem, shape);
  if (variant.family != Family::segmented) {
    plan.segments = variant[Parameter::segments];  // none where the family is fused
    plan.reads_late = plan.segments > 1;
    Launch walk{0, std::max<std::int64_t>(plan.segments, 1) * workload.sequences * output_tiles,
                shapes[0].threads, shapes[0].shared_bytes, shape.cluster};
    if (variant.family == Family::fused) walk.may_be_cut(WalkKind::inputs, shape.chunk, shapes[0].min_blocks);
    plan.launches.add(walk);
    return plan;
  }
  const std::int64_t elements = std::int64_t{problem.head_dim_k} * problem.head_dim_v;
  const Segments cut =
      cut_into_segments(problem, variant, workload, std::max(shape.chunk, without_queries(shape).chunk),
                        output_tiles, room_for(shapes[2], multiprocessors));
  plan.segment_tokens = cut.tokens;
  plan.segments = cut.segments;
  plan.may_chain = divided_up(workload.tokens, cut.tokens) <= (!workload.packed      ? kMostChained
                                                               : multiprocessors > 0 ? kMostPackedChained
                                                                                     : 0);
  // The sequences that are not cut have their states from the caller, in each block of a group.
  plan.reads_late = workload.packed && shape.group_tile != problem.group;
  (void)reserve_floats(plan, cut.slots * workload.heads * elements);  // segment_states
  plan.decays_offset = reserve_floats(plan, cut.slots * workload.heads * problem.head_dim_k);
  add_schedule(plan, cut, 3);
  plan.launches.add({0, cut.states * state_tiles, shapes[0].threads, shapes[0].shared_bytes, shape.cluster});
  plan.launches.add({.entry = 1,
                     .grid = scan_grid(problem, workload, cut),
                     .threads = shapes[1].threads,
                     .needs = kSegmentScan});
  plan.launches.add({2, cut.walks * output_tiles, shapes[2].threads, shapes[2].shared_bytes, shape.cluster});
  return plan;
}

int estimated_chunk_registers(const Problem& problem, const Variant& variant) {
  const ChunkShape shape = shape_of(problem, variant);
  const int rows = blocks_v(shape);
  const int state = rows * shape.padded_k() / shape.warps_k / 2;
  const int addressing = shape.producers ? 24 : 48;
  // Heads whose outputs a thread holds at once.
  const int together = shape.producers && shape.group_tile > 1 ? 2 : 1;
  const int outputs = rows * together * shape.chunk / 2;
  const int operands = shape.producers ? std::min(shape.padded_k() / 4, rows > 1 ? 16 : 32)
                                       : 4 * (rows * shape.state_parts + shape.operand_parts());
  return state + outputs + operands + addressing;
}

const FamilyKernels& chunk_kernels() {
  static constexpr FamilyKernels kKernels{render_chunk, plan_chunk, chunk_entry_shapes,
                                          estimated_chunk_registers, predicted_chunk_seconds};
  return kKernels;
}

}  // namespace gla
