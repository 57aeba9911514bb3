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

/// By each warpgroup of a team of `Warps` producers, whose marks are `marks`; `carried` is what the chunk before has left, if
/// any. A channel block that is not steep has its operands already.
template <class Config, class Tiles, int Warps>
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
  const unsigned int* marks;
  const float* carried;

  /// Shows the scores to the products that follow a barrier, and q~_i = scale q_i exp2(b_i) and k~_j = k_j exp2(b_C - b_j) of the
  /// chunk, `before`, `after` and `ahead`.
  GLA_DEVICE void make() const {
    const bool works = warp_any(share() < kShares);
    if (works) {
      float levels[kLevels][4] = {};
      make_rows(levels);
      sync();
      make_scores(levels);
    } else {
      sync();
    }
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

  static constexpr int kLevels = 5;  ///< halves of 1, 2, 4 and 8 rows, and a row by itself
  static constexpr int kHalf = 3, kRow = 4;

  GLA_DEVICE static int block() { return warp_index() % 4 % kBlocks; }
  GLA_DEVICE static int share() { return warp_index() % 4 / kBlocks; }
  GLA_DEVICE static void sync() {
    part_sync<4 * kWarpSize>(WarpgroupScores<kShape, Tiles>::kFirstBarrier + warp_index() / 4);
  }

  GLA_DEVICE unsigned int marks_of(int step) const { return ChunkMarks::of(marks[step % Warps], chunk); }
  GLA_DEVICE bool is_steep(int step) const { return warp_any((marks_of(step) >> step / Warps & 1u) != 0); }

  /// The lane's channels: four of a step's 16, in pairs.
  GLA_DEVICE static int channel(int step, int pair) {
    return step * kStep + pair * 8 + lane_index() % 4 * 2;
  }

  GLA_DEVICE static void split(Bits32 (&parts)[kParts][4], const Values& x) {
    GLA_UNROLL
    for (int word = 0; word < 4; ++word) {
      Bits32 of_word[kParts];
      split_bf16(x[2 * word], x[2 * word + 1], of_word);
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) parts[part][word] = of_word[part];
    }
  }

  /// Gates of a block in log2 units.
  template <class Gate>
  GLA_DEVICE static void load_gates(Values& gates, const RawTile<Gate>& tile, int step) {
    Words words;
    if constexpr (sizeof(Gate) == 2) load_a(words, tile.operand(), 16 * block(), step * kStep);
    GLA_UNROLL
    for (int word = 0; word < 4; ++word) {
      Vector<float, 2> two;
      if constexpr (sizeof(Gate) == 2) {
        two = unpack<Gate>(words[word]);
      } else {
        two = load_pair(tile, 16 * block() + lane_index() / 4 + word % 2 * 8, channel(step, word / 2));
      }
      GLA_UNROLL
      for (int half = 0; half < 2; ++half)
        gates[2 * word + half] = kLog2E * (two.item[half] < kMinGate ? kMinGate : two.item[half]);
    }
  }

  /// The scores within the warp's block by level, without the scale; leaves q and k relative to the block, and its sums.
  GLA_DEVICE void make_rows(float (&levels)[kLevels][4]) const {
    GLA_UNROLL_BY(1)
    for (int step = share(); step < kSteps; step += kShares) {
      if (!is_steep(step)) continue;
      Words q, k;
      load_a(q, tiles.raw_q(0).operand(), 16 * block(), step * kStep);
      load_a(k, tiles.raw_k().operand(), 16 * block(), step * kStep);
      // Of the rows of its half so far: sums up to this one, and of all.
      Values sums, all;
      load_gates(sums, tiles.raw_gates(), step);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) all[i] = sums[i];
      multiply_accumulate(levels[kRow], {q[0], 0, q[2], 0}, k[0], k[2]);
      multiply_accumulate(levels[kRow], {0, q[1], 0, q[3]}, k[1], k[3]);
      GLA_UNROLL
      for (int level = 0; level < kHalf; ++level) {
        const bool is_later = (lane_index() / 4 >> level & 1) != 0;
        Values x;
        GLA_UNROLL
        for (int i = 0; i < 8; ++i) {
          const Bits32 word = is_later ? q[i / 2] : k[i / 2];
          x[i] = (i % 2 == 0 ? low_of(word) : high_of(word)) * exp2_fast(is_later ? sums[i] : all[i] - sums[i]);
          const float other = shuffle_xor(all[i], 4 << level);
          if (is_later) sums[i] += other;
          all[i] += other;
        }
        Bits32 parts[kParts][4];
        split(parts, x);
        multiply_halves(levels[level], parts);
      }
      Values x;
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const bool is_later = i / 2 % 2 != 0;
        const Bits32 word = is_later ? q[i / 2] : k[i / 2];
        x[i] = (i % 2 == 0 ? low_of(word) : high_of(word)) * exp2_fast(is_later ? sums[i] : all[i] - sums[i]);
      }
      Bits32 parts[kParts][4];
      split(parts, x);
      multiply_whole(levels[kHalf], parts);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        if (i / 2 % 2 == 0) continue;
        const int earlier = i - 2;
        sums[i] += all[earlier];
        all[i] += all[earlier];
        all[earlier] = all[i];
      }
      warp_sync();
      GLA_UNROLL
      for (int i = 0; i < 8; ++i)
        x[i] = (i % 2 == 0 ? low_of(q[i / 2]) : high_of(q[i / 2])) * (scale * exp2_fast(sums[i]));
      split(parts, x);
      store_parts<kParts>(parts, step, [this](int part) { return tiles.template q<kChunk>(0, part); });
      GLA_UNROLL
      for (int i = 0; i < 8; ++i)
        x[i] = (i % 2 == 0 ? low_of(k[i / 2]) : high_of(k[i / 2])) * exp2_fast(all[i] - sums[i]);
      split(parts, x);
      store_parts<kParts>(parts, step, [this](int part) { return tiles.template k<kChunk>(part); });
      if (lane_index() / 4 == 0) {
        GLA_UNROLL
        for (int i = 0; i < 4; ++i)
          tiles.row_sums(block())[channel(step, i / 2) + i % 2] = all[i / 2 * 4 + i % 2];
      }
    }
  }

  template <int Parts, class Tile>
  GLA_DEVICE static void store_parts(const Bits32 (&parts)[kParts][4], int step, Tile tile_of) {
    GLA_UNROLL
    for (int part = 0; part < Parts; ++part) store_a(parts[part], tile_of(part), 16 * block(), step * kStep);
  }

  /// Of rows that are q in later halves and k in earlier ones, the scores of rows 0 to 7 with each other, and those of the others.
  GLA_DEVICE static void multiply_halves(float (&sums)[4], const Bits32 (&x)[kParts][4]) {
    GLA_UNROLL
    for (int p = 0; p < kScoreParts; ++p) {
      GLA_UNROLL
      for (int r = 0; p + r < kScoreParts; ++r) {
        const Words first{x[p][0], 0, x[p][2], 0}, second{0, x[p][1], 0, x[p][3]};
        multiply_accumulate(sums, first, x[r][0], x[r][2]);
        multiply_accumulate(sums, second, x[r][1], x[r][3]);
      }
    }
  }
  /// Those of rows 8 to 15 with rows 0 to 7.
  GLA_DEVICE static void multiply_whole(float (&sums)[4], const Bits32 (&x)[kParts][4]) {
    GLA_UNROLL
    for (int p = 0; p < kScoreParts; ++p) {
      GLA_UNROLL
      for (int r = 0; p + r < kScoreParts; ++r) {
        const Words second{0, x[p][1], 0, x[p][3]};
        multiply_accumulate(sums, second, x[r][0], x[r][2]);
      }
    }
  }

  /// Multiplies rows of a step by exp2 of the sums of blocks [first, end).
  GLA_DEVICE void scale_rows(Bits32 (&rows)[kParts][4], int step, int first, int end) const {
    float factors[4] = {};
    GLA_UNROLL_BY(1)
    for (int other = first; other < end; ++other) {
      GLA_UNROLL
      for (int pair = 0; pair < 2; ++pair) {
        const auto two = *reinterpret_cast<const Vector<float, 2>*>(tiles.row_sums(other) + channel(step, pair));
        factors[2 * pair] += two.item[0];
        factors[2 * pair + 1] += two.item[1];
      }
    }
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

  /// All scores of the warp's rows and steps.
  GLA_DEVICE void make_scores(const float (&levels)[kLevels][4]) const {
    const int lane = lane_index();
    GLA_UNROLL_BY(1)
    for (int other = 0; other < kBlocks; ++other) {
      float sums[2][4] = {};
      GLA_UNROLL_BY(1)
      for (int step = share(); step < kSteps && other <= block(); step += kShares) {
        const bool steep = is_steep(step);
        if (steep && other == block()) continue;
        Bits32 a[kParts][4], b[kParts][4];
        GLA_UNROLL
        for (int part = 0; part < kParts; ++part) {
          load_a(a[part], tiles.template q<kChunk>(0, part), 16 * block(), step * kStep);
          load_b(b[part], tiles.template k<kChunk>(part), step * kStep, 16 * other);
        }
        if (steep && other + 1 < block()) scale_rows(a, step, other + 1, block());
        multiply_parts<kScoreParts>(sums[0], sums[1], a, b);
      }
      if (other == block()) {
        GLA_UNROLL
        for (int i = 0; i < 8; ++i) {
          const int row = lane / 4, column = lane % 4 * 2 + i % 2;  // within 8
          float& sum = sums[i / 4][i % 4];
          if (i / 4 == (i % 4) / 2) {
            const int apart = row ^ column;
            const float within = apart == 0  ? levels[kRow][i % 4]
                                 : apart < 2 ? levels[0][i % 4]
                                 : apart < 4 ? levels[1][i % 4]
                                             : levels[2][i % 4];
            sum = column <= row ? sum + scale * within : 0.0f;
          } else {
            sum = i / 4 == 0 ? sum + scale * levels[kHalf][i % 4] : 0.0f;
          }
        }
      }
      GLA_UNROLL
      for (int part = 0; part < kShape.score_operand_parts(); ++part) {
        Words words;
        GLA_UNROLL
        for (int pair = 0; pair < 4; ++pair) {
          float(&two)[4] = sums[pair / 2];
          float &low = two[pair % 2 * 2], &high = two[pair % 2 * 2 + 1];
          words[pair] = pack_bf16(low, high);
          low -= low_of(words[pair]);
          high -= high_of(words[pair]);
        }
        store_a(words, tiles.template scores<kChunk>(part), 16 * block(), share() * kChunk + 16 * other);
      }
    }
  }

  /// q and k relative to the chunk.
  GLA_DEVICE void finish_rows() const {
    GLA_UNROLL_BY(1)
    for (int step = share(); step < kSteps; step += kShares) {
      if (!is_steep(step)) continue;
      GLA_UNROLL_BY(1)
      for (int which = 0; which < 2; ++which) {
        const auto tile_of = [this, which](int part) {
          return which == 0 ? tiles.template q<kChunk>(0, part) : tiles.template k<kChunk>(part);
        };
        Bits32 rows[kParts][4];
        GLA_UNROLL
        for (int part = 0; part < kParts; ++part)
          load_a(rows[part], tile_of(part), 16 * block(), step * kStep);
        scale_rows(rows, step, which == 0 ? 0 : block() + 1, which == 0 ? block() : kBlocks);
        warp_sync();
        store_parts<kParts>(rows, step, tile_of);
      }
    }
  }

  GLA_DEVICE void store_scaling() const {
    for (int c = thread_index() % (4 * kWarpSize); c < kPaddedK; c += 4 * kWarpSize) {
      const int step = c / kStep;
      const unsigned int mark = marks_of(step);
      const bool apart = (mark & ChunkMarks::kApart) != 0, steep = (mark >> step / Warps & 1u) != 0;
      const float rest = carried == nullptr ? 1.0f : exp2_fast(carried[c]);
      float sum = 0;
      for (int other = 0; steep && other < kBlocks; ++other) sum += tiles.row_sums(other)[c];
      if (steep) tiles.before()[c] = apart ? 1.0f : rest;
      tiles.after()[c] = exp2_fast(sum);
      tiles.ahead()[c] = apart ? rest : 1.0f;
    }
  }
};

}  // namespace gla
