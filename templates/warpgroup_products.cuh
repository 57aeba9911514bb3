// The products of a whole chunk by warpgroups (wgmma, sm_90a), on the tiles of chunk_pipeline.cuh: the same operands, the
// same S^T in accumulators and the same O^T as mma.sync has in chunk_products.cuh, in few asynchronous instructions. A
// warpgroup has 64 value channels.
#pragma once

#include "chunk_state.cuh"
#include "device/tile.cuh"
#include "device/warpgroup.cuh"

namespace gla {

inline constexpr int kStep = 16;  // of the contraction in one product

/// Elements [column, column + 16) of each row: bytes from the tile's first ones.
GLA_DEVICE int along(const OperandTile& tile, int column) {
  return column / kPanelColumns * tile.panel_bytes + column % kPanelColumns * 2;
}

/// Stores a warp's 16 rows of a product's lower triangle, from i0 on, in a tile's columns from `column` on.
template <int Columns>
GLA_DEVICE void store_triangle(const float (&sums)[Columns / 8][4], const OperandTile& tile, int i0,
                               int column) {
  // What is kept of a word of two columns, in the 8 x 8 blocks on the diagonal.
  const int row = lane_index() / 4, first = lane_index() % 4 * 2;
  const Bits32 on_diagonal = (first <= row ? 0x0000ffffu : 0u) | (first < row ? 0xffff0000u : 0u);
  GLA_UNROLL
  for (int j0 = 0; j0 < Columns; j0 += 16) {
    const Bits32 below = j0 < i0 ? ~0u : 0u, diagonal = j0 == i0 ? ~0u : 0u;
    const Bits32 of_same = (on_diagonal & diagonal) | below;
    const Bits32 kept[4] = {of_same, below | diagonal, below, of_same};
    Bits32 words[4];
    GLA_UNROLL
    for (int pair = 0; pair < 4; ++pair) {
      const float(&two)[4] = sums[j0 / 8 + pair / 2];
      words[pair] = pack_bf16(two[pair % 2 * 2], two[pair % 2 * 2 + 1]) & kept[pair];
    }
    store_a(words, tile, i0, column + j0);
  }
}

/// tril(q^ k^T) of one query head, or of two that follow each other, by one warpgroup.
template <ChunkShape kShape, class Tiles>
struct WarpgroupScores {
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kScoreParts = kShape.score_parts;
  static constexpr int kHeads = kShape.group_tile > 1 ? 2 : 1;
  /// Of the block's first warpgroup; the others' follow.
  static constexpr int kFirstBarrier = 6;
  /// A product has 64 rows: those of two heads, or more than a chunk has.
  static_assert(kHeads == 1 || kHeads * kChunk == 64);

  Tiles tiles;
  int head;  ///< the first

  /// Shows the scores to the products that follow a barrier. `halves`: they are the product of the second parts alone.
  GLA_DEVICE void make(bool halves) const {
    Scores scores;
    warpgroup_pin(scores);
    warpgroup_fence();
    if (halves) {
      add_product<true>(scores, tiles.q(head, kScoreParts - 1), tiles.k(kScoreParts - 1), false);
    } else {
      GLA_UNROLL
      for (int p = 0; p < kScoreParts; ++p) {
        GLA_UNROLL
        for (int r = 0; p + r < kScoreParts; ++r)
          add_product<false>(scores, tiles.q(head, p), tiles.k(r), p + r > 0);
      }
    }
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_pin(scores);
    if constexpr (Tiles::kScoresOverOperands) part_sync<4 * kWarpSize>(kFirstBarrier + warp_index() / 4);
    if constexpr (Tiles::kLayout.tight) {
      if (warp_index() % 4 == 0 && lane_index() == 0) barrier_arrive(tiles.rest_free());
    }
    store(scores);
    fence_for_warpgroup();
  }

 private:
  using Scores = float[kChunk / 8][4];

  /// Starts adding the rows of q^ from those of `q` on, 64 of them, times k^; the sums begin with that unless `accumulate`.
  template <bool Halves>
  GLA_DEVICE static void add_product(Scores& scores, const OperandTile& q, const OperandTile& k,
                                     bool accumulate) {
    const MatrixDescriptor rows = row_major_descriptor(q.base), columns = row_major_descriptor(k.base);
    GLA_UNROLL
    for (int channel = 0; channel < kShape.padded_k(); channel += kStep)
      warpgroup_multiply<kChunk, Contraction::along_rows, Contraction::along_rows, Halves>(
          scores, further(rows, along(q, channel)), further(columns, along(k, channel)),
          accumulate || channel > 0);
  }

