// The family of chunk_backward: what its parameters may be, and how its variants are rendered, launched and ranked.
#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

#include "chunk_shape.h"
#include "family_space.h"
#include "key_walk_layout.h"
#include "names.h"
#include "render_common.h"

namespace gla {
namespace {

constexpr int kMostKeyStages = 2;
// Of the gradients of v with producers, whose chunks the variant's do not bound; sm_90a is all that has them. Beyond this many
// key channels, two blocks share them out.
constexpr int kPipelineChunk = 64, kMostPipelineStages = 3, kPipelineSharedBytes = 227 * 1024;
constexpr int kMostPipelineK = 128, kClusterChunk = 32;
// Of walks over key channels, a warpgroup that starts copies and makes P. They want rows of the state in the registers of a
// warpgroup or two, each with 32, 64, 128 or 256 value channels and their padding; others are walked by mma.sync ahead of dv by
// warpgroups.
constexpr int kKeyProducers = 4, kMostMembers = 2;

/// With producers.
bool suits_warpgroups(const KeyWalkShape& shape) {
  if (shape.split() < 1 || shape.split() > kMostMembers) return false;
  const int columns = shape.padded_v() / shape.split();
  return columns == 32 || columns == 64 || columns == 128 || columns == 256;
}

/// Of the walk for dq, or for dk.
KeyWalkShape key_shape_of(const Problem& problem, const Variant& variant, bool backward) {
  const ChunkShape chunks = shape_of(problem, variant);
  const int tile_k_back = variant[Parameter::tile_k_back];
  KeyWalkShape shape{.head_dim_k = chunks.head_dim_k,
                     .head_dim_v = chunks.head_dim_v,
                     .chunk = chunks.chunk,
                     .tile_k = backward && tile_k_back != 0 ? tile_k_back : variant[Parameter::tile_k],
                     .warps = variant[Parameter::warps],
                     .stages = chunks.stages,
                     .score_parts = chunks.score_parts,
                     .state_parts = chunks.state_parts,
                     .element_bytes = chunks.element_bytes,
                     .element_is_bf16 = chunks.element_is_bf16,
                     .gate_bytes = chunks.gate_bytes,
                     .async_copy = chunks.async_copy,
                     .producers = chunks.producers ? kKeyProducers : 0,
                     .fp32_gate_gradients = problem.fp32_gate_gradients};
  if (shape.producers && !suits_warpgroups(shape)) shape.producers = 0;
  return shape;
}

/// The walk of the gradients of v is one of chunk_forward's. Its warps first share out the tile's value channels; with
/// producers it has chunks and stages of its own.
ChunkShape value_shape_of(const Problem& problem, const Variant& variant) {
  ChunkShape shape = shape_of(problem, variant);
  const int producers = variant[Parameter::producers], warps = variant[Parameter::warps];
  shape.warps_v = std::min(producers ? 8 : warps, shape.tile_v / 16);
  shape.warps_k = producers ? 1 : warps / std::max(shape.warps_v, 1);
  shape.group_tile = 1;
  shape.cluster = 1;
  shape.value_gradients = true;
  if (producers == 0) return shape;
  const bool shared_out = problem.head_dim_k > kMostPipelineK;
  shape.cluster = shared_out ? 2 : 1;
  shape.chunk = shared_out ? kClusterChunk : kPipelineChunk;
  shape.state_parts = 1;
  for (shape.stages = kMostPipelineStages;
       shape.stages > 2 && PipelineLayout(shape).total > kPipelineSharedBytes;)
    --shape.stages;
  return shape;
}

std::size_t key_shared_bytes(const KeyWalkShape& shape, bool backward) {
  return static_cast<std::size_t>(shared_bytes(shape, backward));
}

/// Tokens of a tensor map's boxes, which all walks by producers share.
int box_rows(const KeyWalkShape& keys, const ChunkShape& values) {
  return keys.producers ? std::min(keys.chunk, values.chunk) : values.chunk;
}

int key_registers(const KeyWalkShape& s) {
  if (s.producers) return std::min(255, 65536 / blocks_of_pipeline(s) / s.threads());  // what there is
  constexpr int kAddressing = 40;
  const int state = s.padded_v() / s.split() / 2;
  // A lane's gates, sums and flows of a chunk, and of q^ and k^ what is at hand.
  return state + 3 * s.chunk / 2 + s.chunk / 2 * s.operand_parts() / 2 + kAddressing;
}
int value_registers(const ChunkShape& s) {
  constexpr int kAddressing = 48;
  const int rows = blocks_v(s);
  return rows * (s.padded_k() / s.warps_k + s.chunk) / 2 + 4 * (rows * s.state_parts + s.operand_parts()) +
         kAddressing;
}

// Below this a walk makes P, or operands, anew for each tile more than it has to, and a multiprocessor's four schedulers have
// nothing to do: for small head dims, and for those whose tiles must be small to fit.
constexpr int kLeastTile = 64, kLeastWarps = 4, kMostRoomyDim = 256;

bool is_roomy(int dim_k, int dim_v) {
  return std::min(dim_k, dim_v) >= kLeastTile && std::max(dim_k, dim_v) <= kMostRoomyDim;
}

/// No tile wastes 16 channels where a smaller one would do.
Status check_tile(std::string_view name, int tile, std::string_view dim_name, int dim) {
  if (tile == 16 || tile - 16 < dim) return {};
  return invalid_argument(
      fmt::format("{}={} wastes 16 or more channels of {}={}", name, tile, dim_name, dim));
}

/// Of the walks over key channels by producers and warpgroups, each of which has 64 of them, or two have.
Status key_pipeline_constraints(const KeyWalkShape& s) {
  if (s.tile_k % 64 != 0 || s.warps % (4 * s.split()) != 0) {
    return invalid_argument(fmt::format(
        "tile_k={} with warps={} and producers; accepted: 64 channels for each four of the warps, or eight",
        s.tile_k, s.warps));
  }
  if (s.chunk < 32 || s.stages < 2) {
    return invalid_argument(fmt::format(
        "chunk={}, stages={} with producers; accepted: chunks of 32 or 64, 2 or more", s.chunk, s.stages));
  }
  return {};
}

/// A smaller tile of dk's walk is for warpgroups, as all its others are. dq's leaves room for dv beside it where it has few blocks,
/// and dk's has the multiprocessors to itself.
Status check_tile_back(const KeyWalkShape& keys, const KeyWalkShape& back, int tile_k_back) {
  if (tile_k_back == 0) return {};
  if (tile_k_back >= keys.tile_k || !keys.producers || !back.producers) {
    return invalid_argument(fmt::format(
        "tile_k_back={} with tile_k={}; accepted: 0, and with producers that both have, fewer channels",
        tile_k_back, keys.tile_k));
  }
  return key_pipeline_constraints(back);
}

Status walks_constraints(const Problem& problem, const Architecture& architecture, const Variant& variant) {
  // Gates' gradients in fp32 take a little less, but what is legal must be so for all that share points.
  const KeyWalkShape keys = key_shape_of(tuning_key(problem), variant, false),
                     back = key_shape_of(tuning_key(problem), variant, true);
  const int warps = keys.warps, tile_v = variant[Parameter::tile_v];
  if (Status status = check_tile("tile_k", keys.tile_k, "head_dim_k", keys.head_dim_k); !status.ok())
    return status;
  if (Status status = check_tile("tile_v", tile_v, "head_dim_v", keys.head_dim_v); !status.ok())
    return status;
  if (is_roomy(keys.head_dim_k, keys.head_dim_v) &&
      (warps < kLeastWarps || keys.tile_k < kLeastTile || tile_v < kLeastTile)) {
    return invalid_argument(fmt::format(
        "warps={}, tile_k={}, tile_v={} with head dims {} and {}; accepted from {}, {}, {} on", warps,
        keys.tile_k, tile_v, keys.head_dim_k, keys.head_dim_v, kLeastWarps, kLeastTile, kLeastTile));
  }
  const bool has_producers = variant[Parameter::producers] != 0;
  for (const int tile : {keys.tile_k, has_producers ? 16 : tile_v}) {
    if (tile > 16 * warps) {
      return invalid_argument(
          fmt::format("tiles of {} channels with warps={}; accepted: 16 for each of the warps", tile, warps));
    }
  }
  if ((keys.split() - 1) * (keys.padded_v() / keys.split()) >= keys.head_dim_v) {
    return invalid_argument(fmt::format("warps={} with tile_k={} leave some warps none of head_dim_v={}",
                                        warps, keys.tile_k, keys.head_dim_v));
  }
  const ChunkShape values = value_shape_of(problem, variant);
  if (has_producers) {
    if (problem.group > 1 || values.padded_k() > kMostPipelineK) {
      return invalid_argument(fmt::format(
          "producers={} with groups of {}, head_dim_k={}; accepted: groups of 1, head dims up to 256",
          variant[Parameter::producers], problem.group, values.head_dim_k));
    }
    if (Status status = pipeline_constraints(values, 1); !status.ok()) return status;
  }
  if (keys.producers)
    if (Status status = key_pipeline_constraints(keys); !status.ok()) return status;
  if (Status status = check_tile_back(keys, back, variant[Parameter::tile_k_back]); !status.ok())
    return status;
  if (values.padded_k() % (16 * values.warps_k) != 0) {
    return invalid_argument(
        fmt::format("head_dim_k={}, padded to {}, is not a multiple of 16*warps/(tile_v/16)={}",
                    values.head_dim_k, values.padded_k(), 16 * values.warps_k));
  }
  if (problem.group > 1 && keys.chunk != kBlockTokens) {
    return invalid_argument(fmt::format("chunk={} with groups of {} query heads; accepted: {}", keys.chunk,
                                        problem.group, kBlockTokens));
  }
  if (keys.state_parts != keys.score_parts) {
    return invalid_argument(fmt::format("state_parts={} with score_parts={}; accepted: as many",
                                        keys.state_parts, keys.score_parts));
  }
  const bool words = copies_async(problem);
  if (words != keys.async_copy) {
    return invalid_argument(
        fmt::format("async_copy={} with head dims {} and {}; 1 is for rows of whole 4-byte words",
                    int{keys.async_copy}, keys.head_dim_k, keys.head_dim_v));
  }
  if (!words && keys.stages > 1)
    return invalid_argument(fmt::format("stages={} with async_copy=0; accepted: 1", keys.stages));
  if (!keys.producers && keys.stages > kMostKeyStages) {
    return invalid_argument(fmt::format("stages={} without producers of key channels; accepted: up to {}",
                                        keys.stages, kMostKeyStages));
  }
  const std::size_t shared = std::max({key_shared_bytes(keys, false), key_shared_bytes(back, true),
                                       static_cast<std::size_t>(shared_bytes(values))});
  if (shared > architecture.shared_memory_per_block) {
    return invalid_argument(fmt::format("needs {} bytes of shared memory; a block has {}", shared,
                                        architecture.shared_memory_per_block));
  }
  const int registers = std::max(key_registers(keys), has_producers ? 0 : value_registers(values));
  if (registers > 255 || registers * keys.threads() > architecture.registers_per_multiprocessor) {
    return invalid_argument(
        fmt::format("needs about {} registers in each of {} threads", registers, keys.threads()));
  }
  return {};
}

bool is_hopeless_walk(const Variant& variant, Parameter parameter) {
  return parameter == Parameter::warps && variant[Parameter::tile_k] > 16 * variant[Parameter::warps];
}

std::string key_shape_text(std::string_view name, const KeyWalkShape& s) {
  return fmt::format(
      R"(  static constexpr KeyWalkShape {} = {{.head_dim_k = {}, .head_dim_v = {}, .chunk = {}, .tile_k = {},
                                             .warps = {}, .stages = {}, .score_parts = {}, .state_parts = {},
                                             .element_bytes = {}, .element_is_bf16 = {}, .gate_bytes = {},
                                             .async_copy = {}, .producers = {}{}}};
)",
      name, s.head_dim_k, s.head_dim_v, s.chunk, s.tile_k, s.warps, s.stages, s.score_parts, s.state_parts,
      s.element_bytes, s.element_is_bf16, s.gate_bytes, s.async_copy, s.producers,
      s.fp32_gate_gradients ? ", .fp32_gate_gradients = true" : "");
}

}  // namespace

