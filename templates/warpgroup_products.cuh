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

/// Stores a warp's rows of a product's lower triangle, from i0 on, in a tile's columns from `column` on.
template <int Columns>
GLA_DEVICE void store_triangle(const float (&sums)[Columns / 8][4], const OperandTile& tile, int i0,
                               int column) {
  const int lane = lane_index();
  GLA_UNROLL
  for (int j0 = 0; j0 < Columns; j0 += 16) {
    Bits32 words[4];
    GLA_UNROLL
    for (int pair = 0; pair < 4; ++pair) {
      const int i = i0 + lane / 4 + pair % 2 * 8;
      const int j = j0 + pair / 2 * 8 + lane % 4 * 2;
      const float(&two)[4] = sums[j0 / 8 + pair / 2];
      words[pair] = pack_bf16(j <= i ? two[pair % 2 * 2] : 0.0f, j + 1 <= i ? two[pair % 2 * 2 + 1] : 0.0f);
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
  /// Of a warpgroup: this number and those behind it.
  static constexpr int kFirstBarrier = 2;
  static constexpr bool kStacked = Tiles::kLayout.stacked;

  Tiles tiles;
  int head;  ///< the first

  /// Shows the scores to the products that follow a barrier.
  GLA_DEVICE void make() const {
    if constexpr (kHeads > 1) {
      make_two_heads();
    } else if constexpr (kStacked) {
      make_stacked();
    } else {
      make_by_parts();
    }
    fence_for_warpgroup();
  }

 private:
  using Scores = float[kChunk / 8][4];

  /// Starts sums = rows of q^ from those of `q` on, 64 of them, times the first N of k^.
  template <int N>
  GLA_DEVICE static void multiply(float (&sums)[N / 8][4], const OperandTile& q, const OperandTile& k) {
    GLA_UNROLL
    for (int channel = 0; channel < kShape.padded_k(); channel += kStep)
      warpgroup_multiply<N, Contraction::along_rows, Contraction::along_rows>(
          sums, row_major_descriptor(along(q, channel)), row_major_descriptor(along(k, channel)),
          channel > 0);
  }

  /// The 64 rows of a product are those of two heads.
  GLA_DEVICE void make_two_heads() const {
    static_assert(2 * kChunk == 64 && kStacked == (kScoreParts > 1));
    const OperandTile k = tiles.k(0);
    Scores sums;
    float both[kChunk / 4][4];  // of the first part of q^ with both of k^
    warpgroup_pin(sums);
    if constexpr (kScoreParts > 1) warpgroup_pin(both);
    warpgroup_fence();
    multiply<kChunk>(sums, tiles.q(head, kScoreParts - 1), k);
    if constexpr (kScoreParts > 1) multiply<2 * kChunk>(both, tiles.q(head, 0), k);
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_pin(sums);
    if constexpr (kScoreParts > 1) {
      warpgroup_pin(both);
      // Scores take the place of q^'s second part.
      part_sync<4 * kWarpSize>(kFirstBarrier + warp_index() / 4);
      GLA_UNROLL
      for (int i = 0; i < kChunk / 2; ++i)
        sums[i / 4][i % 4] += both[i / 4][i % 4] + both[kChunk / 8 + i / 4][i % 4];
    }
    const int row = warp_index() % 4 * 16;
    store(sums, head + row / kChunk, row % kChunk, 0);
  }

  /// Both parts of q^ times both of k^ in one pass: [q1; q2] [k1; k2]^T.
  GLA_DEVICE void make_stacked() const {
    float scores[kChunk / 4][4];
    warpgroup_pin(scores);
    warpgroup_fence();
    multiply<2 * kChunk>(scores, tiles.q(head, 0), tiles.k(0));
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_pin(scores);
    const int row = warp_index() % 4 * 16;
    const bool second = row >= kChunk;  // of q^, of which the product with the second part of k^ is left out
    Scores sums;
    GLA_UNROLL
    for (int i = 0; i < kChunk / 2; ++i)
      sums[i / 4][i % 4] = scores[i / 4][i % 4] + (second ? 0.0f : scores[kChunk / 8 + i / 4][i % 4]);
    store(sums, head, row % kChunk, second ? kChunk : 0);
  }

  GLA_DEVICE void make_by_parts() const {
    Scores scores;
    warpgroup_pin(scores);
    warpgroup_fence();
    GLA_UNROLL
    for (int p = 0; p < kScoreParts; ++p) {
      GLA_UNROLL
      for (int r = 0; p + r < kScoreParts; ++r) {
        const OperandTile q = tiles.q(head, p), k = tiles.k(r);
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
    const int row = warp_index() % 4 * 16;
    if (row >= kChunk) return;  // a product has 64 rows, whatever the chunk
    GLA_UNROLL
    for (int part = 0; part < kShape.score_operand_parts(); ++part) {
      store(scores, head + part, row, 0);
      GLA_UNROLL
      for (int i = 0; i < kChunk / 2; ++i)
        scores[i / 4][i % 4] -= to_float(from_float<bf16>(scores[i / 4][i % 4]));
    }
  }

  /// Rows of a head's lower triangle from i0 on, in the tile's columns from `column` on.
  GLA_DEVICE void store(const Scores& scores, int of_head, int i0, int column) const {
    store_triangle<kChunk>(scores, tiles.scores(of_head), i0, column);
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
  static_assert(!kBack || (kRows == kColumns && !Tiles::kLayout.stacked));
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
            sums, set[k], row_major_descriptor(along(q, step * kStep) + row0 * kPanelRowBytes), step > 0);
      }
    }
  }

  GLA_DEVICE void add_score_product(Sums& sums, int i, int row0) const {
    if constexpr (kBack) return add_turned_score_product(sums, i);
    const OperandTile scores = tiles.scores(0);
    GLA_UNROLL
    for (int column = 0; column < Tiles::kScoreColumns; column += kStep)
      warpgroup_multiply<kColumns, Contraction::across_rows, Contraction::along_rows>(
          sums, v_columns(i, column % kChunk),
          row_major_descriptor(along(scores, column) + row0 * kPanelRowBytes), true);
  }

  GLA_DEVICE void add_turned_score_product(Sums& sums, int i) const {
    GLA_UNROLL
    for (int part = 0; part < kShape.score_operand_parts(); ++part) {
      const OperandTile scores = tiles.scores(part);
      GLA_UNROLL
      for (int row = 0; row < kChunk; row += kStep)
        warpgroup_multiply<kColumns, Contraction::across_rows, Contraction::across_rows>(
            sums, v_columns(i, row),
            column_major_descriptor(scores.base + row * kPanelRowBytes, scores.panel_bytes), true);
    }
  }

  /// U^T += V^T k^ with part `part` of k^.
  GLA_DEVICE void add_update(int part) {
    const OperandTile k = kBack ? tiles.q(0, part) : tiles.k(part);
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) {
      GLA_UNROLL
      for (int token = 0; token < kChunk; token += kStep)
        warpgroup_multiply<kPaddedK, Contraction::across_rows, Contraction::across_rows>(
            state.tiles[i], v_columns(i, token),
            column_major_descriptor(k.base + token * kPanelRowBytes, k.panel_bytes), true);
    }
  }

  /// This warpgroup's channels of its block i, of 16 tokens of v.
  GLA_DEVICE MatrixDescriptor v_columns(int i, int token) const {
    const OperandTile v = tiles.v(0);
    const int panel = ChunkState<kShape>::block_v(i) / kPanelColumns;
    return column_major_descriptor(v.base + panel * v.panel_bytes + token * kPanelRowBytes, v.panel_bytes);
  }
};

}  // namespace gla
