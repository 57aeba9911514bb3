// The legs of walks (args.h, Relay): which one a block has, and how the state passes from one to the next.
#pragma once

#include "args.h"
#include "device/relay.cuh"
#include "sequence.cuh"

namespace gla {

/// Of a walk.
struct Leg {
  Index index = 0;  ///< in the order of the walk
  Index chain = 0;  ///< which walk: its block in a launch without legs
};

/// `turn`: what count_start() has left, if walks are cut.
GLA_DEVICE Leg leg_of(const Relay& relay, const unsigned int* turn) {
  if (relay.legs == 0) return {0, block_index()};
  // In 32 bits, as a grid has no more blocks.
  const unsigned int own = uniform(*turn), chains = static_cast<unsigned int>(grid_size() / relay.legs);
  return {own / chains, own % chains};
}
/// Called by all threads of the block.
GLA_DEVICE Leg take_leg(const Relay& relay, unsigned int* turn) {
  if (relay.legs != 0) count_start(turn, relay.counters);
  return leg_of(relay, turn);
}

/// Makes the sequence begin where leg `place`, counted in time, does, and returns how many tokens that has.
GLA_DEVICE Index cut_out_leg(Sequence& sequence, const Relay& relay, Index place) {
  const Index first = place * relay.leg_tokens, left = sequence.length - first;
  sequence.begin += first;
  return left < relay.leg_tokens ? left : relay.leg_tokens;
}

/// Once each warp that has a part of the state has written it.
GLA_DEVICE void hand_on(const Relay& relay, const Leg& leg) {
  hand_on(relay.counters + 1 + leg.chain);
}
/// Before each of `warps` warps reads the part that its like has written.
GLA_DEVICE void wait_for_hand_over(const Relay& relay, const Leg& leg, int warps) {
  wait_for_hand_over(relay.counters + 1 + leg.chain, static_cast<unsigned int>(leg.index * warps));
}

}  // namespace gla