FamilySpace walks_family(const Problem& problem, const Architecture& architecture) {
  using Values = std::vector<std::int16_t>;
  // One part of the state would be exact enough for dq and dk, but dgk is a difference of sums over all tokens behind a gate:
  // 1 to 20 % off, whatever the gates.
  const Values parts = problem.dtype == DType::bf16 ? Values{2} : Values{2, 3};
  return {Family::walks,
          {{Parameter::segments, {1, 2, 4, 8, 16}},
           {Parameter::chunk, {16, 32, 64}},
           {Parameter::tile_k, {16, 32, 64, 128}},
           {Parameter::tile_k_back, architecture.has_wgmma() ? Values{0, 64} : Values{0}},
           {Parameter::tile_v, {16, 32, 64, 128, 256}},
           {Parameter::warps, {1, 2, 4, 8}},
           {Parameter::stages, {1, 2, kMostPipelineStages}},
           {Parameter::score_parts, parts},
           {Parameter::state_parts, parts},
           {Parameter::async_copy, {0, 1}},
           {Parameter::producers, architecture.has_wgmma() ? Values{0, 4, 8} : Values{0}}},
          [problem, architecture](const Variant& variant) {
            return walks_constraints(problem, architecture, variant);
          },
          is_hopeless_walk};
}

