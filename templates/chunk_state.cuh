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

  /// First value channel of the warp within the tile, first key channel of the warp.
  GLA_DEVICE static int first_v() { return warp_index() % kShape.warps_v * (16 * kBlocksV); }
  GLA_DEVICE static int warp_k() { return warp_index() / kShape.warps_v; }
  GLA_DEVICE static int first_k() { return warp_k() * kWarpK; }

  /// Reads V tile `tile` of a state in memory; zero without a source and where the state has no channels.
  GLA_DEVICE void load(const float* source, StateStrides strides, int tile, int valid_v) {
    each(valid_v, [&](float& value, int k, int v, bool exists) {
      value =
          source != nullptr && exists ? source[k * strides.k + (tile * kShape.tile_v + v) * strides.v] : 0.0f;
    });
  }

  GLA_DEVICE void store(float* target, StateStrides strides, int tile, int valid_v) {
    each(valid_v, [&](float& value, int k, int v, bool exists) {
      if (exists) target[k * strides.k + (tile * kShape.tile_v + v) * strides.v] = value;
    });
  }

  /// Multiplies the rows of S by a vector over K. Two calls stay two: the sum of their exponents may be out of range
  /// (ChunkGates::join_scaling).
  GLA_DEVICE void scale(const float* vector) {
    scale_by(vector, [](float factor) { return factor; });
  }
  /// Multiplies them by powers of two, or divides.
  GLA_DEVICE void scale_by_exponents(const float* exponents) {
    scale_by(exponents, [](float exponent) { return exp2_fast(exponent); });
  }
  GLA_DEVICE void unscale_by_exponents(const float* exponents) {
    scale_by(exponents, [](float exponent) { return exp2_fast(-exponent); });
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

  /// Calls visit(element, k, v, whether the state has it) for every element that the thread holds.
  template <class Visit>
  GLA_DEVICE void each(int valid_v, Visit visit) {
    const int lane = lane_index();
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) {
      GLA_UNROLL
      for (int j = 0; j < kBlocksK; ++j) {
        GLA_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int v = first_v() + 16 * i + lane / 4 + e / 2 * 8;
          const int k = first_k() + 8 * j + lane % 4 * 2 + e % 2;
          visit(tiles[i][j][e], k, v, v < valid_v && k < kShape.head_dim_k);
        }
      }
    }
  }
};

}  // namespace gla
