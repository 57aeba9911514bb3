// A chunk variant's sizes, as its kernels have them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "chunk_layout.h"
#include "gla/generator/architecture.h"
#include "gla/generator/problem.h"
#include "gla/generator/render.h"
#include "gla/generator/status.h"
#include "gla/generator/variant.h"
#include "segment_layout.h"

namespace gla {

inline ChunkShape shape_of(const Problem& problem, const Variant& variant) {
  return {.head_dim_k = problem.head_dim_k,
          .head_dim_v = problem.head_dim_v,
          .chunk = variant[Parameter::chunk],
          .tile_v = variant[Parameter::tile_v],
          .warps_v = variant[Parameter::warps_v],
          .warps_k = variant[Parameter::warps_k],
          .group_tile = variant[Parameter::group_tile],
          .stages = variant[Parameter::stages],
          .score_parts = variant[Parameter::score_parts],
          .state_parts = variant[Parameter::state_parts],
          .element_bytes = static_cast<int>(size_of(problem.dtype)),
          .element_is_bf16 = problem.dtype == DType::bf16,
          .gate_bytes = problem.gate_k ? static_cast<int>(size_of(problem.gate_dtype)) : 0,
          .async_copy = variant[Parameter::async_copy] != 0,
          .producers = variant[Parameter::producers],
          .cluster = variant[Parameter::cluster]};
}

inline int blocks_v(const ChunkShape& shape) {
  return shape.tile_v / (16 * shape.warps_v);
}
inline int tiles_v(const ChunkShape& shape) {
  return (shape.head_dim_v + shape.tile_v - 1) / shape.tile_v;
}
/// Blocks that hold the state of a head.
inline int state_blocks(const ChunkShape& shape) {
  return tiles_v(shape) * shape.cluster;
}

/// What chunk_pipeline.cuh asks for: rows that a tensor copy can fetch, 64 value channels for each warpgroup, as many
/// columns as wgmma is used with, room for the query heads of a group, and key channels for every block of a cluster.
Status pipeline_constraints(const ChunkShape& shape, int min_blocks);
/// None without producers.
TensorBoxes boxes_of(const Problem& problem, const ChunkShape& shape);

/// As the template's Config has it.
std::string shape_text(const ChunkShape& shape);

inline std::int64_t divided_up(std::int64_t number, std::int64_t by) {
  return (number + by - 1) / by;
}
inline std::size_t round_up_256(std::size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/// Appends room for so many floats to a plan's workspace, and returns where it lies.
inline std::size_t reserve_floats(LaunchPlan& plan, std::int64_t floats) {
  const std::size_t offset = plan.workspace_bytes;
  plan.workspace_bytes += round_up_256(static_cast<std::size_t>(floats) * sizeof(float));
  return offset;
}

/// What a workload's sequences are cut into, and how many blocks of each head and tile that takes.
struct Segments {
  std::int64_t tokens = 0;    ///< of a segment, a multiple of the chunk
  std::int64_t segments = 0;  ///< of each sequence; of packed ones all together, beside the last of each
  std::int64_t slots = 0;     ///< that have states in memory
  std::int64_t states = 0;    ///< walks for states
  std::int64_t walks = 0;     ///< walks for outputs
  std::int64_t scans = 0;     ///< sequences that are cut
  bool scheduled = false;     ///< by templates/schedule.cuh
  std::int64_t share = 0;     ///< Schedule.share
};
/// `sequence_blocks`: that walk a sequence, of all heads. `room`: for blocks, on the device; 0: not known.
Segments cut_into_segments(const Problem& problem, const Variant& variant, const Workload& workload,
                           std::int64_t chunk, std::int64_t sequence_blocks, std::int64_t room);
/// Blocks that a multiprocessor has room for.
int resident_blocks(const EntryShape& shape);
/// Those that the device has room for.
std::int64_t room_for(const EntryShape& shape, int multiprocessors);
/// How short sequences may be for states of theirs to be small beside them.
std::int64_t least_tokens_for_states(const Problem& problem);

inline constexpr int kScheduleThreads = 512;
inline EntryShape schedule_shape() {
  return {kScheduleThreads, kScheduleCounters * sizeof(std::uint32_t), 1};
}
/// The kernel behind all others of a source.
void add_schedule_entry(Source& source);
/// Launches it, if the sequences are scheduled, and appends its lists to the workspace.
void add_schedule(LaunchPlan& plan, const Segments& cut, int entry);

inline constexpr int kScanThreads = 256;
inline std::int64_t scan_grid(const Problem& problem, const Workload& workload, const Segments& cut) {
  const std::int64_t elements = std::int64_t{problem.head_dim_k} * problem.head_dim_v;
  return cut.scans * workload.heads * divided_up(elements / scan_width(problem.head_dim_v), kScanThreads);
}

// What chunk_cost.cpp and chunk_space.cpp know of each other.
LaunchPlan plan_chunk(const Problem& problem, const Variant& variant, const Workload& workload,
                      int multiprocessors);
int estimated_chunk_registers(const Problem& problem, const Variant& variant);
double predicted_chunk_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                               const Architecture& architecture);

}  // namespace gla