namespace {

/// A kernel of a variant, in launch order. By warpgroups, the gradients of v start beside those of q, which come right ahead
/// of them, whoever makes those, and the gradients of segments' states beside the states (run_beside in
/// templates/device/launch.cuh).
struct WalkEntry {
  std::string_view name, function;
  std::string_view by_warpgroups;  ///< the function where the walk has producers
  std::string_view pass;           ///< its last template argument; of scans that is their threads
  unsigned gradients;              ///< that it is for
  enum Kind { keys_forward, keys_backward, scan, values } kind;
};

constexpr WalkEntry kWhole[] = {
    {"chunk_query_gradients", "query_gradients", "query_pipeline", "gla::Pass::whole",
     kGradientQ | kGradientGk, WalkEntry::keys_forward},
    {"chunk_value_gradients", "value_gradients", "value_pipeline", "gla::Pass::whole",
     kGradientV | kGradientState, WalkEntry::values},
    {"chunk_key_gradients", "key_gradients", "key_pipeline", "gla::Pass::whole", kGradientK | kGradientGk,
     WalkEntry::keys_backward},
};
constexpr unsigned kOfStates = kGradientQ | kGradientGk;
constexpr unsigned kOfStateGradients = kGradientK | kGradientV | kGradientGk | kGradientState;
constexpr WalkEntry kSegmented[] = {
    {"chunk_segment_states", "query_gradients", "query_pipeline", "gla::Pass::segment_states", kOfStates,
     WalkEntry::keys_forward},
    {"chunk_segment_state_gradients", "key_gradients", "key_pipeline", "gla::Pass::segment_states",
     kOfStateGradients, WalkEntry::keys_backward},
    {"chunk_segment_scan", "segment_scan", "", "", kOfStates, WalkEntry::scan},
    {"chunk_segment_scan_back", "segment_scan_back", "", "", kOfStateGradients, WalkEntry::scan},
    {"chunk_query_gradients", "query_gradients", "query_pipeline", "gla::Pass::segment_outputs", kOfStates,
     WalkEntry::keys_forward},
    {"chunk_value_gradients", "value_gradients", "value_pipeline", "gla::Pass::segment_outputs",
     kGradientV | kGradientState, WalkEntry::values},
    {"chunk_key_gradients", "key_gradients", "key_pipeline", "gla::Pass::segment_outputs",
     kGradientK | kGradientGk, WalkEntry::keys_backward},
};

std::string call_of(const WalkEntry& entry, bool by_warpgroups, int threads) {
  return fmt::format("{}<gla::Config, {}>(args)", by_warpgroups ? entry.by_warpgroups : entry.function,
                     entry.kind == WalkEntry::scan ? std::to_string(threads) : std::string(entry.pass));
}

/// Of segments.
bool for_states(const WalkEntry& entry) {
  return entry.pass == "gla::Pass::segment_states";
}

std::span<const WalkEntry> entries_of(const Variant& variant) {
  return variant[Parameter::segments] > 1 ? std::span<const WalkEntry>(kSegmented) : kWhole;
}

std::vector<EntryShape> walks_entry_shapes(const Problem& problem, const Variant& variant) {
  const ChunkShape values = value_shape_of(problem, variant);
  std::vector<EntryShape> shapes;
  for (const WalkEntry& entry : entries_of(variant)) {
    switch (entry.kind) {
      case WalkEntry::keys_forward:
      case WalkEntry::keys_backward: {
        const bool backward = entry.kind == WalkEntry::keys_backward;
        const KeyWalkShape keys = key_shape_of(problem, variant, backward);
        shapes.push_back({keys.threads(), key_shared_bytes(keys, backward),
                          keys.producers ? blocks_of_pipeline(keys) : 1});
        break;
      }
      case WalkEntry::scan:
        shapes.push_back({kScanThreads, 0, 1});
        break;
      case WalkEntry::values:
        shapes.push_back({values.threads(), static_cast<std::size_t>(shared_bytes(values)), 1});
        break;
    }
  }
  if (variant[Parameter::segments] > 1) shapes.push_back(schedule_shape());
  return shapes;
}

Source render_walks(const Problem& problem, const Variant& variant) {
  const ChunkShape values = value_shape_of(problem, variant);
  const KeyWalkShape keys = key_shape_of(problem, variant, false);
  std::vector<std::string_view> headers{"chunk_backward.cuh"};
  if (variant[Parameter::segments] > 1) headers.push_back("schedule.cuh");
  std::string config = shape_text(values) + key_shape_text("key_walk", keys);
  config += key_shape_text("key_walk_back", key_shape_of(problem, variant, true));
  if (values.producers) {
    if (keys.producers) headers.push_back("key_pipeline.cuh");
    headers.push_back("value_pipeline.cuh");
    config += fmt::format("  static constexpr int box_rows = {};\n", box_rows(keys, values));
  }
  Source source{"chunk_backward.cu", config_text(problem, headers, config), {}};
  const std::vector<EntryShape> shapes = walks_entry_shapes(problem, variant);
  for (const WalkEntry& entry : entries_of(variant)) {
    const auto [threads, bytes, min_blocks] = shapes[source.entries.size()];
    const bool of_values = entry.kind == WalkEntry::values;
    const bool by_warpgroups =
        entry.kind != WalkEntry::scan && (of_values ? values.producers : keys.producers) != 0;
    const bool has_beside = values.producers != 0 && entry.kind == WalkEntry::keys_forward;
    add_entry(source, {.name = entry.name,
                       .threads = threads,
                       .min_blocks = min_blocks,
                       .call = call_of(entry, by_warpgroups, threads),
                       .args_type = values.producers ? "BackwardTensorArgs" : "BackwardArgs",
                       .cluster = of_values ? values.cluster : 1,
                       .start = by_warpgroups ? Start::by_itself
                                : has_beside  ? Start::waited
                                              : Start::early});
  }
  if (variant[Parameter::segments] > 1) add_schedule_entry(source);
  return source;
}

WalkKind walk_kind(const WalkEntry& entry) {
  return entry.kind == WalkEntry::keys_forward ? WalkKind::inputs
         : entry.kind == WalkEntry::values     ? WalkKind::values
                                               : WalkKind::keys;
}

LaunchPlan plan_walks(const Problem& problem, const Variant& variant, const Workload& workload,
                      int multiprocessors) {
  LaunchPlan plan;
  const ChunkShape values = value_shape_of(problem, variant);
  plan.boxes = boxes_of(problem, values);
  if (values.producers) {
    const KeyWalkShape keys = key_shape_of(problem, variant, false);
    plan.boxes.rows = box_rows(keys, values);
    plan.boxes.gate_gradient_bytes = keys.gate_gradient_bytes();
  }
  const std::span<const WalkEntry> entries = entries_of(variant);
  const std::vector<EntryShape> shapes = walks_entry_shapes(problem, variant);
  const auto tiles_of_keys = [&](bool backward) {
    return divided_up(problem.head_dim_k, key_shape_of(problem, variant, backward).tile_k);
  };
  Segments cut{.walks = workload.sequences};
  if (variant[Parameter::segments] > 1) {
    const int chunk = std::max<int>(variant[Parameter::chunk], values.chunk);
    cut = cut_into_segments(problem, variant, workload, chunk, workload.heads * tiles_of_keys(false),
                            room_for(shapes.front(), multiprocessors));
    plan.segment_tokens = cut.tokens;
    plan.segments = cut.segments;
    const std::int64_t vectors = cut.slots * workload.heads * problem.head_dim_k;
    (void)reserve_floats(plan, vectors * problem.head_dim_v);  // segment_states
    plan.decays_offset = reserve_floats(plan, vectors);
    plan.gradients_offset = reserve_floats(plan, vectors * problem.head_dim_v);
    plan.gradient_decays_offset = reserve_floats(plan, vectors);
    add_schedule(plan, cut, static_cast<int>(entries.size()));
  }
  for (std::size_t index = 0; index < entries.size(); ++index) {
    const WalkEntry& entry = entries[index];
    const bool scans = entry.kind == WalkEntry::scan, of_values = entry.kind == WalkEntry::values;
    const std::int64_t tiles = of_values ? divided_up(problem.head_dim_v, variant[Parameter::tile_v])
                                         : tiles_of_keys(entry.kind == WalkEntry::keys_backward);
    const int cluster = of_values ? values.cluster : 1;
    const std::int64_t walks = for_states(entry) ? cut.states : cut.walks;
    Launch launch{
        .entry = static_cast<int>(index),
        .grid = scans ? scan_grid(problem, workload, cut) : walks * workload.heads * tiles * cluster,
        .threads = shapes[index].threads,
        .shared_bytes = shapes[index].shared_bytes,
        .cluster = cluster,
        .needs = entry.gradients};
    if (plan.segment_tokens == 0)
      launch.may_be_cut(walk_kind(entry), of_values ? values.chunk : variant[Parameter::chunk],
                        shapes[index].min_blocks);
    launch.may_run_aside =
        plan.segment_tokens == 0 && of_values && key_shape_of(problem, variant, false).producers;
    plan.launches.add(launch);
  }
  if (problem.gate_k)
    plan.flows_offset =
        reserve_floats(plan, (workload.sequences + cut.slots) * workload.heads * problem.head_dim_k);
  return plan;
}

int estimated_walks_registers(const Problem& problem, const Variant& variant) {
  const ChunkShape values = value_shape_of(problem, variant);
  return std::max(key_registers(key_shape_of(problem, variant, false)),
                  values.producers ? 0 : value_registers(values));
}

double predicted_walks_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                               const Architecture& architecture) {
  // Products of 16 x 8 x 16 that a block of each walk makes for a chunk, by their loops; the rest of what it does costs
  // about as much again. Only the order of predictions is trusted.
  constexpr double kSecondsPerProduct = 1.2e-9, kChunkSeconds = 1.5e-6;
  constexpr double kScanSeconds = 6e-6, kShareOfStates = 0.35, kShareOfWarpgroups = 0.45;
  const double parts = variant[Parameter::score_parts] * (variant[Parameter::score_parts] + 1) / 2.0;
  const double state_parts = variant[Parameter::state_parts], group = problem.group;
  const double c16 = variant[Parameter::chunk] / 16.0, triangle = c16 * (c16 + 1);
  const double tile_k = variant[Parameter::tile_k] / 16.0, tile_v = variant[Parameter::tile_v] / 16.0;
  const double k = problem.head_dim_k / 16.0, v = problem.head_dim_v / 16.0;
  const double of_keys =
      group * (triangle * v + 4 * c16 * tile_k * v * state_parts + 2 * triangle * tile_k * parts);
  const double of_values_products =
      group * (triangle * k * parts + 4 * c16 * k * tile_v * state_parts + triangle * tile_v * state_parts);
  const double per_scheduler = std::min<double>(variant[Parameter::warps], 4);
  const double tokens =
      static_cast<double>(workload.tokens) /
      static_cast<double>(workload.packed ? std::max<std::int64_t>(1, workload.sequences) : 1);
  double seconds = 0;
  // What packed sequences are cut into only the device knows: as much as if they were as long as each other.
  const LaunchPlan launches =
      plan_walks(problem, variant, workload, workload.packed ? 0 : architecture.multiprocessors);
  const double walk_tokens =
      launches.segment_tokens == 0 ? tokens : std::min(tokens, static_cast<double>(launches.segment_tokens));
  const double chunks = std::ceil(walk_tokens / variant[Parameter::chunk]);
  // Of all segments, as if each were as long as those that are not the last of their sequence.
  const double whole_share = launches.segment_tokens == 0 || workload.packed
                                 ? 1.0
                                 : tokens / (static_cast<double>(launches.segments) * walk_tokens);
  const std::span<const WalkEntry> entries = entries_of(variant);
  const int registers = estimated_walks_registers(problem, variant);
  for (const Launch& launch : launches.launches) {
    const auto index = static_cast<std::size_t>(launch.entry);
    if (index == entries.size()) continue;  // the schedule
    const WalkEntry& entry = entries[index];
    if (entry.kind == WalkEntry::scan) {
      seconds += kScanSeconds;
      continue;
    }
    const bool of_values = entry.kind == WalkEntry::values;
    const int resident = std::max(1, occupancy(architecture, launch.threads, registers, launch.shared_bytes));
    const double waves = std::ceil(whole_share * static_cast<double>(launch.grid) /
                                   (static_cast<double>(architecture.multiprocessors) * resident));
    const double products = of_values ? of_values_products : of_keys;
    const bool by_warpgroups =
        of_values ? variant[Parameter::producers] != 0 : key_shape_of(problem, variant, false).producers != 0;
    const double share = by_warpgroups ? kShareOfWarpgroups : 1.0;
    const double walk =
        share * (kChunkSeconds * group + products * kSecondsPerProduct * resident * 8 / per_scheduler / 4);
    const double stalls = variant[Parameter::stages] > 1 || resident > 1 ? 1.0 : 1.3;
    seconds += waves * chunks * walk * stalls * (for_states(entry) ? kShareOfStates : 1.0);
  }
  return std::max(seconds, floor_bytes(problem, workload, false) / architecture.copy_bandwidth);
}

}  // namespace

const FamilyKernels& walks_kernels() {
  static constexpr FamilyKernels kKernels{render_walks, plan_walks, walks_entry_shapes,
                                          estimated_walks_registers, predicted_walks_seconds};
  return kKernels;
}

}  // namespace gla
