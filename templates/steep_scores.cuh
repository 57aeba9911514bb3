// The scores of a chunk with steep channels, whose sums fall too far for one pivot, by a warpgroup's warps (mma.sync). Rows come
// in blocks of 16, and each block's q and k are taken relative to the block. With b the sums of the gates from the block's
// first row on, b' those behind a row to the block's end, and B those of the blocks between,
//   score_ij = sum over channels of  q_i exp2(b_i) . exp2(B) . k_j exp2(b'_j)
// and within a block its halves stand to each other like that, theirs again, down to single rows, whose own score has no factor. No
// factor is greater than 1 for gates of at most 0, so that none needs a guard, whatever they sum up to; one that is no float is 0.
#pragma once

#include "chunk_gates.cuh"
#include "chunk_layout.h"
#include "device/mma.cuh"
#include "device/numeric.cuh"
#include "device/tile.cuh"
#include "warpgroup_products.cuh"

namespace gla {

/// By a warpgroup of the team of producers whose chunk it is, one of Teams of `Warps` warps. A channel block that is not steep
/// has its operands already.
template <class Config, class Tiles, int Warps, int Teams>
struct SteepScores {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr int kChunk = kShape.chunk, kPaddedK = kShape.padded_k();
  static constexpr int kBlocks = kChunk / 16, kSteps = kPaddedK / kStep;
  static constexpr int kScoreParts = kShape.score_parts, kParts = kShape.operand_parts();
  /// Stacked, scores have columns for two summands: each pair of warps has every other step.
  static constexpr int kShares = Tiles::kLayout.stacked ? 2 : 1;
  static_assert(kBlocks * kShares <= 4);

  Tiles tiles;
  int chunk;
  float scale;
  /// Of the thread in the warpgroup, which the compiler must not know: what it finds out about it would stay in registers in
  /// which producers of ordinary chunks have other things.
  unsigned int thread =
      static_cast<unsigned int>(thread_index()) % (4 * kWarpSize) + (tiles.marks()[0] >> 31);

  /// Shows the scores to the products that follow a barrier, and q~_i = scale q_i exp2(b_i) and k~_j = k_j exp2(b_C - b_j) of the
  /// chunk, `before`, `after` and `ahead`.
  GLA_DEVICE void make() const {
    const bool works = warp_any(share() < kShares);
    Scores scores = {};
    if (works) make_own_scores(scores);
    sync();
    if (works) make_scores(scores);
    sync();
    if (works) finish_rows();
    sync();
    store_scaling();
    fence_for_warpgroup();
  }

 private:
  /// A lane's elements of 16 rows and 16 channels, as an operand of mma.cuh: two of word w are i = 2 * w and the next.
  using Values = float[8];
  using Words = Bits32[4];
  using Scores = float[2][4];

  static constexpr int kLevels = 4;  ///< halves of 1, 2, 4 and 8 rows

  GLA_DEVICE int lane() const { return static_cast<int>(thread % kWarpSize); }
  GLA_DEVICE int block() const { return static_cast<int>(thread / kWarpSize % kBlocks); }
  GLA_DEVICE int share() const { return static_cast<int>(thread / kWarpSize % 4 / kBlocks); }
  GLA_DEVICE static void sync() {
    part_sync<4 * kWarpSize>(WarpgroupScores<kShape, Tiles>::kFirstBarrier + warp_index() / 4);
  }

  GLA_DEVICE unsigned int marks_of(int step) const {
    return ChunkMarks::of(tiles.marks()[chunk % Teams * Warps + step % Warps], chunk);
  }
  GLA_DEVICE bool is_steep(int step) const { return warp_any((marks_of(step) >> step / Warps & 1u) != 0); }

  /// The warp's next 8 channels.
  GLA_DEVICE static int next(int first) { return first + (first % kStep == 0 ? 8 : kShares * kStep - 8); }
  /// Rows lane / 4 of the block's first half and of its second.
  GLA_DEVICE int row(int half) const { return 16 * block() + 8 * half + lane() / 4; }

