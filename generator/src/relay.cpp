// Legs of walks over whole sequences (templates/args.h, Relay). A block that walks a sequence takes as long as the sequence is long,
// so of 133 sequences on 132 multiprocessors one keeps all but one multiprocessor waiting for as long as the others took. In
// legs, which blocks take up in turns, all have something to do until about the end.
#include <algorithm>
#include <cmath>

#include "chunk_shape.h"
#include "family_space.h"

namespace gla {
namespace {

constexpr std::int64_t kMostLegs = 16, kLeastChunks = 4;  // chunks of a leg
// What a leg costs beside its chunks, in chunks: a state is written and read, and its first loads are waited for. A block of more
// than 256 threads has a multiprocessor's registers to itself, and a smaller one leaves room for another by 128 a thread.
constexpr double kHandOverChunks = 2.5, kLeastGain = 0.05;
// A walk runs aside where an eighth of the multiprocessors or more would have nothing to do, if it is long enough for two streams
// to be worth while; in more legs than turns would ask for, since nobody knows when there is room for it.
constexpr std::int64_t kLeastRoomShare = 8, kAsideLegs = 4, kLeastAsideChunks = 8;
// Of q, k, gates, v, o and all their gradients, the share that states on their way may take at the most, of three walks; or those of
// segments, of two, with those that they are cut from.
constexpr double kMostExtraMemory = 0.1;
constexpr std::size_t kSharedBytes = 227 * 1024, kBlockBytes = 1024;
constexpr int kRegisters = 65536, kLeastRegisters = 128;

/// Chunks that pass, one after the other, until all blocks are done.
double chunks_until_end(std::int64_t blocks, std::int64_t room, std::int64_t chunks, std::int64_t legs) {
  const std::int64_t each = divided_up(chunks, legs), all = divided_up(chunks, each);
  const std::int64_t turns = std::max(divided_up(blocks * all, room), all);
  return static_cast<double>(turns) * (static_cast<double>(each) + (all > 1 ? kHandOverChunks : 0));
}

/// Whether the walk for dv should run aside: where that for dq leaves room, and again beside that for dk.
bool runs_aside(const LaunchPlan& plan, const Launch& values, int multiprocessors, std::int64_t tokens) {
  const auto inputs = std::find_if(plan.launches.begin(), plan.launches.end(),
                                   [](const Launch& launch) { return launch.walk == WalkKind::inputs; });
  if (!values.may_run_aside || values.walk != WalkKind::values || inputs == plan.launches.end()) return false;
  const std::int64_t taken = divided_up(inputs->grid, inputs->resident);
  return taken + divided_up(multiprocessors, kLeastRoomShare) <= multiprocessors &&
         tokens >= kAsideLegs * kLeastAsideChunks * values.chunk;
}

std::int64_t best_legs(std::int64_t blocks, std::int64_t room, std::int64_t chunks) {
  const double whole = chunks_until_end(blocks, room, chunks, 1);
  double least = whole * (1 - kLeastGain);
  std::int64_t best = 1;
  for (std::int64_t legs = 2; legs <= kMostLegs && chunks >= legs * kLeastChunks; ++legs) {
    if (const double cost = chunks_until_end(blocks, room, chunks, legs); cost < least) {
      least = cost;
      best = legs;
    }
  }
  return best;
}

}  // namespace

std::int64_t least_tokens_for_states(const Problem& problem) {
  const double k = problem.head_dim_k, v = problem.head_dim_v;
  const double states = static_cast<double>(kRelayedWalks * sizeof(float)) * k * v;
  const double tensors = static_cast<double>(size_of(problem.dtype)) * (6 * k + 4 * v);
  return static_cast<std::int64_t>(std::ceil(states / (kMostExtraMemory * tensors)));
}

int resident_blocks(const EntryShape& shape) {
  return std::max<int>(shape.min_blocks, static_cast<int>(std::min<std::size_t>(
                                             kSharedBytes / (shape.shared_bytes + kBlockBytes),
                                             kRegisters / kLeastRegisters / shape.threads)));
}

void Launch::may_be_cut(WalkKind kind, int tokens, int min_blocks) {
  if (cluster != 1) return;
  walk = kind;
  chunk = tokens;
  resident = resident_blocks({threads, shared_bytes, min_blocks});
}

void cut_into_legs(LaunchPlan& plan, const Problem& problem, const Workload& workload,
                   const Relaying& relaying) {
  const bool may_pay = relaying.multiprocessors > 0 && workload.tokens >= least_tokens_for_states(problem);
  if (workload.packed || (relaying.legs == 0 && !may_pay)) return;
  const std::int64_t states = workload.sequences * workload.heads;
  std::size_t counters = 0;
  if (relaying.legs == 0) {
    for (Launch& launch : plan.launches)
      launch.aside = runs_aside(plan, launch, relaying.multiprocessors, workload.tokens);
  }
  for (Launch& launch : plan.launches) {
    if (launch.walk == WalkKind::none || launch.grid == 0) continue;
    const std::int64_t chunks = divided_up(workload.tokens, launch.chunk);
    const std::int64_t room = std::int64_t{relaying.multiprocessors} * launch.resident;
    std::int64_t legs = relaying.legs > 0 ? std::min<std::int64_t>(relaying.legs, chunks)
                                          : best_legs(launch.grid, room, chunks);
    if (launch.aside) legs = std::max(legs, std::min(kMostLegs / 2, chunks / kLeastAsideChunks));
    if (legs < 2) continue;
    RelayPlan& relay = plan.relays[static_cast<std::size_t>(launch.walk)];
    relay.leg_tokens = divided_up(chunks, legs) * launch.chunk;
    relay.legs = divided_up(workload.tokens, relay.leg_tokens);
    relay.states_offset = reserve_floats(plan, states * problem.head_dim_k * problem.head_dim_v);
    if (launch.walk == WalkKind::keys) relay.flows_offset = reserve_floats(plan, states * problem.head_dim_k);
    relay.counters_offset = counters;
    counters += round_up_256(static_cast<std::size_t>(1 + launch.grid) * sizeof(std::uint32_t));
    launch.grid *= relay.legs;
  }
  plan.counters_offset = plan.workspace_bytes;
  plan.counters_bytes = counters;
  plan.workspace_bytes += counters;
  for (RelayPlan& relay : plan.relays)
    if (relay.legs > 0) relay.counters_offset += plan.counters_offset;
}

}  // namespace gla
