// The decode family: what its parameters may be, and how its variants are rendered, launched and ranked.
#include <algorithm>
#include <cmath>

#include "family_space.h"
#include "names.h"
#include "render_common.h"

namespace gla {
namespace {

int threads_of(const Variant& variant) {
  return 32 * variant[Parameter::warps];
}
int warp_v(const Variant& variant) {
  return 32 / variant[Parameter::lanes_k] * variant[Parameter::rows_v];
}

int tiles_v(const Problem& problem, const Variant& variant) {
  return (problem.head_dim_v + warp_v(variant) - 1) / warp_v(variant);
}

/// Key channels that a lane holds, in groups of 4.
int lane_keys(const Problem& problem, const Variant& variant) {
  const int step = 4 * variant[Parameter::lanes_k];
  return (problem.head_dim_k + step - 1) / step * 4;
}

int estimated_decode_registers(const Problem& problem, const Variant& variant) {
  constexpr int kAddressing = 32;
  const int keys = lane_keys(problem, variant);
  const int rows = variant[Parameter::rows_v];
  const int inputs = keys * (problem.gate_k ? 2 : 1) + rows * (problem.gate_v ? 2 : 1);
  return keys * rows + inputs * variant[Parameter::stages] + rows + kAddressing;
}

Status decode_constraints(const Problem& problem, const Architecture& architecture, const Variant& variant) {
  const int lanes_k = variant[Parameter::lanes_k];
  if (lanes_k > 1 && 2 * lanes_k >= problem.head_dim_k) {
    return invalid_argument(fmt::format("lanes_k={} leaves lanes without channels of head_dim_k={}", lanes_k,
                                        problem.head_dim_k));
  }
  if (warp_v(variant) >= 2 * problem.head_dim_v && lanes_k < 32 && variant[Parameter::rows_v] > 1) {
    return invalid_argument(fmt::format("a warp of {} value channels wastes half of head_dim_v={}",
                                        warp_v(variant), problem.head_dim_v));
  }
  const int registers = estimated_decode_registers(problem, variant);
  const int blocks = variant[Parameter::min_blocks];
  if (registers > 255 ||
      registers * threads_of(variant) * blocks > architecture.registers_per_multiprocessor) {
    return invalid_argument(fmt::format("needs about {} registers in each of {} threads", registers,
                                        threads_of(variant) * blocks));
  }
  return {};
}

}  // namespace

FamilySpace decode_family(const Problem& problem, const Architecture& architecture) {
  // Chunk problems come here for exactness or for want of shared memory; what serves long T is not worth a search.
  const bool is_chunk = problem.operation == Operation::chunk_forward;
  using Values = std::vector<std::int16_t>;
  return {Family::decode,
          {{Parameter::lanes_k, {1, 2, 4, 8, 16, 32}},
           {Parameter::rows_v, {1, 2, 4, 8}},
           {Parameter::warps, {1, 2, 4}},
           {Parameter::stages, {1, 2}},
           {Parameter::min_blocks, is_chunk ? Values{1} : Values{1, 2, 4, 8}}},
          [problem, architecture](const Variant& variant) {
            return decode_constraints(problem, architecture, variant);
          }};
}

namespace {

Source render_decode(const Problem& problem, const Variant& variant) {
  const std::string parameters =
      fmt::format("  static constexpr int lanes_k = {}, rows_v = {}, warps = {}, stages = {};\n",
                  variant[Parameter::lanes_k], variant[Parameter::rows_v], variant[Parameter::warps],
                  variant[Parameter::stages]);
  Source source{"recurrent_forward.cu", config_text(problem, {"recurrent_forward.cuh"}, parameters), {}};
  add_entry(source, {"recurrent_decode", threads_of(variant), variant[Parameter::min_blocks],
                     "recurrent_forward<gla::Config>(args)"});
  return source;
}

std::vector<EntryShape> decode_entry_shapes(const Problem&, const Variant& variant) {
  return {{threads_of(variant), 0, variant[Parameter::min_blocks]}};
}

LaunchPlan plan_decode(const Problem& problem, const Variant& variant, const Workload& workload,
                       int /*multiprocessors*/) {
  const std::int64_t warps = workload.sequences * workload.heads * tiles_v(problem, variant);
  const int per_block = variant[Parameter::warps];
  LaunchPlan plan;
  plan.launches.add({0, (warps + per_block - 1) / per_block, threads_of(variant), 0});
  return plan;
}

double predicted_decode_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                                const Architecture& architecture) {
  const int threads = threads_of(variant);
  const int resident =
      std::max(1, occupancy(architecture, threads, estimated_decode_registers(problem, variant), 0));
  const double blocks = static_cast<double>(plan_decode(problem, variant, workload, 0).launches[0].grid);
  const double slots = static_cast<double>(architecture.multiprocessors) * resident;
  const double waves = std::ceil(blocks / slots);

  // Little's law: bytes in flight over the latency of memory bound the bandwidth.
  constexpr double kMemoryLatency = 700e-9;
  const double state_bytes = static_cast<double>(size_of(problem.state_dtype));
  const double lane_bytes = lane_keys(problem, variant) * variant[Parameter::rows_v] * state_bytes;
  const double in_flight = std::min(blocks, slots) * threads * lane_bytes;
  const double bandwidth = std::min(architecture.copy_bandwidth, in_flight / kMemoryLatency);
  const double access = problem.state_v_first ? 4.0 : std::min<double>(variant[Parameter::rows_v], 4.0);
  const double access_penalty = 1.0 + 0.04 * (4.0 - access);
  const double memory = floor_bytes(problem, workload, true) / bandwidth * access_penalty;

  const double tokens =
      static_cast<double>(workload.tokens) / static_cast<double>(workload.packed ? workload.sequences : 1);
  const double step = (kMemoryLatency / variant[Parameter::stages] +
                       0.5e-9 * lane_keys(problem, variant) * variant[Parameter::rows_v] * problem.group);
  return std::max(memory, waves * tokens * step) + 2e-6;
}

}  // namespace

const FamilyKernels& decode_kernels() {
  static constexpr FamilyKernels kKernels{render_decode, plan_decode, decode_entry_shapes,
                                          estimated_decode_registers, predicted_decode_seconds};
  return kKernels;
}

}  // namespace gla