  GLA_DEVICE static void split(Bits32 (&parts)[kParts][4], const Values& x) {
    GLA_UNROLL
    for (int word = 0; word < 4; ++word) {
      Bits32 of_word[kParts];
      split_bf16(x[2 * word], x[2 * word + 1], of_word);
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) parts[part][word] = of_word[part];
    }
  }

  /// Of 16 rows and 8 channels a lane has two channels of two rows, lane / 4 and the one 8 further: i = 2 * row + channel.
  using HalfValues = float[4];

  template <class Gate>
  GLA_DEVICE void load_gates(HalfValues& gates, const RawTile<Gate>& tile, int channel) const {
    GLA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const Vector<float, 2> two = load_pair(tile, row(half), channel);
      GLA_UNROLL
      for (int c = 0; c < 2; ++c)
        gates[2 * half + c] = kLog2E * (two.item[c] < kMinGate ? kMinGate : two.item[c]);
    }
  }
  GLA_DEVICE Bits32 load_word(const OperandTile& tile, int half, int channel) const {
    return *reinterpret_cast<const Bits32*>(tile.at(row(half), channel));
  }

  /// As bf16 parts: of 8 channels an operand's 16 columns hold two.
  using HalfParts = Bits32[2][kParts];
  GLA_DEVICE static void split(HalfParts& parts, const HalfValues& x) {
    GLA_UNROLL
    for (int half = 0; half < 2; ++half) split_bf16(x[2 * half], x[2 * half + 1], parts[half]);
  }
  template <class Tile>
  GLA_DEVICE void store(const HalfValues& x, int channel, Tile tile_of) const {
    HalfParts parts;
    split(parts, x);
    GLA_UNROLL
    for (int i = 0; i < 2 * kParts; ++i)
      *reinterpret_cast<Bits32*>(tile_of(i / 2).at(row(i % 2), channel)) = parts[i % 2][i / 2];
  }

  /// sums += the products of rows `a` (0: the first 8, 1: the others) with rows `b`, of which the sums' rows are the former's.
  GLA_DEVICE static void multiply(float (&sums)[4], const HalfParts& x, int a, int b) {
    constexpr int kRest = kParts - 1;
    Words rows = {};
    rows[a] = x[a][0];
    if constexpr (kScoreParts > 1) rows[2 + a] = x[a][kRest];
    multiply_accumulate(sums, rows, x[b][0], x[b][0]);
    if constexpr (kScoreParts > 1) {
      rows[2 + a] = 0;
      multiply_accumulate(sums, rows, x[b][kRest], 0);
    }
  }

  /// The scores of the warp's rows with each other in steep channels; leaves q and k relative to the block, and its sums.
  GLA_DEVICE void make_own_scores(Scores& scores) const {
    float levels[kLevels][4] = {};
    float own[2] = {};  // of each row with itself
    GLA_UNROLL_BY(1)
    for (int first = share() * kStep; first < kPaddedK; first = next(first)) {
      if (!is_steep(first / kStep)) continue;
      const int channel = first + lane() % 4 * 2;
      Bits32 q[2], k[2];
      // Of the rows of its half so far: the sums up to a row, and of all.
      HalfValues sums, all, x;
      load_gates(sums, tiles.raw_gates(), channel);
      GLA_UNROLL
      for (int half = 0; half < 2; ++half) {
        q[half] = load_word(tiles.raw_q(0).operand(), half, channel);
        k[half] = load_word(tiles.raw_k().operand(), half, channel);
        own[half] += low_of(q[half]) * low_of(k[half]);
        own[half] += high_of(q[half]) * high_of(k[half]);
      }
      const auto value = [](Bits32 word, int i) { return i % 2 == 0 ? low_of(word) : high_of(word); };
      HalfParts parts;
      GLA_UNROLL
      for (int i = 0; i < 4; ++i) all[i] = sums[i];
      GLA_UNROLL
      for (int level = 0; level < kLevels - 1; ++level) {
        const bool is_later = (lane() / 4 >> level & 1) != 0;
        GLA_UNROLL
        for (int i = 0; i < 4; ++i) {
          x[i] = value(is_later ? q[i / 2] : k[i / 2], i) * exp2_fast(is_later ? sums[i] : all[i] - sums[i]);
          const float other = shuffle_xor(all[i], 4 << level);
          if (is_later) sums[i] += other;
          all[i] += other;
        }
        split(parts, x);
        multiply(levels[level], parts, 0, 0);
        multiply(levels[level], parts, 1, 1);
      }
      GLA_UNROLL
      for (int i = 0; i < 4; ++i)
        x[i] = i < 2 ? value(k[0], i) * exp2_fast(all[i] - sums[i]) : value(q[1], i) * exp2_fast(sums[i]);
      split(parts, x);
      multiply(levels[kLevels - 1], parts, 1, 0);
      GLA_UNROLL
      for (int i = 2; i < 4; ++i) {
        sums[i] += all[i - 2];
        all[i] += all[i - 2];
        all[i - 2] = all[i];
      }
      GLA_UNROLL
      for (int i = 0; i < 4; ++i) x[i] = value(q[i / 2], i) * (scale * exp2_fast(sums[i]));
      store(x, channel, [this](int part) { return tiles.template q<kChunk>(0, part); });
      GLA_UNROLL
      for (int i = 0; i < 4; ++i) x[i] = value(k[i / 2], i) * exp2_fast(all[i] - sums[i]);
      store(x, channel, [this](int part) { return tiles.template k<kChunk>(part); });
      if (lane() / 4 == 0) {
        GLA_UNROLL
        for (int c = 0; c < 2; ++c) tiles.row_sums(block())[channel + c] = all[c];
      }
    }
    GLA_UNROLL
    for (float& of_row : own) of_row = sum_quad(of_row);
    // The highest bit in which two rows of the same 8 differ is the level at which they stand in different halves.
    GLA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int apart = lane() / 4 ^ (lane() % 4 * 2 + i % 2);
      const float within = apart < 2 ? levels[0][i] : apart < 4 ? levels[1][i] : levels[2][i];
      scores[i / 2][i] = scale * (apart == 0 ? own[i / 2] : within);
      if (i >= 2) scores[0][i] = scale * levels[kLevels - 1][i];
    }
  }

  /// Adds the sums of blocks [first, end) in two channels.
  GLA_DEVICE void add_row_sums(float* sums, int channel, int first, int end) const {
    GLA_UNROLL_BY(1)
    for (int other = first; other < end; ++other) {
      const auto two = *reinterpret_cast<const Vector<float, 2>*>(tiles.row_sums(other) + channel);
      sums[0] += two.item[0];
      sums[1] += two.item[1];
    }
  }

  /// Multiplies rows of a step, as an operand, by exp2 of the sums of blocks [first, end).
  GLA_DEVICE void scale_operand(Bits32 (&rows)[kParts][4], int step, int first, int end) const {
    float factors[4] = {};
    GLA_UNROLL
    for (int pair = 0; pair < 2; ++pair)
      add_row_sums(factors + 2 * pair, step * kStep + pair * 8 + lane() % 4 * 2, first, end);
    GLA_UNROLL
    for (float& factor : factors) factor = exp2_fast(factor);
    Values x = {};
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      GLA_UNROLL
      for (int part = kParts - 1; part >= 0; --part)
        x[i] += i % 2 == 0 ? low_of(rows[part][i / 2]) : high_of(rows[part][i / 2]);
      x[i] *= factors[i / 4 * 2 + i % 2];
    }
    split(rows, x);
  }

  /// Adds the scores of the warp's rows and those of block `other` in the channels of a step, once those have operands.
  GLA_DEVICE void add_scores(Scores& scores, int other, int step) const {
    Bits32 a[kParts][4], b[kParts][4];
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part) {
      load_a(a[part], tiles.template q<kChunk>(0, part), 16 * block(), step * kStep, lane());
      load_b(b[part], tiles.template k<kChunk>(part), step * kStep, 16 * other, lane());
    }
    if (other + 1 < block() && is_steep(step)) scale_operand(a, step, other + 1, block());
    multiply_parts<kScoreParts>(scores[0], scores[1], a, b);
  }

  /// Also what is above the diagonal.
  GLA_DEVICE void store_scores(Scores& scores, int other) const {
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int row = lane() / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + lane() % 4 * 2 + i % 2;
      if (16 * other + column > 16 * block() + row) scores[i / 4][i % 4] = 0;
    }
    GLA_UNROLL
    for (int part = 0; part < kShape.score_operand_parts(); ++part) {
      Words words;
      GLA_UNROLL
      for (int pair = 0; pair < 4; ++pair) {
        float &low = scores[pair / 2][pair % 2 * 2], &high = scores[pair / 2][pair % 2 * 2 + 1];
        words[pair] = pack_bf16(low, high);
        low -= low_of(words[pair]);
        high -= high_of(words[pair]);
      }
      store_a(words, tiles.template scores<kChunk>(part), 16 * block(), share() * kChunk + 16 * other,
              lane());
    }
  }

  /// All scores of the warp's rows; `scores` are those that are made.
  GLA_DEVICE void make_scores(Scores& scores) const {
    GLA_UNROLL_BY(1)
    for (int n = 0; n < kBlocks; ++n) {
      const int other = (block() + n) % kBlocks;
      GLA_UNROLL_BY(1)
      for (int step = share(); step < kSteps && other <= block(); step += kShares) {
        if (n > 0 || !is_steep(step)) add_scores(scores, other, step);
      }
      store_scores(scores, other);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
    }
  }

  /// Multiplies the block's rows of a tile in 8 channels by exp2 of the sums of blocks [first, end).
  template <class Tile>
  GLA_DEVICE void scale_rows(int channel, int first, int end, Tile tile_of) const {
    if (first == end) return;
    float factors[2] = {};
    add_row_sums(factors, channel, first, end);
    HalfValues x = {};
    GLA_UNROLL
    for (int i = 0; i < 2 * kParts; ++i) {
      const Bits32 word = load_word(tile_of(kParts - 1 - i / 2), i % 2, channel);
      x[i % 2 * 2] += low_of(word);
      x[i % 2 * 2 + 1] += high_of(word);
    }
    GLA_UNROLL
    for (int i = 0; i < 4; ++i) x[i] *= exp2_fast(factors[i % 2]);
    store(x, channel, tile_of);
  }

  /// q and k relative to the chunk instead of the block.
  GLA_DEVICE void finish_rows() const {
    GLA_UNROLL_BY(1)
    for (int first = share() * kStep; first < kPaddedK; first = next(first)) {
      if (!is_steep(first / kStep)) continue;
      const int channel = first + lane() % 4 * 2;
      scale_rows(channel, 0, block(), [this](int part) { return tiles.template q<kChunk>(0, part); });
      scale_rows(channel, block() + 1, kBlocks, [this](int part) { return tiles.template k<kChunk>(part); });
    }
  }

  /// In the place of the blocks' sums, which nobody needs behind it.
  GLA_DEVICE void store_scaling() const {
    for (int c = static_cast<int>(thread); c < kPaddedK; c += 4 * kWarpSize) {
      const int step = c / kStep;
      const unsigned int mark = marks_of(step);
      const bool apart = (mark & ChunkMarks::kApart) != 0, steep = (mark >> step / Warps & 1u) != 0;
      const float rest = chunk > 0 ? exp2_fast(tiles.carried(chunk - 1)[c]) : 1.0f;
      float sum = 0;
      for (int other = 0; steep && other < kBlocks; ++other) sum += tiles.row_sums(other)[c];
      if (steep) tiles.before()[c] = apart ? 1.0f : rest;
      tiles.after()[c] = exp2_fast(sum);
      tiles.ahead()[c] = apart ? rest : 1.0f;
    }
  }
};

}  // namespace gla
