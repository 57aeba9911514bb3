// A chunk whose gates fall too far for one pivot, by a team of warps (mma.sync): operands and scores from factors of at most
// 1 for gates of at most 0, whatever these sum up to, so that none needs a guard. With e_t = exp2 of a token's gate, the rows of a
// segment of tokens have P_i, the product of e from its first token to token i, and S_j, that of the tokens behind j to its last.
// For two neighbouring segments, one behind the other,
//   score_ij = sum over channels of  q_i P_i . S_j k_j       i in the later one, j in the earlier
// and both are one segment with the earlier one's S and the later one's P times what the other one multiplies to. That goes from
// single tokens to blocks of 16 in registers, on to the chunk in shared memory, and ends with
//   q~_i = scale q_i P_i     k~_j = S_j k_j     before = the product of all e
// (without the scale where outputs take that), of which the state takes the last one between its product with one operand and the update with the other.
#pragma once

#include "chunk_layout.h"
#include "chunk_sums.cuh"
#include "device/mma.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "device/tile.cuh"
#include "device/warpgroup.cuh"

namespace gla {

/// By the warps of `Team`, once they all see the chunk as it was loaded, for one query head.
template <class Config, class Tiles, class Team>
struct SteepChunk {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kStep = 16;  // channels of a product
  static constexpr int kBlocks = kShape.blocks(), kSteps = kShape.padded_k() / kStep;
  static constexpr int kParts = kShape.operand_parts();
  /// Warps that share out the channels of a block of 16 tokens.
  static constexpr int kShares = kShape.steep_shares();
  /// Scores take the place of operands; then warps keep them until the end: those of the first share the scores of their own block,
  /// those of the other one the scores of pairs of blocks.
  static constexpr bool kLate = Tiles::kScoresOverOperands;
  /// Whether one lane's stores stand behind a branch. It makes ptxas take the whole walk of a cluster's blocks for divided where second
  /// parts are made, and give up its uniform registers; elsewhere the walk spills without it.
  static constexpr bool kBranches = kShape.cluster == 1 || kParts == 1;
  static_assert(!kLate || ((kBlocks == 2 || kBlocks == 4) && kShares == 2));

  Tiles tiles;
  int head;
  float scale;
  /// The warp in the team, which the compiler is to know for the same in all lanes, and the lane, in a way that leaves ordinary chunks
  /// their registers.
  unsigned int of_team = uniform(opaque(static_cast<unsigned int>(Team::warp())));
  unsigned int thread = opaque(static_cast<unsigned int>(lane_index()));

  /// Leaves the operands and the scores to be seen by products that follow a barrier, and `before`.
  GLA_DEVICE void make() const {
    Scores scores = {};
    make_blocks(scores);
    Team::sync();
    const bool has_own = kShares > 1 && warp_any(share() == 0),
               has_pair = kLate && warp_any(share() == 1 && late_pair().later > 0);
    [[maybe_unused]] Scores of_second;
    if constexpr (kShares > 1) {
      if (has_own) add_partials(scores);
      if constexpr (Tiles::kPartialsOverScores) Team::sync();
    }
    if constexpr (kLate) {
      if (has_pair) make_pair(scores, late_pair().later, late_pair().earlier);
      if constexpr (kBlocks > 2) {
        if (has_second_pair()) make_pair(of_second, block() + 2, block());
      }
    } else {
      if (has_own) store_own(scores, block());
      make_pairs();
    }
    Team::sync();
    finish_rows();
    for (int channel = warp() * kWarpSize + lane(); channel < kShape.padded_k(); channel += Team::kThreads)
      tiles.before()[channel] = product<1>(channel, 0, kBlocks).item[0];
    if constexpr (kLate) {
      Team::sync();
      if (has_own) store_own(scores, block());
      if (has_pair) store_scores(scores, late_pair().later, 16 * late_pair().earlier);
      if constexpr (kBlocks > 2) {
        if (has_second_pair()) store_scores(of_second, block() + 2, 16 * block());
      }
    }
    if constexpr (Tiles::kForWarpgroups) fence_for_warpgroup();
    Team::sync();
  }

 private:
  /// 16 x 16 elements: a lane's two of word w of an operand (mma.cuh) are i = 2 * w and the next.
  using Values = float[8];
  using Words = Bits32[kParts][4];
  using Scores = float[2][4];

