// The chunk families: what their parameters may be, and how their variants are rendered, launched and ranked.
#include <algorithm>
#include <cmath>

#include "chunk_layout.h"
#include "family_space.h"
#include "names.h"
#include "render_common.h"

namespace gla {
namespace {

constexpr int kScanThreads = 256;
constexpr int kMostWarps = 16;

ChunkShape shape_of(const Problem& problem, const Variant& variant) {
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
          .async_copy = variant[Parameter::async_copy] != 0};
}

int blocks_v(const ChunkShape& shape) {
  return shape.tile_v / (16 * shape.warps_v);
}
int tiles_v(const ChunkShape& shape) {
  return (shape.head_dim_v + shape.tile_v - 1) / shape.tile_v;
}

std::vector<std::int16_t> divisors(int number) {
  std::vector<std::int16_t> found;
  for (int i = 1; i <= number; ++i)
    if (number % i == 0) found.push_back(static_cast<std::int16_t>(i));
  return found;
}

/// True if cp.async can fetch rows of `channels` elements: at least 4 bytes at a time.
bool copies_async(int channels, std::size_t element_bytes) {
  return channels * static_cast<int>(element_bytes) % 4 == 0;
}

Status constraints(const Problem& problem, const Architecture& architecture, const Variant& variant) {
  const ChunkShape shape = shape_of(problem, variant);
  const int min_blocks = variant[Parameter::min_blocks];
  if (shape.tile_v - 16 >= shape.head_dim_v && shape.tile_v > 16)
    return invalid_argument(
        fmt::format("tile_v={} wastes 16 or more channels of head_dim_v={}", shape.tile_v, shape.head_dim_v));
  if (shape.tile_v % (16 * shape.warps_v) != 0)
    return invalid_argument(
        fmt::format("tile_v={} is not a multiple of 16*warps_v={}", shape.tile_v, 16 * shape.warps_v));
  if (shape.padded_k() % (16 * shape.warps_k) != 0) {
    return invalid_argument(fmt::format("head_dim_k={}, padded to {}, is not a multiple of 16*warps_k={}",
                                        shape.head_dim_k, shape.padded_k(), 16 * shape.warps_k));
  }
  if (blocks_v(shape) > 4)
    return invalid_argument(fmt::format("tile_v/(16*warps_v)={} is above 4", blocks_v(shape)));
  const int warps = shape.warps_v * shape.warps_k;
  if (warps > kMostWarps)
    return invalid_argument(fmt::format("warps_v*warps_k={} is above {}", warps, kMostWarps));
  if (shape.stages > 1 && !shape.async_copy)
    return invalid_argument(fmt::format("stages={} needs async_copy=1", shape.stages));
  const auto element = static_cast<std::size_t>(shape.element_bytes),
             gate = static_cast<std::size_t>(shape.gate_bytes);
  if (shape.async_copy &&
      !(copies_async(shape.head_dim_k, element) && copies_async(shape.head_dim_v, element) &&
        copies_async(shape.head_dim_k, gate))) {
    return invalid_argument(
        fmt::format("async_copy=1 needs rows of whole 4-byte words; head dims are {} and {}",
                    shape.head_dim_k, shape.head_dim_v));
  }
  const auto shared = static_cast<std::size_t>(ChunkLayout(shape).total);
  if (shared > architecture.shared_memory_per_block) {
    return invalid_argument(fmt::format("needs {} bytes of shared memory; a block has {}", shared,
                                        architecture.shared_memory_per_block));
  }
  const int registers = estimated_chunk_registers(problem, variant);
  if (registers > 255 ||
      registers * shape.threads() * min_blocks > architecture.registers_per_multiprocessor) {
    return invalid_argument(fmt::format("needs about {} registers in each of {} threads", registers,
                                        shape.threads() * min_blocks));
  }
  if (min_blocks > 1 && occupancy(architecture, shape.threads(), 16, shared) < min_blocks)
    return invalid_argument(fmt::format("min_blocks={} blocks do not fit on a multiprocessor", min_blocks));
  return {};
}

std::vector<std::int16_t> parts(DType dtype) {
  if (dtype == DType::bf16) return {1, 2};
  return {2, 3};
}

/// Tokens per segment: a multiple of the chunk.
std::int64_t segment_tokens(const Variant& variant, const Workload& workload) {
  const std::int64_t chunk = variant[Parameter::chunk];
  const std::int64_t tokens = std::max<std::int64_t>(workload.tokens, 1);
  const std::int64_t per_segment = (tokens + variant[Parameter::segments] - 1) / variant[Parameter::segments];
  return (per_segment + chunk - 1) / chunk * chunk;
}

std::size_t round_up_256(std::size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

std::string config_text(const Problem& problem, const Variant& variant) {
  const ChunkShape s = shape_of(problem, variant);
  return fmt::format(R"(#include "chunk_forward.cuh"

namespace gla {{

struct Config {{
  using Element = {};
  using Gate = {};
  static constexpr int group = {};
  static constexpr bool state_v_first = {};
  static constexpr ChunkShape shape = {{.head_dim_k = {}, .head_dim_v = {}, .chunk = {}, .tile_v = {}, .warps_v = {},
                                       .warps_k = {}, .group_tile = {}, .stages = {}, .score_parts = {},
                                       .state_parts = {}, .element_bytes = {}, .element_is_bf16 = {},
                                       .gate_bytes = {}, .async_copy = {}}};
}};

}}  // namespace gla

)",
                     type_name(problem.dtype), type_name(problem.gate_dtype), problem.group,
                     problem.state_v_first, s.head_dim_k, s.head_dim_v, s.chunk, s.tile_v, s.warps_v,
                     s.warps_k, s.group_tile, s.stages, s.score_parts, s.state_parts, s.element_bytes,
                     s.element_is_bf16, s.gate_bytes, s.async_copy);
}

}  // namespace

