// Outputs of a cluster of two blocks. Each block has the sums over its own key channels for all value channels of the tile;
// it sends half of them away and stores the other half, with what comes from the other block added.
#pragma once

#include "chunk_layout.h"
#include "chunk_state.cuh"
#include "device/cluster.cuh"
#include "device/thread.cuh"
#include "device/warpgroup.cuh"

namespace gla {

/// Of the warp that holds the state's blocks of 16 value channels. Of one block it keeps all or nothing, of two the first.
template <ChunkShape kShape, class Tiles>
struct ClusterSums {
  static constexpr int kBlocksV = ChunkState<kShape>::kBlocksV;
  static constexpr int kColumns = kShape.chunk / 8;
  static_assert(kShape.cluster == 2 && kBlocksV <= 2 && kShape.warps_v == 8);

  Tiles tiles;
  int rank;
  int exchange;  ///< exchanges before this one
  float kept[kColumns][4];

  GLA_DEVICE bool keeps() const { return kBlocksV == 2 || warp_any(warp_index() / 4 == rank); }
  /// First value channel of what this warp keeps, within the block's staged outputs.
  GLA_DEVICE int kept_v() const { return box() * 16; }

  /// Columns [first, first + Columns) of O^T in the warp's block `i`; of every block and column once.
  template <int Columns>
  GLA_DEVICE void take(int i, const float (&sums)[Columns][4], int first) {
    if (i == kBlocksV - 1 && (kBlocksV == 2 || !keeps())) {
      const int other = 1 - rank;
      const RemoteAddress slots(row_of_box(first), other), arriving(tiles.received(exchange), other);
      GLA_UNROLL
      for (int j = 0; j < Columns; ++j) send(slots + j * kRowBytes, sums[j], arriving);
    }
    if (i > 0) return;
    GLA_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      if (Columns != kColumns && j / Columns != first / Columns) continue;
      GLA_UNROLL
      for (int e = 0; e < 4; ++e) kept[j][e] = detached(sums[j % Columns][e]);
    }
  }

  /// Adds what the other block has sent in this exchange.
  GLA_DEVICE void receive() {
    if (!keeps()) return;
    if (lane_index() == 0) barrier_arrive_expect(tiles.received(exchange), kColumns * kRowBytes);
    barrier_wait_for_cluster(tiles.received(exchange), exchange / 2 % 2);
    const unsigned char* slots = row_of_box(0);
    GLA_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      const auto more = *reinterpret_cast<const Vector<float, 4>*>(slots + j * kRowBytes);
      GLA_UNROLL
      for (int e = 0; e < 4; ++e) kept[j][e] += more.item[e];
    }
  }

 private:
  static constexpr int kRowBytes = kWarpSize * 16;

  /// A warp sends to the same warp of the other block, which has the same value channels.
  GLA_DEVICE static int box() { return kBlocksV == 2 ? warp_index() : warp_index() % 4; }
  GLA_DEVICE unsigned char* row_of_box(int row) const {
    return tiles.inbox(exchange) + (box() * kColumns + row) * kRowBytes + lane_index() * 16;
  }
};

}  // namespace gla
