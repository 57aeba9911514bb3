// A chunk whose gates fall too far for one pivot, by a team of producers (mma.sync): operands and scores from factors of at most
// 1 for gates of at most 0, whatever these sum up to, so that none needs a guard. With e_t = exp2 of a token's gate, the rows of a
// segment of tokens have P_i, the product of e from its first token to token i, and S_j, that of the tokens behind j to its last.
// For two neighbouring segments, one behind the other,
//   score_ij = sum over channels of  q_i P_i . S_j k_j       i in the later one, j in the earlier
// and both are one segment with the earlier one's S and the later one's P times what the other one multiplies to. That goes from
// single tokens to blocks of 16 in registers, on to the chunk in shared memory, and ends with
//   q~_i = scale q_i P_i     k~_j = S_j k_j     before = the product of all e
// of which the state takes the last one between its product with one operand and the update with the other.
#pragma once

#include "chunk_layout.h"
#include "chunk_sums.cuh"
#include "device/mma.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "device/tile.cuh"
#include "warpgroup_products.cuh"

namespace gla {

/// By the warps of `Team` (ChunkPipeline::Producers), once they all see the chunk as it was loaded.
template <class Config, class Tiles, class Team>
struct SteepChunk {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kBlocks = kShape.blocks(), kSteps = kShape.padded_k() / kStep;
  static constexpr int kParts = kShape.operand_parts();
  /// Warps that share out the channels of a block of 16 tokens.
  static constexpr int kShares = kShape.steep_shares();
  /// Of the first team; the others' follow.
  static constexpr int kBarrier = WarpgroupScores<kShape, Tiles>::kFirstBarrier;
  static_assert(kShape.group_tile == 1 && kShape.state_parts == 1);

  Tiles tiles;
  float scale;
  /// The warp among all producers, and the lane, in a way that leaves ordinary chunks their registers.
  unsigned int of_all = opaque(static_cast<unsigned int>(Team::of_all()));
  unsigned int thread = opaque(static_cast<unsigned int>(lane_index()));

  /// Leaves the operands and the scores to be seen by products that follow a barrier, and `before`.
  GLA_DEVICE void make() const {
    Scores own = {};
    const bool has_rows = warp_any(share() < kShares);
    if (has_rows) make_block(own);
    sync();
    if (warp_any(share() == 0)) store_own(own);
    make_others();
    sync();
    if (has_rows) finish_rows();
    for (int channel = warp() * kWarpSize + lane(); channel < kShape.padded_k(); channel += Team::kThreads)
      tiles.before()[channel] = product<1>(channel, 0, kBlocks).item[0];
    fence_for_warpgroup();
    sync();
  }

 private:
  /// 16 x 16 elements: a lane's two of word w of an operand (mma.cuh) are i = 2 * w and the next.
  using Values = float[8];
  using Words = Bits32[kParts][4];
  using Scores = float[2][4];

  GLA_DEVICE int lane() const { return static_cast<int>(thread % kWarpSize); }
  GLA_DEVICE int team() const { return static_cast<int>(of_all / Team::kWarps); }
  GLA_DEVICE int warp() const { return static_cast<int>(of_all % Team::kWarps); }
  GLA_DEVICE int block() const { return warp() % kBlocks; }
  GLA_DEVICE int share() const { return warp() / kBlocks; }
  GLA_DEVICE void sync() const { part_sync<Team::kThreads>(kBarrier + team()); }
  /// Of word w the column within a step.
  GLA_DEVICE int column(int w) const { return w / 2 * 8 + lane() % 4 * 2; }
  GLA_DEVICE OperandTile q(int part) const { return tiles.template q<kChunk>(0, part); }
  GLA_DEVICE OperandTile k(int part) const { return tiles.template k<kChunk>(part); }
  GLA_DEVICE float* totals(int of_block) const { return tiles.steep_totals(team(), of_block); }

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
    for (int i = 0; i < 8; ++i) {
      x[i] = 0;
      GLA_UNROLL
      for (int part = kParts - 1; part >= 0; --part)
        x[i] += i % 2 == 0 ? low_of(words[part][i / 2]) : high_of(words[part][i / 2]);
    }
  }