  GLA_DEVICE int lane() const { return static_cast<int>(thread % kWarpSize); }
  GLA_DEVICE int warp() const { return static_cast<int>(of_team % Team::kWarps); }
  /// Where warps share out channels, each has one block; else these are its first one, and 0.
  GLA_DEVICE int block() const { return warp() % kBlocks; }
  GLA_DEVICE int share() const { return warp() / kBlocks; }
  GLA_DEVICE bool has_rows() const { return warp_any(warp() < kShares * kBlocks); }
  /// Of word w the column within a step.
  GLA_DEVICE int column(int w) const { return w / 2 * 8 + lane() % 4 * 2; }
  GLA_DEVICE OperandTile q(int part) const { return tiles.q(head, part); }
  GLA_DEVICE OperandTile k(int part) const { return tiles.k(part); }
  GLA_DEVICE float* totals(int of_block) const { return tiles.steep_totals(Team::team(), of_block); }

  /// What the gates of blocks [first, end) multiply to in N channels.
  template <int N>
  GLA_DEVICE Vector<float, N> product(int channel, int first, int end) const {
    Vector<float, N> product;
    GLA_UNROLL
    for (float& factor : product.item) factor = 1;
    GLA_UNROLL
    for (int of_block = 0; of_block < kBlocks; ++of_block) {
      const auto factors = *reinterpret_cast<const Vector<float, N>*>(totals(of_block) + channel);
      const bool taken = first <= of_block && of_block < end;
      GLA_UNROLL
      for (int c = 0; c < N; ++c) product.item[c] *= taken ? factors.item[c] : 1.0f;
    }
    return product;
  }

