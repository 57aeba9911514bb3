// The state of a chunk kernel: S^T [V, K] of a block's V tile in MMA accumulators, dealt to the warps along V and K.
#pragma once

#include "chunk_layout.h"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "sequence.cuh"

namespace gla {

template <ChunkShape kShape>
struct ChunkState {
  static constexpr int kBlocksV = kShape.tile_v / 16 / kShape.warps_v;  // 16-row blocks of S^T per warp
  static constexpr int kWarpK = kShape.padded_k() / kShape.warps_k;     // key channels per warp
  static constexpr int kBlocksK = kWarpK / 8;                           // 8-column blocks of S^T per warp
  static_assert(kShape.tile_v % (16 * kShape.warps_v) == 0);
  static_assert(kShape.padded_k() % (16 * kShape.warps_k) == 0);

  float tiles[kBlocksV][kBlocksK][4];

  /// First value channel within the tile of block i of the warp; first key channel of the warp. In a cluster block 0 is the
  /// one whose outputs this block of it stores.
  GLA_DEVICE static int block_v(int i) {
    const int place = kBlocksV == 2 && kShape.cluster == 2 && block_index() % 2 != 0 ? 1 - i : i;
    return 16 * (warp_index() % kShape.warps_v + kShape.warps_v * place);
  }
  GLA_DEVICE static int warp_k() { return warp_index() / kShape.warps_v; }
  GLA_DEVICE static int first_k() { return warp_k() * kWarpK; }

  /// Reads a block's part of a state in memory, which has these channels; zero without a source and where there are none.
  GLA_DEVICE void load(const float* source, StateStrides strides, int valid_k, int valid_v) {
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) {
      GLA_UNROLL
      for (int n = 0; n < 4 * kBlocksK; ++n) tiles[i][n / 4][n % 4] = 0;
    }
    if (source == nullptr) return;
    each(source, strides, valid_k, valid_v, [](float& value, const float& from, int) { value = from; });
  }

  GLA_DEVICE void store(float* target, StateStrides strides, int valid_k, int valid_v) {
    each(target, strides, valid_k, valid_v, [](const float& value, float& to, int) { to = value; });
  }

  /// The state behind a segment with this state of its own and these decays over K (log2).
  GLA_DEVICE void pass(const float* own, const float* decays, StateStrides strides, int valid_k,
                       int valid_v) {
    each(own, strides, valid_k, valid_v,
         [decays](float& value, const float& added, int k) { value = exp2_fast(decays[k]) * value + added; });
  }

  /// A state that has all channels of the block, for threads that hold it as these do: as they hold it.
  static constexpr int kElements = kShape.tile_v * kShape.padded_k();
  GLA_DEVICE void store_as_held(float* target) const {
    GLA_UNROLL
    for (int n = 0; n < kBlocksV * kBlocksK; ++n) {
      Vector<float, 4> four;
      GLA_UNROLL
      for (int e = 0; e < 4; ++e) four.item[e] = tiles[n / kBlocksK][n % kBlocksK][e];
      held(target, n) = four;
    }
  }
  GLA_DEVICE void pass_as_held(float* own, const float* decays) {
    GLA_UNROLL
    for (int j = 0; j < kBlocksK; ++j) {
      const auto pair =
          *reinterpret_cast<const Vector<float, 2>*>(decays + first_k() + lane_index() % 4 * 2 + 8 * j);
      const float factor[2] = {exp2_fast(pair.item[0]), exp2_fast(pair.item[1])};
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) {
        const Vector<float, 4> four = held(own, i * kBlocksK + j);
        GLA_UNROLL
        for (int e = 0; e < 4; ++e) tiles[i][j][e] = factor[e % 2] * tiles[i][j][e] + four.item[e];
      }
    }
  }

  /// Multiplies the rows of S by a vector over K. Two calls stay two: the sum of their exponents may be out of range
  /// (ChunkGates::join_scaling).
  GLA_DEVICE void scale(const float* vector) {
    scale_by(vector, [](float factor) { return factor; });
  }
  /// Multiplies them by powers of two, or divides by them.
  GLA_DEVICE void scale_by_exponents(const float* exponents, bool divide) {
    scale_by(exponents, [divide](float exponent) { return exp2_fast(divide ? -exponent : exponent); });
  }

  /// Two neighbouring accumulator tiles of S^T are one A operand (mma.cuh), here as bf16 parts.
  template <int Parts>
  GLA_DEVICE void operand(Bits32 (&a)[Parts][4], int i, int j) const {
    GLA_UNROLL
    for (int quarter = 0; quarter < 4; ++quarter) {
      const float(&pair)[4] = tiles[i][j + quarter / 2];
      Bits32 parts[Parts];
      split_bf16(pair[quarter % 2 * 2], pair[quarter % 2 * 2 + 1], parts);
      GLA_UNROLL
      for (int part = 0; part < Parts; ++part) a[part][quarter] = parts[part];
    }
  }

 private:
  template <class Use>
  GLA_DEVICE void scale_by(const float* vector, Use use) {
    const float* factors = vector + first_k() + lane_index() % 4 * 2;
    GLA_UNROLL
    for (int j = 0; j < kBlocksK; ++j) {
      const auto pair = *reinterpret_cast<const Vector<float, 2>*>(factors + 8 * j);
      const float factor[2] = {use(pair.item[0]), use(pair.item[1])};
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) {
        GLA_UNROLL
        for (int e = 0; e < 4; ++e) tiles[i][j][e] *= factor[e % 2];
      }
    }
  }

  /// Of a state as it is held, the thread's tile `n`.
  GLA_DEVICE static Vector<float, 4>& held(float* state, int n) {
    return reinterpret_cast<Vector<float, 4>*>(state)[n * kWarpSize * kShape.warps() + thread_index()];
  }

  /// Calls visit(element, the same in memory, its key channel) for every element of the state that the thread holds.
  template <class T, class Visit>
  GLA_DEVICE void each(T* memory, StateStrides strides, int valid_k, int valid_v, Visit visit) {
    const int lane = lane_index();
    GLA_UNROLL
    for (int row = 0; row < 2 * kBlocksV; ++row) {
      const int v = block_v(row / 2) + row % 2 * 8 + lane / 4, k = first_k() + lane % 4 * 2;
      if (v >= valid_v) continue;
      T* first = memory + k * strides.k + v * strides.v;
      GLA_UNROLL
      for (int n = 0; n < 2 * kBlocksK; ++n) {
        const int more = n / 2 * 8 + n % 2;
        if (kShape.cluster * kShape.padded_k() == kShape.head_dim_k || k + more < valid_k)
          visit(tiles[row / 2][n / 2][row % 2 * 2 + n % 2], first[more * strides.k], k + more);
      }
    }
  }
};

}  // namespace gla
