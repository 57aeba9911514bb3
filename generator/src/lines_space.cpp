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

bool has_gate(const Problem& problem, bool of_keys) {
  return of_keys ? problem.gate_k : problem.gate_v;
}

/// Of the walk over rows, or of that over columns.
LineWalkShape line_shape_of(const Problem& problem, const Variant& variant, bool of_keys) {
  const int dims[] = {problem.head_dim_k, problem.head_dim_v};
  const int gate_bytes = static_cast<int>(size_of(problem.gate_dtype));
  return {.lines = dims[of_keys ? 0 : 1],
          .across = dims[of_keys ? 1 : 0],
          .lanes = variant[Parameter::lanes],
          .rows = variant[Parameter::rows],
          .element_bytes = static_cast<int>(size_of(problem.dtype)),
          .line_gate_bytes = has_gate(problem, of_keys) ? gate_bytes : 0,
          .across_gate_bytes = has_gate(problem, !of_keys) ? gate_bytes : 0,
          .one_query = problem.group == 1,
          .reads_lines = of_keys || has_gate(problem, of_keys)};
}

/// Tokens of a unit of inputs: a chunk, or as many chunks as 8 tokens have, of long rows 4.
int unit_of(const Problem& problem, const Variant& variant) {
  constexpr int kTokens = 8, kTokensOfLongRows = 4, kLongBytes = 1200;
  int bytes = 0;
  for (const bool of_keys : {true, false})
    bytes = std::max(bytes, line_shape_of(problem, variant, of_keys).token_bytes());
  return std::max<int>(variant[Parameter::chunk], bytes > kLongBytes ? kTokensOfLongRows : kTokens);
}

int line_registers(const Problem& problem, const Variant& variant, bool of_keys) {
  constexpr int kAddressing = 56;
  const LineWalkShape shape = line_shape_of(problem, variant, of_keys);
  const bool gated = has_gate(problem, of_keys);
  const int chunk = variant[Parameter::chunk];
  // The states of a chunk, or that of the way there; the gradient; the sums of a chunk; a token's inputs.
  return shape.lane_floats() * (gated ? chunk + 1 : 1) + chunk * shape.rows * (gated ? 2 : 1) +
         shape.token_bytes() / 4 / shape.lanes + kAddressing;
}

int estimated_lines_registers(const Problem& problem, const Variant& variant) {
  return std::max(line_registers(problem, variant, true), line_registers(problem, variant, false));
}

/// For a unit's inputs and those of the one to come, and for the states before a segment's chunks, in a call of `tokens` tokens.
std::size_t line_shared_bytes(const Problem& problem, const Variant& variant, bool of_keys,
                              std::int64_t tokens, std::int64_t segment_tokens) {
  const int chunk = variant[Parameter::chunk];
  const LineWalkShape shape = line_shape_of(problem, variant, of_keys);
  std::int64_t bytes = 2 * unit_of(problem, variant) * shape.token_bytes();
  if (has_gate(problem, of_keys) && segment_tokens <= kLineSharedChunks * chunk)
    bytes += line_walk_chunk_slots(tokens, segment_tokens, chunk) * shape.warp_floats() *
             static_cast<std::int64_t>(sizeof(float));
  return static_cast<std::size_t>(bytes * variant[Parameter::warps]);
}

/// The same in a call that takes most.
std::size_t most_line_shared_bytes(const Problem& problem, const Variant& variant, bool of_keys) {
  const std::int64_t tokens = std::int64_t{kLineSharedChunks} * variant[Parameter::chunk];
  return line_shared_bytes(problem, variant, of_keys, tokens, tokens);
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
  if (registers > 255) {
    return invalid_argument(
        fmt::format("needs about {} registers in each of {} threads", registers, threads_of_lines(variant)));
  }
  const std::size_t shared = std::max(most_line_shared_bytes(problem, variant, true),
                                      most_line_shared_bytes(problem, variant, false));
  if (shared > architecture.shared_memory_per_block) {
    return invalid_argument(fmt::format("needs {} bytes of shared memory; a block has {}", shared,
                                        architecture.shared_memory_per_block));
  }
  return {};
}

}  // namespace

FamilySpace lines_family(const Problem& problem, const Architecture& architecture) {
  return {Family::lines,
          {{Parameter::lanes, {1, 2, 4, 8, 16, 32}},
           {Parameter::rows, {1, 2, 4, 8}},
           {Parameter::warps, {1, 2, 4}},
           {Parameter::chunk, {2, 4, 8, 16}}},
          [problem, architecture](const Variant& variant) {
            return lines_constraints(problem, architecture, variant);
          }};
}