  GLA_DEVICE static void split(Words& words, const Values& x) {
    GLA_UNROLL
    for (int w = 0; w < 4; ++w) {
      Bits32 parts[kParts];
      split_bf16(x[2 * w], x[2 * w + 1], parts);
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) words[part][w] = parts[part];
    }
  }
  GLA_DEVICE static void join(Values& x, const Words& words) {
    GLA_UNROLL
    for (int w = 0; w < 4; ++w) {
      Bits32 parts[kParts];
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) parts[part] = words[part][w];
      join_bf16(x[2 * w], x[2 * w + 1], parts);
    }
  }

  /// The same as they are loaded.
  template <class T>
  struct Rows {
    Bits32 words[2 * sizeof(T)];
    GLA_DEVICE float operator[](int i) const {
      if constexpr (sizeof(T) == 2) {
        return unpack<T>(words[i / 2]).item[i % 2];
      } else {
        return bits_to_float(words[i]);
      }
    }
  };
  template <class T>
  GLA_DEVICE Rows<T> load(const RawTile<T>& tile, int row, int channel) const {
    Rows<T> rows;
    if constexpr (sizeof(T) == 2) {
      load_a(rows.words, tile.operand(), row, channel, lane());
    } else {
      GLA_UNROLL
      for (int w = 0; w < 4; ++w) {
        const Vector<float, 2> two = load_pair(tile, row + lane() / 4 + w % 2 * 8, channel + column(w));
        rows.words[2 * w] = float_to_bits(two.item[0]);
        rows.words[2 * w + 1] = float_to_bits(two.item[1]);
      }
    }
    return rows;
  }

  /// sums += the products of eight rows of x, the first or the others, with eight rows, which become the sums' columns.
  GLA_DEVICE static void multiply(float (&sums)[4], const Words& x, int rows, int columns) {
    GLA_UNROLL
    for (int p = 0; p < kShape.score_parts; ++p) {
      Bits32 a[4] = {};
      a[rows] = x[p][rows];
      a[2 + rows] = x[p][2 + rows];
      GLA_UNROLL
      for (int r = 0; p + r < kShape.score_parts; ++r)
        multiply_accumulate(sums, a, x[r][columns], x[r][2 + columns]);
    }
  }

  /// Operands within blocks of 16 tokens. Leaves in `scores` the warp's share of those of its block, or, where warps have whole
  /// blocks, stores them.
  GLA_DEVICE void make_blocks(Scores& scores) const {
    GLA_UNROLL_BY(1)
    for (int of_block = block(); has_rows() && of_block < kBlocks; of_block += Team::kWarps) {
      make_block(scores, of_block);
      if constexpr (kShares == 1) store_own(scores, of_block);
    }
  }

  GLA_DEVICE void make_block(Scores& scores, int of_block) const {
    // Scores of rows in different halves of 2, 4 and 8: of the block's first 8 rows and, apart lest what is no number there meet
    // zeros in these, of its others; with the first 8 of 8 those of the others and them.
    float levels[3][2][4] = {};
    float same[2] = {};  // of each row with itself
    const int row = lane() / 4;
    GLA_UNROLL_BY(1)
    for (int step = kShares > 1 ? share() : 0; step < kSteps; step += kShares) {
      const int channel = step * kStep, row0 = 16 * of_block;
      const auto q_rows = load(tiles.raw_q(head), row0, channel);
      const auto k_rows = load(tiles.raw_k(), row0, channel);
      const auto gates = load(tiles.raw_gates(), row0, channel);
      warp_sync();             // operands may take the place of what has been read
      Values upto, behind, x;  // P and S, whose product is that of all, of the segment so far
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        upto[i] = exp2_fast(kLog2E * gates[i]);
        behind[i] = 1;
        same[i / 2 % 2] += q_rows[i] * k_rows[i];
      }
      Words parts;
      GLA_UNROLL
      for (int level = 0; level < 3; ++level) {
        const bool is_later = (row >> level & 1) != 0;
        GLA_UNROLL
        for (int i = 0; i < 8; ++i) {
          x[i] = is_later ? q_rows[i] * upto[i] : k_rows[i] * behind[i];
          const float other = shuffle_xor(upto[i] * behind[i], 4 << level);
          upto[i] *= is_later ? other : 1.0f;
          behind[i] *= is_later ? 1.0f : other;
        }
        split(parts, x);
        multiply(levels[level][0], parts, 0, 0);
        multiply(levels[level][1], parts, 1, 1);
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) x[i] = i / 2 % 2 == 1 ? q_rows[i] * upto[i] : k_rows[i] * behind[i];
      split(parts, x);
      multiply(levels[2][0], parts, 1, 0);
      GLA_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int early = i / 2 * 4 + i % 2, late = early + 2;  // of the two halves
        const float of_early = upto[early] * behind[early], of_late = upto[late] * behind[late];
        upto[late] *= of_early;
        behind[early] *= of_late;
        float* const total = totals(of_block) + channel + column(early / 2) + i % 2;
        if constexpr (kBranches) {
          if (row == 0) *total = of_early * of_late;
        } else {
          store_if(row == 0, total, of_early * of_late);
        }
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) x[i] = q_rows[i] * (scale * upto[i]);
      split(parts, x);
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) store_a(parts[part], q(part), row0, channel, lane());
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) x[i] = k_rows[i] * behind[i];
      split(parts, x);
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) store_a(parts[part], k(part), row0, channel, lane());
    }
    GLA_UNROLL
    for (float& of_row : same) of_row = sum_quad(of_row);
    // The highest bit in which two rows of the same 8 differ is the level at which they stand in different halves.
    GLA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int apart = row ^ (lane() % 4 * 2 + i % 2);
      const int level = apart < 2 ? 0 : apart < 4 ? 1 : 2;
      const float within = level == 0   ? levels[0][i / 2][i]
                           : level == 1 ? levels[1][i / 2][i]
                                        : levels[2][i / 2][i];
      scores[i / 2][i] = scale * (apart == 0 ? same[i / 2] : within);
      if (i >= 2) scores[0][i] = scale * levels[2][0][i];
    }
    if constexpr (kShares > 1) {
      if (share() == 0) return;
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) partial(share(), i) = scores[i / 4][i % 4];
    }
  }

  /// Score i of the lane, of a share that is not the first.
  GLA_DEVICE float& partial(int of_share, int i) const {
    return tiles.steep_partials(Team::team(), (of_share - 1) * kBlocks + block())[i * kWarpSize + lane()];
  }
  GLA_DEVICE void add_partials(Scores& scores) const {
    GLA_UNROLL
    for (int n = 0; n < 8 * (kShares - 1); ++n) scores[n / 4 % 2][n % 4] += partial(1 + n / 8, n % 8);
  }

  /// The scores of a block, and zeros in the rest of its rows that is none of others'.
  GLA_DEVICE void store_own(Scores& scores, int of_block) const {
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int i0 = lane() / 4 + i % 4 / 2 * 8, j = i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (j > i0) scores[i / 4][i % 4] = 0;
    }
    store_scores(scores, of_block, 16 * of_block);
    GLA_UNROLL_BY(1)
    for (int first = 16 * (of_block + 1); first < kChunk; first += 16) {
      Scores zeros = {};
      store_scores(zeros, of_block, first);
    }
  }

  GLA_DEVICE void store_scores(Scores& scores, int of_block, int first_column) const {
    GLA_UNROLL
    for (int part = 0; part < kShape.score_operand_parts(); ++part) {
      Bits32 words[4];
      GLA_UNROLL
      for (int w = 0; w < 4; ++w) {
        float &low = scores[w / 2][w % 2 * 2], &high = scores[w / 2][w % 2 * 2 + 1];
        words[w] = pack_bf16(low, high);
        low -= low_of(words[w]);
        high -= high_of(words[w]);
      }
      store_a(words, tiles.score_part(head, part), 16 * of_block, first_column, lane());
    }
  }

  /// The warp that makes the scores of two blocks. Those that do not follow each other cost more, so that their warps are others.
  GLA_DEVICE static int maker_of(int later, int earlier) {
    if (kShares == 1 || later == earlier + 1) return later % Team::kWarps;
    return kBlocks + ((later - 1) * (later - 2) / 2 + earlier) % kBlocks;
  }

  GLA_DEVICE void make_pairs() const {
    GLA_UNROLL_BY(1)
    for (int later = 1; later < kBlocks; ++later) {
      GLA_UNROLL_BY(1)
      for (int earlier = 0; earlier < later; ++earlier) {
        if (!warp_any(maker_of(later, earlier) == warp())) continue;
        Scores scores;
        make_pair(scores, later, earlier);
        store_scores(scores, later, 16 * earlier);
      }
    }
  }

  struct Pair {
    int later, earlier;  ///< `later` is 0: none
  };
  /// The first that a warp of the second share makes late: its block with the next one, or the two that are three apart.
  GLA_DEVICE Pair late_pair() const {
    if (block() + 1 < kBlocks) return {block() + 1, block()};
    return {kBlocks == 4 ? 3 : 0, 0};
  }
  /// Whether it makes its block with the next but one.
  GLA_DEVICE bool has_second_pair() const { return warp_any(share() == 1 && block() + 2 < kBlocks); }

  GLA_DEVICE void make_pair(Scores& scores, int later, int earlier) const {
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
    GLA_UNROLL_BY(2)
    for (int step = 0; step < kSteps; ++step) {
      Words a, b;
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) {
        load_a(a[part], q(part), 16 * later, step * kStep, lane());
        load_b(b[part], k(part), step * kStep, 16 * earlier, lane());
      }
      if (earlier + 1 < later) scale_columns(a, step, earlier + 1, later);
      multiply_parts<kShape.score_parts>(scores[0], scores[1], a, b);
    }
  }

  /// Multiplies rows of a step, as an operand, by what the gates of blocks [first, end) multiply to.
  GLA_DEVICE void scale_columns(Words& rows, int step, int first, int end) const {
    Values x;
    join(x, rows);
    GLA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Vector<float, 2> factors = product<2>(step * kStep + column(2 * half), first, end);
      GLA_UNROLL
      for (int i = 0; i < 4; ++i) x[4 * half + i] *= factors.item[i % 2];
    }
    split(rows, x);
  }

  /// Operands within a block, in a step, become those within the chunk.
  GLA_DEVICE void finish(const OperandTile (&tile)[kParts], int of_block, int step, int first,
                         int end) const {
    if (first == end) return;
    Words words;
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part)
      load_a(words[part], tile[part], 16 * of_block, step * kStep, lane());
    warp_sync();
    scale_columns(words, step, first, end);
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part)
      store_a(words[part], tile[part], 16 * of_block, step * kStep, lane());
  }
  GLA_DEVICE void finish_rows() const {
    OperandTile of_q[kParts], of_k[kParts];
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part) {
      of_q[part] = q(part);
      of_k[part] = k(part);
    }
    GLA_UNROLL_BY(1)
    for (int of_block = block(); has_rows() && of_block < kBlocks; of_block += Team::kWarps) {
      GLA_UNROLL_BY(1)
      for (int step = kShares > 1 ? share() : 0; step < kSteps; step += kShares) {
        finish(of_q, of_block, step, 0, of_block);
        finish(of_k, of_block, step, of_block + 1, kBlocks);
      }
    }
  }
};

}  // namespace gla