  /// exp2 of the gates.
  template <class Gate>
  GLA_DEVICE void load_factors(Values& factors, const RawTile<Gate>& tile, int row, int channel) const {
    if constexpr (sizeof(Gate) == 2) {
      Bits32 words[4];
      load_a(words, tile.operand(), row, channel, lane());
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) factors[i] = unpack<Gate>(words[i / 2]).item[i % 2];
    } else {
      GLA_UNROLL
      for (int w = 0; w < 4; ++w) {
        const Vector<float, 2> two = load_pair(tile, row + lane() / 4 + w % 2 * 8, channel + column(w));
        factors[2 * w] = two.item[0];
        factors[2 * w + 1] = two.item[1];
      }
    }
    GLA_UNROLL
    for (float& factor : factors) factor = exp2_fast(kLog2E * factor);
  }

  /// sums += the products of eight rows of x, the first or the others, with eight rows, which become the sums' columns.
  GLA_DEVICE static void multiply(float (&sums)[4], const Words& x, int rows, int columns) {
    GLA_UNROLL
    for (int p = 0; p < kParts; ++p) {
      Bits32 a[4] = {};
      a[rows] = x[p][rows];
      a[2 + rows] = x[p][2 + rows];
      GLA_UNROLL
      for (int r = 0; p + r < kParts; ++r) multiply_accumulate(sums, a, x[r][columns], x[r][2 + columns]);
    }
  }

  /// Of the warp's block and its share of channels: the scores, and in place of q, k and gates the operands.
  GLA_DEVICE void make_block(Scores& scores) const {
    float levels[3][4] = {}, halves[4] = {};  // scores of rows in different halves of 2, 4 and 8; of 16
    float same[2] = {};                       // of each row with itself
    const int row = lane() / 4;
    GLA_UNROLL_BY(1)
    for (int step = share(); step < kSteps; step += kShares) {
      const int channel = step * kStep;
      Bits32 q_words[4], k_words[4];
      load_a(q_words, tiles.raw_q(0).operand(), 16 * block(), channel, lane());
      load_a(k_words, tiles.raw_k().operand(), 16 * block(), channel, lane());
      Values upto, behind, all, x;  // P, S and the product of all, of the segment so far
      load_factors(upto, tiles.raw_gates(), 16 * block(), channel);
      warp_sync();  // operands take the place of what has been read
      const auto value = [](const Bits32(&words)[4], int i) {
        return i % 2 == 0 ? low_of(words[i / 2]) : high_of(words[i / 2]);
      };
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        all[i] = upto[i];
        behind[i] = 1;
        same[i / 2 % 2] += value(q_words, i) * value(k_words, i);
      }
      Words parts;
      GLA_UNROLL
      for (int level = 0; level < 3; ++level) {
        const bool is_later = (row >> level & 1) != 0;
        GLA_UNROLL
        for (int i = 0; i < 8; ++i) {
          x[i] = is_later ? value(q_words, i) * upto[i] : value(k_words, i) * behind[i];
          const float other = shuffle_xor(all[i], 4 << level);
          upto[i] *= is_later ? other : 1.0f;
          behind[i] *= is_later ? 1.0f : other;
          all[i] *= other;
        }
        split(parts, x);
        multiply(levels[level], parts, 0, 0);
        multiply(levels[level], parts, 1, 1);
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i)
        x[i] = i / 2 % 2 == 1 ? value(q_words, i) * upto[i] : value(k_words, i) * behind[i];
      split(parts, x);
      multiply(halves, parts, 1, 0);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        if (i / 2 % 2 == 1) {
          upto[i] *= all[i - 2];
        } else {
          behind[i] *= all[i + 2];
        }
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) x[i] = value(q_words, i) * (scale * upto[i]);
      split(parts, x);
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) store_a(parts[part], q(part), 16 * block(), channel, lane());
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) x[i] = value(k_words, i) * behind[i];
      split(parts, x);
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) store_a(parts[part], k(part), 16 * block(), channel, lane());
      if (row == 0) {
        GLA_UNROLL
        for (int i = 0; i < 8; ++i)
          if (i / 2 % 2 == 0) totals(block())[channel + column(i / 2) + i % 2] = all[i] * all[i + 2];
      }
    }
    GLA_UNROLL
    for (float& of_row : same) of_row = sum_quad(of_row);
    // The highest bit in which two rows of the same 8 differ is the level at which they stand in different halves.
    GLA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int apart = row ^ (lane() % 4 * 2 + i % 2);
      const float within = apart < 2 ? levels[0][i] : apart < 4 ? levels[1][i] : levels[2][i];
      scores[i / 2][i] = scale * (apart == 0 ? same[i / 2] : within);
      if (i >= 2) scores[0][i] = scale * halves[i];
    }
    if (share() > 0) {
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) partial(block(), i) = scores[i / 4][i % 4];
    }
  }

  /// Score i of the lane, from the block's second share.
  GLA_DEVICE float& partial(int of_block, int i) const {
    return tiles.steep_partials(team(), of_block)[i * kWarpSize + lane()];
  }

  /// The scores of the warp's block, and zeros in the rest of its rows that is none of others'.
  GLA_DEVICE void store_own(Scores& scores) const {
    if constexpr (kShares > 1) {
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] += partial(block(), i);
    }
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int i0 = lane() / 4 + i % 4 / 2 * 8, j = i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (j > i0) scores[i / 4][i % 4] = 0;
    }
    store_scores(scores, block(), 16 * block());
    Scores zeros = {};
    GLA_UNROLL_BY(1)
    for (int first = 16 * (block() + 1); first < Tiles::kScoreColumns; first += 16)
      store_scores(zeros, block(), first);
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
      store_a(words, tiles.template scores<kChunk>(part), 16 * of_block, first_column, lane());
    }
  }

  /// The warp that makes the scores of two blocks. Those that do not follow each other cost more, so that their warps are others.
  GLA_DEVICE static int maker_of(int later, int earlier) {
    if (kShares == 1 || later == earlier + 1) return later;
    return kBlocks + ((later - 1) * (later - 2) / 2 + earlier) % kBlocks;
  }

  GLA_DEVICE void make_others() const {
    GLA_UNROLL_BY(1)
    for (int later = 1; later < kBlocks; ++later) {
      GLA_UNROLL_BY(1)
      for (int earlier = 0; earlier < later; ++earlier) {
        if (!warp_any(maker_of(later, earlier) == warp())) continue;
        Scores scores = {};
        GLA_UNROLL_BY(2)
        for (int step = 0; step < kSteps; ++step) {
          Words a, b;
          GLA_UNROLL
          for (int part = 0; part < kParts; ++part) {
            load_a(a[part], q(part), 16 * later, step * kStep, lane());
            load_b(b[part], k(part), step * kStep, 16 * earlier, lane());
          }
          if (earlier + 1 < later) scale_columns(a, step, earlier + 1, later);
          multiply_parts<kParts>(scores[0], scores[1], a, b);
        }
        store_scores(scores, later, 16 * earlier);
      }
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

  /// Operands within the warp's block, in a step, become those within the chunk.
  GLA_DEVICE void finish(const OperandTile (&tile)[kParts], int step, int first, int end) const {
    if (first == end) return;
    Words words;
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part)
      load_a(words[part], tile[part], 16 * block(), step * kStep, lane());
    warp_sync();
    scale_columns(words, step, first, end);
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part)
      store_a(words[part], tile[part], 16 * block(), step * kStep, lane());
  }
  GLA_DEVICE void finish_rows() const {
    OperandTile of_q[kParts], of_k[kParts];
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part) {
      of_q[part] = q(part);
      of_k[part] = k(part);
    }
    GLA_UNROLL_BY(1)
    for (int step = share(); step < kSteps; step += kShares) {
      finish(of_q, step, 0, block());
      finish(of_k, step, block() + 1, kBlocks);
    }
  }
};

}  // namespace gla
