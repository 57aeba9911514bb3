// Warps of a block that work together.
#pragma once

#include "device/thread.cuh"

namespace gla {

/// `Warps` warps from warp `First` on. Barrier 0 is the block's: then they must be all of it.
template <int First, int Warps, int Barrier>
struct Team {
  static constexpr int kWarps = Warps, kThreads = Warps * kWarpSize;

  GLA_DEVICE static int thread() { return thread_index() - First * kWarpSize; }
  GLA_DEVICE static int warp() { return warp_index() - First; }
  /// Of those that do the same with other chunks.
  GLA_DEVICE static constexpr int team() { return 0; }

  GLA_DEVICE static void sync() {
    if constexpr (Barrier == 0) {
      block_sync();
    } else {
      part_sync<kThreads>(Barrier);
    }
  }
  /// Whether `value` is true in all of the block; a barrier too. The warp's vote tells the compiler that a branch on it is
  /// uniform.
  GLA_DEVICE static bool agree(bool value) {
    static_assert(Barrier == 0);
    return warp_any(block_sync_and(value));
  }
};

}  // namespace gla