FamilySpace chunk_family(const Problem& problem, const Architecture& architecture, Family family) {
  const std::vector<ParameterValues> declared = {
      {Parameter::segments, {2, 4, 8, 16, 32, 64}},
      {Parameter::chunk, {16, 32, 64, 128}},
      {Parameter::tile_v, {16, 32, 64, 128, 256}},
      {Parameter::warps_v, {1, 2, 4, 8}},
      {Parameter::warps_k, {1, 2, 4, 8}},
      {Parameter::group_tile, divisors(problem.group)},
      {Parameter::stages, {1, 2, 3}},
      {Parameter::score_parts, parts(problem.dtype)},
      {Parameter::state_parts, parts(problem.dtype)},
      {Parameter::async_copy, {0, 1}},
      {Parameter::min_blocks, {1, 2, 3, 4}},
  };
  FamilySpace space{family, {}, [problem, architecture](const Variant& variant) {
                      return constraints(problem, architecture, variant);
                    }};
  for (Parameter parameter : parameters_of(family))
    for (const ParameterValues& values : declared)
      if (values.parameter == parameter) space.parameters.push_back(values);
  return space;
}

Source render_chunk(const Problem& problem, const Variant& variant) {
  const int threads = shape_of(problem, variant).threads();
  const int blocks = variant[Parameter::min_blocks];
  Source source{"chunk_forward.cu", config_text(problem, variant), {}};
  const auto add_pass = [&](std::string_view entry, std::string_view pass) {
    add_entry(source, entry, threads, blocks,
              fmt::format("chunk_forward<gla::Config, gla::Pass::{}>(args)", pass));
  };
  if (variant.family == Family::fused) {
    add_pass("chunk_fused", "whole");
  } else {
    add_pass("chunk_segment_states", "segment_states");
    add_entry(source, "chunk_segment_scan", kScanThreads, 1,
              fmt::format("segment_scan<gla::Config, {}>(args)", kScanThreads));
    add_pass("chunk_segment_outputs", "segment_outputs");
  }
  return source;
}

std::vector<EntryShape> chunk_entry_shapes(const Problem& problem, const Variant& variant) {
  const ChunkShape shape = shape_of(problem, variant);
  const EntryShape walk{shape.threads(), static_cast<std::size_t>(ChunkLayout(shape).total),
                        variant[Parameter::min_blocks]};
  if (variant.family == Family::fused) return {walk};
  return {walk, EntryShape{kScanThreads, 0, 1}, walk};
}