  /// Of both heads, or of all parts.
  GLA_DEVICE void store(Scores& scores) const {
    constexpr int kPartsOut = kShape.score_operand_parts();
    static_assert(kHeads == 1 || kPartsOut == 1);
    const int row = warp_index() % 4 * 16;
    if constexpr (kHeads > 1) {
      store_triangle<kChunk>(scores, tiles.scores(head + row / kChunk), row % kChunk, 0);
    } else {
      if (row >= kChunk) return;
      GLA_UNROLL
      for (int part = 0; part < kPartsOut; ++part) {
        store_triangle<kChunk>(scores, tiles.scores(head + part), row, 0);
        GLA_UNROLL
        for (int i = 0; i < kChunk / 2; ++i)
          scores[i / 4][i % 4] -= to_float(from_float<bf16>(scores[i / 4][i % 4]));
      }
    }
  }
};

/// What warpgroups do with the state, each with 64 value channels of each of its blocks.
template <ChunkShape kShape, class Tiles>
struct WarpgroupProducts {
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kPaddedK = kShape.padded_k();
  static constexpr int kBlocksV = ChunkState<kShape>::kBlocksV;
  /// Of q^ and of scores, in which heads follow each other; and those that are the columns of one product.
  static constexpr int kRows = (kShape.group_tile > 1 ? kShape.group_tile : 1) * kChunk;
  static constexpr int kColumns = kRows < 64 ? kRows : 64;
  /// dV^T = dU^T k^T + dO^T tril(q^ k^T) and dS'^T = dU^T + dO^T q^, with dO for V: the gradients of v.
  static constexpr bool kBack = kShape.value_gradients;
  static_assert(kShape.warps_k == 1 && kShape.state_parts == 1);
  static_assert(!kBack || kRows == kColumns);
  using Sums = float[kColumns / 8][4];

  Tiles tiles;
  ChunkState<kShape>& state;

  /// O^T = S'^T q^T + V^T tril(q^ k^T)^T of all query heads and, with the first k_parts parts of k^, U^T += V^T k^. Of
  /// several blocks of value channels the last one comes first. Calls meanwhile() once and then use(block, row0, sums) for
  /// each kColumns rows of each block, the last time while the update runs. Where scaled_between(), calls scale() behind
  /// the outputs' products and ahead of the update.
  template <class Between, class Meanwhile, class UseSums, class Scale>
  GLA_DEVICE void multiply(int k_parts, Between scaled_between, Meanwhile meanwhile, UseSums use,
                           Scale scale) {
    Operands operands[kAtOnce ? 1 : 2];
    Sums sums;
    GLA_UNROLL
    for (int i = kBlocksV - 1; i >= 0; --i) {
      make_operands(operands[0], i, 0);
      GLA_UNROLL
      for (int row0 = 0; row0 < kRows; row0 += kColumns) {
        warpgroup_pin(sums);
        pin(operands);
        pin(state.tiles);
        add_state_product(sums, i, row0, operands);
        add_score_product(sums, i, row0);
        warpgroup_commit();
        const bool is_last = i == 0 && row0 + kColumns == kRows;
        if (is_last) {
          if (scaled_between()) {
            scale();
            pin(state.tiles);
          }
          warpgroup_fence();
          add_update(0);
          warpgroup_commit();
        }
        if (i == 0 && row0 == 0) meanwhile();
        if (is_last) {
          warpgroup_wait<1>();
        } else {
          warpgroup_wait<0>();
        }
        pin(operands);
        warpgroup_pin(sums);
        use(i, row0, sums);
      }
    }
    finish_update(k_parts);
  }

  /// U^T += V^T k^ alone.
  GLA_DEVICE void update(int k_parts) {
    pin(state.tiles);
    warpgroup_fence();
    add_update(0);
    warpgroup_commit();
    finish_update(k_parts);
  }

 private:
  /// Waits for all products. The first part of k^ runs; further ones are rare.
  GLA_DEVICE void finish_update(int k_parts) {
    warpgroup_wait<0>();
    pin(state.tiles);
    if (!warp_any(k_parts > 1)) return;
    warpgroup_fence();
    GLA_UNROLL
    for (int part = 1; part < kShape.operand_parts(); ++part) add_update(part);
    warpgroup_commit();
    warpgroup_wait<0>();
    pin(state.tiles);
  }

