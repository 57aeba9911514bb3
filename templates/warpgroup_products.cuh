// The products of a whole chunk by warpgroups (wgmma, sm_90a), on the tiles of chunk_pipeline.cuh: the same operands, the
// same S^T in accumulators and the same O^T as mma.sync has in chunk_products.cuh, in few asynchronous instructions. A
// warpgroup has 64 value channels.
#pragma once

#include "chunk_state.cuh"
#include "device/tile.cuh"
#include "device/warpgroup.cuh"

namespace gla {

inline constexpr int kStep = 16;  // of the contraction in one product

/// Elements [column, column + 16) of each row.
GLA_DEVICE const unsigned char* along(const OperandTile& tile, int column) {
  return tile.base + column / kPanelColumns * tile.panel_bytes + column % kPanelColumns * 2;
}

/// tril(q^ k^T), by one warpgroup.
template <ChunkShape kShape, class Tiles>
struct WarpgroupScores {
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kScoreParts = kShape.score_parts;

  Tiles tiles;

  /// Shows the scores to the products that follow a barrier.
  GLA_DEVICE void make() const {
    float scores[kChunk / 8][4];
    warpgroup_pin(scores);
    warpgroup_fence();
    GLA_UNROLL
    for (int p = 0; p < kScoreParts; ++p) {
      GLA_UNROLL
      for (int r = 0; p + r < kScoreParts; ++r) {
        const OperandTile q = tiles.template q<kChunk>(0, p), k = tiles.template k<kChunk>(r);
        GLA_UNROLL
        for (int channel = 0; channel < kShape.padded_k(); channel += kStep)
          warpgroup_multiply<kChunk, Contraction::along_rows, Contraction::along_rows>(
              scores, row_major_descriptor(along(q, channel)), row_major_descriptor(along(k, channel)),
              p + r + channel > 0);
      }
    }
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_pin(scores);
    store(scores, warp_index() % 4 * 16);
    fence_for_warpgroup();
  }

 private:
  GLA_DEVICE void store(const float (&scores)[kChunk / 8][4], int i0) const {
    if (i0 >= kChunk) return;  // a product has 64 rows, whatever the chunk
    const OperandTile tile = tiles.template scores<kChunk>(0);
    const int lane = lane_index();
    GLA_UNROLL
    for (int j0 = 0; j0 < kChunk; j0 += 16) {
      Bits32 words[4];
      GLA_UNROLL
      for (int pair = 0; pair < 4; ++pair) {
        const int i = i0 + lane / 4 + pair % 2 * 8;
        const int j = j0 + pair / 2 * 8 + lane % 4 * 2;
        const float(&two)[4] = scores[j0 / 8 + pair / 2];
        words[pair] = pack_bf16(j <= i ? two[pair % 2 * 2] : 0.0f, j + 1 <= i ? two[pair % 2 * 2 + 1] : 0.0f);
      }
      store_a(words, tile, i0, j0);
    }
  }
};

/// What warpgroups do with the state, each with its 64 value channels.
template <ChunkShape kShape, class Tiles>
struct WarpgroupProducts {
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kPaddedK = kShape.padded_k();
  static_assert(kShape.warps_k == 1 && kShape.tile_v == 16 * kShape.warps_v && kShape.state_parts == 1);

  Tiles tiles;
  ChunkState<kShape>& state;

  /// O^T = S'^T q^T + V^T tril(q^ k^T)^T and, with the first k_parts parts of k^, U^T += V^T k^. Calls meanwhile() while
  /// products run, and use_outputs() once `sums` are there, while the update runs.
  template <class Meanwhile, class UseOutputs>
  GLA_DEVICE void multiply(float (&sums)[kChunk / 8][4], int k_parts, Meanwhile meanwhile,
                           UseOutputs use_outputs) {
    Operands operands;
    make_operands(operands, 0);  // while other products run, the compiler would wait for them here
    warpgroup_pin(sums);
    warpgroup_pin(operands);
    warpgroup_pin(state.tiles[0]);
    add_state_product(sums, operands);
    add_score_product(sums);
    warpgroup_commit();
    add_update(0);
    warpgroup_commit();
    meanwhile();
    warpgroup_wait<1>();
    warpgroup_pin(operands);
    warpgroup_pin(sums);
    use_outputs();
    finish_update(k_parts);
  }