LaunchPlan plan_chunk(const Problem& problem, const Variant& variant, const Workload& workload) {
  const ChunkShape shape = shape_of(problem, variant);
  const std::vector<EntryShape> shapes = chunk_entry_shapes(problem, variant);
  const std::int64_t states = workload.sequences * workload.heads;
  const std::int64_t state_blocks = states * tiles_v(shape);
  const std::int64_t output_blocks = state_blocks * (problem.group / shape.group_tile);
  LaunchPlan plan;
  if (variant.family == Family::fused) {
    plan.launches = {{0, output_blocks, shapes[0].threads, shapes[0].shared_bytes}};
    return plan;
  }
  const std::int64_t elements = std::int64_t{problem.head_dim_k} * problem.head_dim_v;
  plan.segment_tokens = segment_tokens(variant, workload);
  plan.segments =
      std::max<std::int64_t>(1, (workload.tokens + plan.segment_tokens - 1) / plan.segment_tokens);
  plan.launches = {
      {0, state_blocks * plan.segments, shapes[0].threads, shapes[0].shared_bytes},
      {1, states * ((elements + kScanThreads - 1) / kScanThreads), shapes[1].threads, shapes[1].shared_bytes},
      {2, output_blocks * plan.segments, shapes[2].threads, shapes[2].shared_bytes}};
  const std::int64_t slots = workload.packed ? workload.tokens / plan.segment_tokens + workload.sequences
                                             : workload.sequences * plan.segments;
  plan.decays_offset =
      round_up_256(static_cast<std::size_t>(slots * workload.heads * elements) * sizeof(float));
  plan.workspace_bytes =
      plan.decays_offset +
      round_up_256(static_cast<std::size_t>(slots * workload.heads * problem.head_dim_k) * sizeof(float));
  return plan;
}

int estimated_chunk_registers(const Problem& problem, const Variant& variant) {
  constexpr int kAddressing = 48;
  const ChunkShape shape = shape_of(problem, variant);
  const int rows = blocks_v(shape);
  const int state = rows * shape.padded_k() / shape.warps_k / 2;
  const int output_tokens = std::min(shape.chunk, 64 / std::max(rows, 1));
  const int outputs = rows * output_tokens / 2;
  const int operands = 4 * (rows * shape.state_parts + shape.operand_parts());
  return state + outputs + operands + kAddressing;
}

double predicted_chunk_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                               const Architecture& architecture) {
  const ChunkShape s = shape_of(problem, variant);
  const std::size_t shared = static_cast<std::size_t>(ChunkLayout(s).total);
  const int registers = std::max(
      estimated_chunk_registers(problem, variant),
      architecture.registers_per_multiprocessor / (s.threads() * variant[Parameter::min_blocks]) > 255 ? 0
                                                                                                       : 16);
  const int resident = std::max(1, occupancy(architecture, s.threads(), registers, shared));
  const bool segmented = variant.family == Family::segmented;
  const LaunchPlan launch_plan = plan_chunk(problem, variant, workload);

  // Cycles of one multiprocessor per chunk and block.
  const double c = s.chunk, k = s.padded_k(), v = s.tile_v, g = s.group_tile;
  const auto terms = [](int p) { return p * (p + 1) / 2.0; };
  const double product_terms = s.element_is_bf16 ? s.state_parts : terms(s.state_parts);
  const double mma_flops = g * (c * c * k * terms(s.score_parts) + 2 * c * k * v * terms(s.state_parts) +
                                c * c * v * product_terms) +
                           2 * c * k * v * product_terms;
  const double tensor =
      mma_flops / (architecture.tensor_rate / architecture.multiprocessors / architecture.clock_hz);
  const double operands = (1 + g) * c * k * (s.gate_bytes ? 3.0 : 1.0) * s.operand_parts() / 16.0;
  const double loads = s.warps_v * (g * c * k * s.state_parts + g * c * c / 2 + c * k) * 2 / 128.0 +
                       c * v * s.warps_k * 4 / 128.0 + g * (c / 16 + 1) * c * k * s.score_parts * 4 / 128.0;
  const double work = tensor + operands + loads;
  constexpr double kBarrierCycles = 250;
  const double latency =
      kBarrierCycles * (4 + 2 * g) + 12.0 * c / s.token_groups(s.chunk) + (s.stages == 1 ? 1200.0 : 0.0);
  const double per_chunk = std::max(resident * work, work + latency);

  const double chunks = std::ceil(static_cast<double>(workload.tokens) /
                                  static_cast<double>(workload.packed ? workload.sequences : 1) / c);
  const double walks = segmented ? static_cast<double>(launch_plan.segments) : 1.0;
  const double blocks = static_cast<double>(workload.sequences * workload.heads) * tiles_v(s) *
                        (problem.group / s.group_tile) * walks;
  const double waves = std::ceil(blocks / (architecture.multiprocessors * resident));
  const double state_pass = segmented ? 1.55 : 1.0;
  const double compute = waves * std::ceil(chunks / walks) * per_chunk * state_pass / architecture.clock_hz;
  const double workspace = segmented ? 4.0 * static_cast<double>(launch_plan.workspace_bytes) : 0.0;
  const double moved = floor_bytes(problem, workload, true) * (segmented ? 1.6 : 1.0) + workspace;
  const double launches = segmented ? 6e-6 : 2e-6;
  return std::max(compute, moved / architecture.copy_bandwidth) + launches;
}

}  // namespace gla