  template <class T, int M, int N>
  GLA_DEVICE static void pin(T (&blocks)[M][N][4]) {
    GLA_UNROLL
    for (int i = 0; i < M; ++i) warpgroup_pin(blocks[i]);
  }

  /// S'^T as A operands, which must live until their products are done: all of a block at once, or, to spare registers, a
  /// batch is made while the products of the one before run.
  static constexpr int kSteps = kPaddedK / kStep;
  static constexpr bool kAtOnce = kBlocksV == 1 && kSteps <= 8;
  static constexpr int kBatch = kAtOnce ? kSteps : kBlocksV > 1 ? 2 : 4;
  static_assert(kAtOnce || kRows == kColumns);
  using Operands = Bits32[kBatch][4];

  GLA_DEVICE void make_operands(Operands& operands, int i, int batch) const {
    GLA_UNROLL
    for (int k = 0; k < kBatch; ++k) {
      Bits32 parts[1][4];
      state.operand(parts, i, 2 * (batch * kBatch + k));
      GLA_UNROLL
      for (int quarter = 0; quarter < 4; ++quarter) operands[k][quarter] = parts[0][quarter];
    }
  }

  /// Starts O^T = S'^T q^T, whose first operands are made.
  template <int Sets>
  GLA_DEVICE void add_state_product(Sums& sums, int i, int row0, Operands (&operands)[Sets]) {
    const OperandTile q = kBack ? tiles.k(0) : tiles.q(0, 0);
    const MatrixDescriptor rows = row_major_descriptor(q.base);
    GLA_UNROLL
    for (int batch = 0; batch < kSteps / kBatch; ++batch) {
      Operands& set = operands[batch % Sets];
      if (batch > 0) {
        warpgroup_commit();
        warpgroup_wait<1>();
        warpgroup_pin(set);
        make_operands(set, i, batch);
        warpgroup_pin(set);
      }
      warpgroup_fence();
      GLA_UNROLL
      for (int k = 0; k < kBatch; ++k) {
        const int step = batch * kBatch + k;
        warpgroup_multiply<kColumns, Contraction::along_rows>(
            sums, set[k], further(rows, along(q, step * kStep) + row0 * kPanelRowBytes), step > 0);
      }
    }
  }

  GLA_DEVICE void add_score_product(Sums& sums, int i, int row0) const {
    if constexpr (kBack) return add_turned_score_product(sums, i);
    const OperandTile scores = tiles.scores(0);
    const MatrixDescriptor values = v_columns(i), rows = row_major_descriptor(scores.base);
    GLA_UNROLL
    for (int column = 0; column < kChunk; column += kStep)
      warpgroup_multiply<kColumns, Contraction::across_rows, Contraction::along_rows>(
          sums, further(values, column * kPanelRowBytes),
          further(rows, along(scores, column) + row0 * kPanelRowBytes), true);
  }

  GLA_DEVICE void add_turned_score_product(Sums& sums, int i) const {
    const MatrixDescriptor values = v_columns(i);
    GLA_UNROLL
    for (int part = 0; part < kShape.score_operand_parts(); ++part) {
      const OperandTile scores = tiles.scores(part);
      const MatrixDescriptor columns = column_major_descriptor(scores.base, scores.panel_bytes);
      GLA_UNROLL
      for (int row = 0; row < kChunk; row += kStep)
        warpgroup_multiply<kColumns, Contraction::across_rows, Contraction::across_rows>(
            sums, further(values, row * kPanelRowBytes), further(columns, row * kPanelRowBytes), true);
    }
  }

  /// U^T += V^T k^ with part `part` of k^.
  GLA_DEVICE void add_update(int part) {
    const OperandTile k = kBack ? tiles.q(0, part) : tiles.k(part);
    const MatrixDescriptor columns = column_major_descriptor(k.base, k.panel_bytes);
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) {
      const MatrixDescriptor values = v_columns(i);
      GLA_UNROLL
      for (int token = 0; token < kChunk; token += kStep)
        warpgroup_multiply<kPaddedK, Contraction::across_rows, Contraction::across_rows>(
            state.tiles[i], further(values, token * kPanelRowBytes), further(columns, token * kPanelRowBytes),
            true);
    }
  }

  /// This warpgroup's channels of its block i, of the first tokens of v.
  GLA_DEVICE MatrixDescriptor v_columns(int i) const {
    const OperandTile v = tiles.v(0);
    const int panel = ChunkState<kShape>::block_v(i) / kPanelColumns;
    return column_major_descriptor(v.base + panel * v.panel_bytes, v.panel_bytes);
  }
};

}  // namespace gla