namespace {

Source render_lines(const Problem& problem, const Variant& variant) {
  const std::string parameters =
      fmt::format("  static constexpr int lanes = {}, rows = {}, warps = {}, chunk = {}, unit = {};\n",
                  variant[Parameter::lanes], variant[Parameter::rows], variant[Parameter::warps],
                  variant[Parameter::chunk], unit_of(problem, variant));
  Source source{"recurrent_backward.cu", config_text(problem, {"line_walk.cuh"}, parameters), {}};
  const std::string gate_gradient =
      problem.fp32_gate_gradients ? fmt::format(", {}", type_name(DType::fp32)) : "";
  for (const bool of_keys : {true, false}) {
    add_entry(source, {.name = of_keys ? "recurrent_key_gradients" : "recurrent_value_gradients",
                       .threads = threads_of_lines(variant),
                       .call = fmt::format("{}<gla::Config{}>(args)",
                                           of_keys ? "key_line_walk" : "value_line_walk", gate_gradient),
                       .args_type = "BackwardArgs",
                       .start = of_keys ? Start::waited : Start::by_itself});
  }
  return source;
}

std::vector<EntryShape> lines_entry_shapes(const Problem& problem, const Variant& variant) {
  std::vector<EntryShape> shapes;
  for (const bool of_keys : {true, false})
    shapes.push_back({threads_of_lines(variant), most_line_shared_bytes(problem, variant, of_keys), 1});
  return shapes;
}

LaunchPlan plan_lines(const Problem& problem, const Variant& variant, const Workload& workload,
                      int /*multiprocessors*/) {
  LaunchPlan plan;
  const int chunk = variant[Parameter::chunk];
  if (problem.gate_k || problem.gate_v) {
    // About as many segments as a segment has chunks are the fewest states to keep, but not many of a few chunks each.
    const std::int64_t usual =
        workload.packed ? divided_up(workload.tokens, std::max<std::int64_t>(1, workload.sequences))
                        : workload.tokens;
    const auto even = static_cast<std::int64_t>(std::ceil(std::sqrt(divided_up(usual, chunk))));
    const std::int64_t all = std::max<std::int64_t>(1, divided_up(workload.tokens, chunk));
    plan.segment_tokens = chunk * std::max(even, std::min<std::int64_t>(kLineSharedChunks, all));
  }
  const std::int64_t states = workload.sequences * workload.heads;
  std::int64_t floats = 0;  // of a state in a slot
  for (const bool of_keys : {true, false}) {
    const LineWalkShape shape = line_shape_of(problem, variant, of_keys);
    // The walk whose lines are rows of memory writes the initial state's gradient.
    unsigned gradients = of_keys ? kGradientQ | kGradientK | kGradientGk : kGradientV | kGradientGv;
    if (of_keys != problem.state_v_first) gradients |= kGradientState;
    plan.launches.add(
        {.entry = of_keys ? 0 : 1,
         .grid = divided_up(states * shape.tiles(), variant[Parameter::warps]),
         .threads = threads_of_lines(variant),
         .shared_bytes = line_shared_bytes(problem, variant, of_keys, workload.tokens, plan.segment_tokens),
         .needs = gradients});
    if (has_gate(problem, of_keys)) floats += shape.state_floats();  // the walks run beside each other
  }
  if (floats == 0) return plan;
  const std::int64_t slots =
      line_walk_slots(workload.sequences, workload.tokens, workload.packed, plan.segment_tokens, chunk);
  plan.workspace_bytes =
      round_up_256(static_cast<std::size_t>(slots * workload.heads * floats) * sizeof(float));
  return plan;
}

double predicted_lines_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                               const Architecture& architecture) {
  // A token costs a warp its instructions, at 4 warps' a cycle, and a unit of tokens a wait for memory and for sums over lanes
  // that other warps hide. Only the order of predictions is trusted.
  constexpr double kUnitLatency = 900e-9;
  const double tokens =
      static_cast<double>(workload.tokens) /
      static_cast<double>(workload.packed ? std::max<std::int64_t>(1, workload.sequences) : 1);
  const LaunchPlan plan = plan_lines(problem, variant, workload, 0);
  double seconds = 0;
  for (const Launch& launch : plan.launches) {
    const bool of_keys = launch.entry == 0;
    const LineWalkShape shape = line_shape_of(problem, variant, of_keys);
    const double state = shape.lane_floats(), across = 4.0 * shape.quads(), rows = shape.rows;
    const bool gated = has_gate(problem, of_keys);
    // There, if somebody wants what it brings, and back; about once more for the states between tokens.
    const double passes = 1.0 + (of_keys || gated ? 1.0 : 0.0) + (gated ? 1.0 : 0.0);
    const double inputs = 2 * across + 3 * rows + 3 * (of_keys ? rows : across) + 5 * rows;
    const double instructions = passes * (problem.group * (3 * state + inputs) + 20);
    const int resident =
        std::max(1, occupancy(architecture, launch.threads, line_registers(problem, variant, of_keys),
                              launch.shared_bytes));
    const double blocks = static_cast<double>(launch.grid) / architecture.multiprocessors;
    const double waves = std::ceil(blocks / resident);
    const double warps = std::min(blocks, static_cast<double>(resident)) * variant[Parameter::warps];
    const double busy = instructions * std::max(warps, 4.0) / 4 / architecture.clock_hz;
    const double waits = passes * kUnitLatency / unit_of(problem, variant);
    seconds += waves * tokens * std::max(busy, waits);
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
