// How long the model thinks that a chunk variant takes.
#include <algorithm>
#include <cmath>

#include "chunk_shape.h"
#include "family_space.h"

namespace gla {
namespace {

/// Warp instructions of one block for one chunk, and how unevenly the score blocks fall on the warps.
struct ChunkCost {
  double instructions = 0;
  double score_instructions = 0;
  double score_imbalance = 1;  ///< rounds needed over rounds if they divided evenly
};

/// Counted off the template's loops; the weights of the parts are a fit to 210 variants on an H200
/// (bench/results/model-fit-h200-2026-11-22.json, docs/performance.md), and only the order of predictions is trusted.
ChunkCost cost_of(const ChunkShape& s) {
  constexpr double kMma = 1.3, kLoadMatrix = 1.5, kPair = 8, kPairPart = 6, kRegisterCopy = 2;
  const double c = s.chunk, k = s.padded_k(), v = s.tile_v, heads = s.group_tile;
  const double warps = s.warps_v * s.warps_k;
  const double tokens16 = c / 16, triangle = tokens16 * (tokens16 + 1) / 2;
  const auto terms = [](int parts) { return parts * (parts + 1) / 2.0; };
  const double v_terms = s.element_is_bf16 ? s.state_parts : terms(s.state_parts);

  const double scores = triangle * k / 16 * 2 * terms(s.score_parts);
  const double outputs = k / 16 * v / 16 * c / 8 * terms(s.state_parts) + v / 16 * triangle * 2 * v_terms;
  const double updates = tokens16 * v / 16 * k / 8 * v_terms;
  const double load_matrix =
      heads * triangle * k / 16 * 2 * s.score_parts +
      s.warps_v * s.state_parts * (heads * (k / 16 * tokens16 + triangle) + k / 16 * tokens16) +
      v / 16 * tokens16 * 2 * s.warps_k;
  const double operand_pairs = c * k / 2 / 32 * (1 + heads) / 2;
  const double operands = operand_pairs * (kPair + kPairPart * s.operand_parts());
  const double copies = ((1 + heads) * k * s.element_bytes + k * s.gate_bytes + v * s.element_bytes) * c /
                        16 / 32 * 4 * (s.async_copy ? 1 : kRegisterCopy);
  const double state_scaling = k * v / 32 * 3 + k / 8 * warps;
  const double output_rows = heads * c * v / 32 * (1 + s.warps_k);
  const double gate_sums = s.gate_bytes ? c * k / 256 * (s.gate_bytes == 2 ? 20 : 120) : 0;

  ChunkCost cost;
  const double rest = operands + copies + state_scaling + output_rows + gate_sums;
  if (s.producers) {
    // The tensor cores' cycles as instructions: while they run, little else does. Scores are the producers' work.
    const double columns = std::max(c / 2, 24.0);
    const double score_products = heads * (s.halves() ? 1 : terms(s.score_parts)) * k / 16 * columns;
    const double products = v / 64 * (heads * (k + c) / 16 * c / 2 + c / 16 * k / 2);
    cost.instructions =
        std::max(operands + gate_sums + score_products, products + state_scaling + output_rows);
    return cost;
  }
  cost.score_instructions = heads * scores * kMma;
  cost.instructions =
      rest + cost.score_instructions + (heads * outputs + updates) * kMma + load_matrix * kLoadMatrix;
  cost.score_imbalance = std::ceil(triangle / warps) / (triangle / warps);
  return cost;
}

/// Cycles per chunk until `blocks` blocks, all walking at once or in waves, have each done one.
double walk_cycles(const ChunkShape& s, const ChunkCost& cost, double blocks, int resident,
                   const Architecture& architecture) {
  constexpr double kSchedulers = 4, kIssuePerWarp = 0.122, kMostIssue = 0.226;
  constexpr double kBarriers = 2000, kLoadLatency = 2600;
  const double warps = s.warps() + s.producers;
  const auto rate = [&](double resident_blocks) {
    return kSchedulers * std::min(kMostIssue, kIssuePerWarp * warps * resident_blocks / kSchedulers);
  };
  const double alone = (cost.instructions + (cost.score_imbalance - 1) * cost.score_instructions) / rate(1) +
                       kBarriers + (s.stages == 1 ? kLoadLatency * (s.async_copy ? 1.0 : 2.0) : 0);
  const double per_multiprocessor = blocks / architecture.multiprocessors;
  const double full_rounds = std::floor(per_multiprocessor / resident);
  const double rest = std::ceil(per_multiprocessor - full_rounds * resident);
  double cycles = full_rounds * std::max(alone, cost.instructions * resident / rate(resident));
  if (rest > 0) cycles += std::max(alone, cost.instructions * rest / rate(rest));
  return cycles;
}

}  // namespace

double predicted_chunk_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                               const Architecture& architecture) {
  const ChunkShape s = shape_of(problem, variant);
  // What packed sequences are cut into only the device knows: as much as if they were as long as each other.
  const LaunchPlan launches =
      plan_chunk(problem, variant, workload, workload.packed ? 0 : architecture.multiprocessors);
  const bool segmented = variant.family == Family::segmented;
  const double sequence_tokens =
      static_cast<double>(workload.tokens) / static_cast<double>(workload.packed ? workload.sequences : 1);
  double walk_tokens = sequence_tokens;
  double segments = 1;  // where the last one is shorter than the others, a part of one
  if (segmented) {
    walk_tokens = std::min(sequence_tokens, static_cast<double>(launches.segment_tokens));
    segments = std::max(1.0, sequence_tokens / static_cast<double>(launches.segment_tokens));
  } else if (variant.family == Family::overlapped) {
    // As ChunkWork::overlapped_chunks has it. What several blocks read the L2 has.
    segments = variant[Parameter::segments];
    walk_tokens *= 0.5 / (1 - std::exp2(-segments));
  }
  const double chunks = std::ceil(walk_tokens / s.chunk);
  const double heads = static_cast<double>(workload.sequences * workload.heads);
  const int group_tiles = problem.group / s.group_tile;
  const double blocks = heads * state_blocks(s) * group_tiles * segments;

  const ChunkCost cost = cost_of(s);
  // Left to itself the compiler takes more registers than a variant needs.
  constexpr int kUnasked = 32;
  const int registers =
      estimated_chunk_registers(problem, variant) + (variant[Parameter::min_blocks] == 1 ? kUnasked : 0);
  const int resident =
      std::max(1, occupancy(architecture, s.threads(), registers, static_cast<std::size_t>(shared_bytes(s))));
  double seconds = walk_cycles(s, cost, blocks, resident, architecture) * chunks / architecture.clock_hz;
  double moved = floor_bytes(problem, workload, true);
  if (segmented) {
    constexpr double kStatesPass = 0.6;  // no queries, no scores, no outputs
    constexpr double kExtraLaunches = 5e-6;
    const double states =
        walk_cycles(s, cost, heads * state_blocks(s) * (std::ceil(segments) - 1), resident, architecture) *
        chunks / architecture.clock_hz;
    moved += 4.0 * static_cast<double>(launches.workspace_bytes);
    seconds += kStatesPass * states +
               4.0 * static_cast<double>(launches.workspace_bytes) / architecture.copy_bandwidth +
               kExtraLaunches;
  }
  constexpr double kLaunch = 2e-6;
  return std::max(seconds, moved / architecture.copy_bandwidth) + kLaunch;
}

}  // namespace gla
