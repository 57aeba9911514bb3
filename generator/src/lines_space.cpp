// The family of recurrent_backward: what its parameters may be, and how its variants are rendered, launched and ranked.
#include <algorithm>
#include <cmath>

#include "chunk_shape.h"
#include "family_space.h"
#include "line_walk_layout.h"
#include "names.h"
#include "render_common.h"

namespace gla {
namespace {

int threads_of_lines(const Variant& variant) {
  return 32 * variant[Parameter::warps];
}

/// Of the walk over rows, or of that over columns.
LineWalkShape line_shape_of(const Problem& problem, const Variant& variant, bool of_keys) {
  const int dims[] = {problem.head_dim_k, problem.head_dim_v};
  return {.lines = dims[of_keys ? 0 : 1],
          .across = dims[of_keys ? 1 : 0],
          .lanes = variant[Parameter::lanes],
          .rows = variant[Parameter::rows]};
}

bool has_gate(const Problem& problem, bool of_keys) {
  return of_keys ? problem.gate_k : problem.gate_v;
}

int line_registers(const Problem& problem, const Variant& variant, bool of_keys) {
  constexpr int kAddressing = 64;
  const LineWalkShape shape = line_shape_of(problem, variant, of_keys);
  const int across = 4 * shape.quads(), rows = shape.rows;
  // The states of a chunk, or that of the way there; the gradient; two tokens' inputs.
  const int states = has_gate(problem, of_keys) ? variant[Parameter::chunk] + 1 : 2;
  return states * across * rows + across * (has_gate(problem, !of_keys) ? 4 : 2) + 4 * rows + kAddressing;
}

int estimated_lines_registers(const Problem& problem, const Variant& variant) {
  return std::max(line_registers(problem, variant, true), line_registers(problem, variant, false));
}

Status lines_constraints(const Problem& problem, const Architecture& architecture, const Variant& variant) {
  const int lanes = variant[Parameter::lanes];
  const int longer = std::max(problem.head_dim_k, problem.head_dim_v);
  if (lanes > 1 && 2 * lanes >= longer) {
    return invalid_argument(
        fmt::format("lanes={} leaves lanes without channels of head dims {} and {}; accepted: less than half "
                    "of the larger",
                    lanes, problem.head_dim_k, problem.head_dim_v));
  }
  const int registers = estimated_lines_registers(problem, variant);
  if (registers > 255 || registers * threads_of_lines(variant) > architecture.registers_per_multiprocessor) {
    return invalid_argument(
        fmt::format("needs about {} registers in each of {} threads", registers, threads_of_lines(variant)));
  }
  return {};
}

}  // namespace

FamilySpace lines_family(const Problem& problem, const Architecture& architecture) {
  return {Family::lines,
          {{Parameter::lanes, {1, 2, 4, 8, 16, 32}},
           {Parameter::rows, {1, 2, 4}},
           {Parameter::warps, {1, 2, 4}},
           {Parameter::chunk, {2, 4, 8, 16}}},
          [problem, architecture](const Variant& variant) {
            return lines_constraints(problem, architecture, variant);
          }};
}

namespace {

Source render_lines(const Problem& problem, const Variant& variant) {
  const std::string parameters = fmt::format(
      "  static constexpr int lanes = {}, rows = {}, warps = {}, chunk = {};\n", variant[Parameter::lanes],
      variant[Parameter::rows], variant[Parameter::warps], variant[Parameter::chunk]);
  Source source{"recurrent_backward.cu", config_text(problem, {"line_walk.cuh"}, parameters), {}};
  const std::string gate_gradient =
      problem.fp32_gate_gradients ? fmt::format(", {}", type_name(DType::fp32)) : "";
  for (const bool of_keys : {true, false}) {
    add_entry(source, {.name = of_keys ? "recurrent_key_gradients" : "recurrent_value_gradients",
                       .threads = threads_of_lines(variant),
                       .call = fmt::format("line_walk<gla::Config, {}{}>(args)", of_keys, gate_gradient),
                       .args_type = "BackwardArgs"});
  }
  return source;
}

std::vector<EntryShape> lines_entry_shapes(const Problem&, const Variant& variant) {
  return {2, EntryShape{threads_of_lines(variant), 0, 1}};
}

LaunchPlan plan_lines(const Problem& problem, const Variant& variant, const Workload& workload) {
  LaunchPlan plan;
  const std::int64_t states = workload.sequences * workload.heads;
  std::int64_t floats = 0;  // of a state in a slot
  for (const bool of_keys : {true, false}) {
    const LineWalkShape shape = line_shape_of(problem, variant, of_keys);
    // The walk whose lines are rows of memory writes the initial state's gradient.
    unsigned gradients = of_keys ? kGradientQ | kGradientK | kGradientGk : kGradientV | kGradientGv;
    if (of_keys != problem.state_v_first) gradients |= kGradientState;
    plan.launches.add({.entry = of_keys ? 0 : 1,
                       .grid = divided_up(states * shape.tiles(), variant[Parameter::warps]),
                       .threads = threads_of_lines(variant),
                       .needs = gradients});
    if (has_gate(problem, of_keys))
      floats = std::max(floats, std::int64_t{shape.tiles()} * shape.warp_floats());
  }
  if (floats == 0) return plan;
  const int chunk = variant[Parameter::chunk];
  // About as many segments as a segment has chunks are the fewest states to keep, but not many of a few chunks each.
  constexpr std::int64_t kLeastChunks = 8;
  const std::int64_t usual = workload.packed
                                 ? divided_up(workload.tokens, std::max<std::int64_t>(1, workload.sequences))
                                 : workload.tokens;
  const auto even = static_cast<std::int64_t>(std::ceil(std::sqrt(divided_up(usual, chunk))));
  plan.segment_tokens = chunk * std::max(kLeastChunks, even);
  plan.segments = std::max<std::int64_t>(1, divided_up(workload.tokens, plan.segment_tokens));
  std::int64_t slots =
      workload.sequences * line_walk_chunk_slots(workload.tokens, plan.segment_tokens, chunk);
  if (plan.segments > 1) {
    slots += workload.packed ? workload.tokens / plan.segment_tokens + workload.sequences
                             : workload.sequences * plan.segments;
  }
  plan.workspace_bytes =
      round_up_256(static_cast<std::size_t>(slots * workload.heads * floats) * sizeof(float));
  return plan;
}

double predicted_lines_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                               const Architecture& architecture) {
  // A token costs a warp its share of the arithmetic, at 4 warps' instructions a cycle, and a wait for memory or for sums over
  // lanes that other warps hide. Only the order of predictions is trusted.
  constexpr double kTokenLatency = 600e-9, kSumLatency = 20e-9;
  const double tokens =
      static_cast<double>(workload.tokens) /
      static_cast<double>(workload.packed ? std::max<std::int64_t>(1, workload.sequences) : 1);
  const int registers = estimated_lines_registers(problem, variant);
  const int threads = threads_of_lines(variant);
  const int resident = std::max(1, occupancy(architecture, threads, registers, 0));
  const LaunchPlan plan = plan_lines(problem, variant, workload);
  double seconds = 0;
  for (const Launch& launch : plan.launches) {
    const bool of_keys = launch.entry == 0;
    const LineWalkShape shape = line_shape_of(problem, variant, of_keys);
    const double elements = 4.0 * shape.quads() * shape.rows;
    const bool gated = has_gate(problem, of_keys);
    // There, there again and in registers for the gates; and back.
    const double walks = (of_keys ? 1 : 0) + (gated ? 2 : 0) + 1;
    const double instructions =
        problem.group * elements * (3 * walks + 2) + 6.0 * shape.rows * walks + 20.0 * shape.quads() * walks;
    const double blocks = static_cast<double>(launch.grid);
    const double slots = static_cast<double>(architecture.multiprocessors) * resident;
    const double waves = std::ceil(blocks / slots);
    const double warps = std::min(blocks / architecture.multiprocessors, static_cast<double>(resident)) *
                         variant[Parameter::warps];
    const double busy = instructions * std::max(warps, 4.0) / 4 / architecture.clock_hz;
    const double wait = walks * (kTokenLatency + kSumLatency * std::log2(shape.lanes + 1.0) * shape.rows);
    const double stored = gated ? 8.0 * elements * 32 * warps * architecture.multiprocessors /
                                      variant[Parameter::chunk] / architecture.copy_bandwidth
                                : 0.0;
    seconds += waves * tokens * (std::max(busy, wait) + stored);
  }
  return std::max(seconds, floor_bytes(problem, workload, true) / architecture.copy_bandwidth) + 2e-6;
}

}  // namespace

const FamilyKernels& lines_kernels() {
  static constexpr FamilyKernels kKernels{render_lines, plan_lines, lines_entry_shapes,
                                          estimated_lines_registers, predicted_lines_seconds};
  return kKernels;
}

}  // namespace gla