  /// U^T += V^T k^ alone.
  GLA_DEVICE void update(int k_parts) {
    warpgroup_pin(state.tiles[0]);
    warpgroup_fence();
    add_update(0);
    warpgroup_commit();
    finish_update(k_parts);
  }

 private:
  /// Waits for all products. The first part of k^ runs; further ones are rare.
  GLA_DEVICE void finish_update(int k_parts) {
    warpgroup_wait<0>();
    warpgroup_pin(state.tiles[0]);
    if (!warp_any(k_parts > 1)) return;
    warpgroup_fence();
    GLA_UNROLL
    for (int part = 1; part < kShape.k_parts(kChunk); ++part) add_update(part);
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_pin(state.tiles[0]);
  }

  /// S'^T as A operands, which must live until their products are done; of a large K in two halves, to spare registers.
  static constexpr int kSteps = kPaddedK / kStep;
  static constexpr int kBatch = kSteps > 8 ? kSteps / 2 : kSteps;
  using Operands = Bits32[kBatch][4];

  GLA_DEVICE void make_operands(Operands& operands, int first) const {
    GLA_UNROLL
    for (int k = 0; k < kBatch; ++k) {
      Bits32 parts[1][4];
      state.operand(parts, 0, 2 * (first + k));
      GLA_UNROLL
      for (int quarter = 0; quarter < 4; ++quarter) operands[k][quarter] = parts[0][quarter];
    }
  }

  /// Starts O^T = S'^T q^T, whose first operands are made.
  GLA_DEVICE void add_state_product(float (&sums)[kChunk / 8][4], Operands& operands) {
    const OperandTile q = tiles.template q<kChunk>(0, 0);
    GLA_UNROLL
    for (int first = 0; first < kSteps; first += kBatch) {
      if (first > 0) {
        warpgroup_commit();
        warpgroup_wait<0>();
        warpgroup_pin(sums);
        warpgroup_pin(operands);
        make_operands(operands, first);
        warpgroup_pin(operands);
        warpgroup_pin(state.tiles[0]);
      }
      warpgroup_fence();
      GLA_UNROLL
      for (int k = 0; k < kBatch; ++k)
        warpgroup_multiply<kChunk, Contraction::along_rows>(
            sums, operands[k], row_major_descriptor(along(q, (first + k) * kStep)), first + k > 0);
    }
  }

  GLA_DEVICE void add_score_product(float (&sums)[kChunk / 8][4]) const {
    const OperandTile scores = tiles.template scores<kChunk>(0);
    GLA_UNROLL
    for (int token = 0; token < kChunk; token += kStep)
      warpgroup_multiply<kChunk, Contraction::across_rows, Contraction::along_rows>(
          sums, v_columns(token), row_major_descriptor(along(scores, token)), true);
  }

  /// U^T += V^T k^ with part `part` of k^.
  GLA_DEVICE void add_update(int part) {
    const OperandTile k = tiles.template k<kChunk>(part);
    GLA_UNROLL
    for (int token = 0; token < kChunk; token += kStep)
      warpgroup_multiply<kPaddedK, Contraction::across_rows, Contraction::across_rows>(
          state.tiles[0], v_columns(token),
          column_major_descriptor(k.base + token * kPanelRowBytes, k.panel_bytes), true);
  }

  /// This warpgroup's channels of 16 tokens of v.
  GLA_DEVICE MatrixDescriptor v_columns(int token) const {
    const OperandTile v = tiles.template v<kChunk>(0, 0);
    return column_major_descriptor(v.base + warp_index() / 4 * v.panel_bytes + token * kPanelRowBytes,
                                   v.panel_bytes);
  }
};

}  // namespace gla
