// From raw q, k and gates to the operands that make a chunk plain linear attention (DESIGN section 5). With b the
// inclusive sum of the gates in log2 units, m a pivot per channel and b_C the last sum,
//   q^_i = scale q_i exp2(b_i - m)     k^_j = k_j exp2(m - b_j)     before = exp2(m)     after = exp2(b_C - m)
// The pivot is b_C + n with an integer n: it lies mid-range and makes `after` an exact power of two.
// A warp takes 16 channels of all tokens, in the layout of MMA accumulators (chunk_sums.cuh), so that nothing but the
// decision about the path crosses warps.
#pragma once

#include "chunk_layout.h"
#include "chunk_sums.cuh"
#include "chunk_tiles.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"

namespace gla {

/// exp2 of half this range, squared by a product, still leaves room for small gradients (DESIGN section 5).
inline constexpr float kMaxRange = 140.0f;

template <class Config>
struct ChunkGates {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr ChunkLayout kLayout{kShape};
  static constexpr int kPaddedK = kShape.padded_k();
  static constexpr int kWarps = kShape.operand_warps();  ///< that make operands
  static constexpr bool kGated = kShape.gate_bytes != 0;
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;

  using Tiles = ChunkTiles<kShape, Element, Gate>;

  Tiles tiles;
  float scale;
  int slot;  ///< of the raw tiles of the chunk in work

  GLA_DEVICE float* vector(int offset) const { return tiles.vector(offset); }
  GLA_DEVICE float* scaling(int offset) const { return tiles.scaling(offset); }

  static constexpr int kPartsQ = kShape.operand_parts();
  /// 16 x 16 elements of an operand as bf16 parts, each an A operand (mma.cuh).
  template <int Parts>
  using Words = Bits32[Parts][4];

  /// One pivot per channel of the lane, and what follows from it.
  struct Pivots {
    float pivot[2][2], last[2][2];  ///< log2 units; an integer apart, but for rounding
  };

  /// Channel block `n` of this warp: its first channel, from kPaddedK on if there is none.
  static constexpr int kChannelBlocks = (kPaddedK / 16 + kWarps - 1) / kWarps;
  GLA_DEVICE static int channel_of(int n) {
    return 16 * (warp_index() - (kShape.producers ? kShape.warps() : 0) + n * kWarps);
  }

  /// False if rows with sums of this range may not share a pivot.
  GLA_DEVICE static bool find_pivots(Pivots& pivots, const SumRange& range) {
    bool within = true;
    each_channel([&](int j, int c) {
      const float last = kLog2E * range.last[j][c];
      const float spread = kLog2E * (range.most[j][c] - range.least[j][c]);
      // fminf and fmaxf drop NaN, but NaN and inf anywhere in the sums end up in `last`, and fail.
      within &= spread <= kMaxRange && last - last == 0.0f;
      pivots.pivot[j][c] = last + rintf(0.5f * kLog2E * (range.most[j][c] + range.least[j][c]) - last);
      pivots.last[j][c] = last;
    });
    return within;
  }

  /// The vectors that the state is scaled with.
  GLA_DEVICE void store_pivots(const Pivots& pivots, int channel) const {
    if (lane_index() >= 4) return;
    each_channel([&](int j, int c) {
      const int at = channel + 8 * j + lane_index() * 2 + c;
      scaling(kLayout.before)[at] = exp2_fast(pivots.pivot[j][c]);
      scaling(kLayout.after)[at] = exp2_fast(rintf(pivots.last[j][c] - pivots.pivot[j][c]));
      scaling(kLayout.last)[at] = pivots.last[j][c];
    });
  }

  template <int Parts>
  GLA_DEVICE static void split(Words<Parts>& words, const float (&x)[2][4]) {
    GLA_UNROLL
    for (int pair = 0; pair < 4; ++pair) {
      Bits32 parts[Parts];
      split_bf16(x[pair / 2][pair % 2 * 2], x[pair / 2][pair % 2 * 2 + 1], parts);
      GLA_UNROLL
      for (int part = 0; part < Parts; ++part) words[part][pair] = parts[part];
    }
  }

  /// 16 rows of k^ from raw row `row` on, and of q^; `relative` is b - m.
  template <int Parts>
  GLA_DEVICE void make_k(Words<Parts>& words, int row, int channel, const float (&relative)[2][4]) const {
    float x[2][4];
    load_block(x, tiles.raw_k(slot), row, channel);
    GLA_UNROLL
    for (int e = 0; e < 8; ++e)
      if constexpr (kGated) x[e / 4][e % 4] *= exp2_fast(-relative[e / 4][e % 4]);
    split<Parts>(words, x);
  }
  GLA_DEVICE void make_q(Words<kPartsQ>& words, int head, int row, int channel,
                         const float (&relative)[2][4]) const {
    float x[2][4];
    load_block(x, tiles.raw_q(slot, head), row, channel);
    GLA_UNROLL
    for (int e = 0; e < 8; ++e) x[e / 4][e % 4] *= kGated ? scale * exp2_fast(relative[e / 4][e % 4]) : scale;
    split<kPartsQ>(words, x);
  }

  /// Parts from `First` on.
  template <int Tokens, int First, int Parts>
  GLA_DEVICE void store_k(const Words<Parts>& words, int row, int channel) const {
    GLA_UNROLL
    for (int part = First; part < Parts; ++part)
      store_a(words[part], tiles.template k<Tokens>(part), row, channel);
  }
  template <int Tokens, int First>
  GLA_DEVICE void store_q(const Words<kPartsQ>& words, int head, int row, int channel) const {
    GLA_UNROLL
    for (int part = First; part < kPartsQ; ++part)
      store_a(words[part], tiles.template q<Tokens>(head, part), row, channel);
  }

  /// Sums in nats become b - m in log2 units.
  GLA_DEVICE static void subtract(float (&sums)[2][4], const float (&pivot)[2][2]) {
    GLA_UNROLL
    for (int e = 0; e < 8; ++e) sums[e / 4][e % 4] = sums[e / 4][e % 4] * kLog2E - pivot[e / 4][e % 2];
  }

  /// Operands with one pivot, and the state factors, of rows [row0, row0 + Tokens). False in some thread if they may not
  /// share a pivot: then what was written is of no use. A barrier must follow.
  template <int Tokens, bool WithQueries>
  GLA_DEVICE bool make_operands(int row0) const {
    constexpr int kParts = kShape.k_parts(Tokens);
    bool within = true;
    for (int n = 0, channel = channel_of(0); channel < kPaddedK; channel = channel_of(++n)) {
      float sums[Tokens / 16][2][4];
      Pivots pivots;
      if constexpr (kGated) {
        SumRange range;
        sum_gates(sums, range, tiles.raw_gates(slot), row0, channel);
        within &= find_pivots(pivots, range);
        if (warp_any(!within)) return false;  // nobody will read what this warp would make
        store_pivots(pivots, channel);
      }
      GLA_UNROLL
      for (int i = 0; i < Tokens / 16; ++i) {
        if constexpr (kGated) subtract(sums[i], pivots.pivot);
        Words<kParts> k;
        make_k<kParts>(k, row0 + 16 * i, channel, sums[i]);
        store_k<Tokens, 0, kParts>(k, 16 * i, channel);
        if constexpr (WithQueries) {
          GLA_UNROLL
          for (int head = 0; head < kShape.group_tile; ++head) {
            Words<kPartsQ> q;
            make_q(q, head, row0 + 16 * i, channel, sums[i]);
            store_q<Tokens, 0>(q, head, 16 * i, channel);
          }
        }
      }
    }
    return within;
  }

  /// The operands of a chunk on their way, in three steps: the pivots, for which no tile need be free; the operands, whose
  /// lesser parts go where those of the chunk before were read by its scores alone; and the first parts, kept until then.
  template <bool WithQueries>
  struct Ahead {
    static constexpr int kChunk = kShape.chunk;
    static constexpr int kParts = kShape.k_parts(kChunk);
    float pivot[kChannelBlocks][2][2];
    Bits32 k[kChannelBlocks][kChunk / 16][4], q[kChannelBlocks][kChunk / 16][4];

    GLA_DEVICE bool find_pivots(const ChunkGates& gates) {
      bool within = true;
      each([&](int n, int channel) {
        SumRange range;
        find_range<kChunk / 16>(range, gates.tiles.raw_gates(gates.slot), 0, channel);
        Pivots pivots;
        within &= ChunkGates::find_pivots(pivots, range);
        gates.store_pivots(pivots, channel);
        each_channel([&](int j, int c) { pivot[n][j][c] = pivots.pivot[j][c]; });
      });
      return within;
    }
    GLA_DEVICE void make(const ChunkGates& gates) {
      each([&](int n, int channel) {
        GateSums<Gate> running;
        GLA_UNROLL
        for (int i = 0; i < kChunk / 16; ++i) {
          float relative[2][4];
          if constexpr (kGated) {
            running.next(relative, gates.tiles.raw_gates(gates.slot), 16 * i, channel);
            subtract(relative, pivot[n]);
          }
          Words<kParts> words;
          gates.template make_k<kParts>(words, 16 * i, channel, relative);
          keep_first(k[n][i], words);
          gates.template store_k<kChunk, 1, kParts>(words, 16 * i, channel);
          if constexpr (WithQueries) {
            gates.make_q(words, 0, 16 * i, channel, relative);
            keep_first(q[n][i], words);
            gates.template store_q<kChunk, 1>(words, 0, 16 * i, channel);
          }
        }
      });
    }
    GLA_DEVICE void store(const ChunkGates& gates) const {
      each([&](int n, int channel) {
        GLA_UNROLL
        for (int i = 0; i < kChunk / 16; ++i) {
          store_a(k[n][i], gates.tiles.template k<kChunk>(0), 16 * i, channel);
          if constexpr (WithQueries) store_a(q[n][i], gates.tiles.template q<kChunk>(0, 0), 16 * i, channel);
        }
      });
    }

   private:
    GLA_DEVICE static void keep_first(Bits32 (&first)[4], const Words<kParts>& words) {
      GLA_UNROLL
      for (int pair = 0; pair < 4; ++pair) first[pair] = words[0][pair];
    }
    template <class Visit>
    GLA_DEVICE static void each(Visit visit) {
      GLA_UNROLL
      for (int n = 0; n < kChannelBlocks; ++n)
        if (kPaddedK / 16 % kWarps == 0 || channel_of(n) < kPaddedK) visit(n, channel_of(n));
    }
  };

  /// Operands without a pivot, for a sub-chunk that fails the guard: q~_i = scale q_i exp2(b_i) and
  /// k~_j = k_j exp2(b_C - b_j) never exceed q and k for gates of at most 0. `before` becomes exp2(b_C), which the
  /// state takes between its product with q~ and the addition of k~^T v. The sums stay for direct scores.
  template <bool WithQueries>
  GLA_DEVICE void make_direct_operands(int row0) const {
    constexpr int kParts = kShape.k_parts(kSubChunk);
    for (int n = 0, channel = channel_of(0); channel < kPaddedK; channel = channel_of(++n)) {
      float sums[1][2][4], rests[2][4];  // b_i; b_C - b_j, summed from the end because b may be large
      SumRange range;
      sum_gates(sums, range, tiles.raw_gates(slot), row0, channel);
      sum_gates_after(rests, tiles.raw_gates(slot), row0, channel);
      GLA_UNROLL
      for (int j = 0; j < 2; ++j) {
        GLA_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int row = lane_index() / 4 + e / 2 * 8;
          const int at = channel + 8 * j + lane_index() % 4 * 2 + e % 2;
          sums[0][j][e] *= kLog2E;
          rests[j][e] *= -kLog2E;
          vector(kLayout.cumulative)[row * kPaddedK + at] = sums[0][j][e];
          if (row == 0) {
            scaling(kLayout.before)[at] = exp2_fast(kLog2E * range.last[j][e % 2]);
            scaling(kLayout.last)[at] = kLog2E * range.last[j][e % 2];
          }
        }
      }
      Words<kParts> k;
      make_k<kParts>(k, row0, channel, rests);
      store_k<kSubChunk, 0, kParts>(k, 0, channel);
      if constexpr (WithQueries) {
        GLA_UNROLL
        for (int head = 0; head < kShape.group_tile; ++head) {
          Words<kPartsQ> q;
          make_q(q, head, row0, channel, sums[0]);
          store_q<kSubChunk, 0>(q, head, 0, channel);
        }
      }
    }
  }

  /// Scores of a direct sub-chunk, element by element: sum_k scale q_ik k_jk exp2(b_i - b_j) for j <= i. A warp takes
  /// rows, several columns at once so that their sums overlap; element (i, j) goes to `store(i, j, value)`.
  template <class Store>
  GLA_DEVICE void direct_scores(int head, int row0, Store store) const {
    constexpr int kPerLane = (kPaddedK + 2 * kWarpSize - 1) / (2 * kWarpSize);
    constexpr int kColumns = 4;
    constexpr int kWarps = kShape.warps();
    static_assert(kSubChunk % kWarps == 0 || kWarps % kSubChunk == 0);
    const float* cumulative = vector(kLayout.cumulative);
    const int lane = lane_index();
    for (int n = warp_index(); n < kSubChunk; n += kWarps) {
      // Long rows and short ones alternate, so that every warp has the same number of elements.
      const int pass = n / kWarps;
      const int i = pass % 2 == 0 ? n : (pass + 1) * kWarps - 1 - n % kWarps;
      Vector<float, 2> q[kPerLane], b[kPerLane];
      GLA_UNROLL
      for (int c = 0; c < kPerLane; ++c) {
        const int channel = 2 * (lane + c * kWarpSize);
        q[c] = {};
        b[c] = {};
        if (channel >= kPaddedK) continue;
        q[c] = load_pair(tiles.raw_q(slot, head), row0 + i, channel);
        b[c] = *reinterpret_cast<const Vector<float, 2>*>(cumulative + i * kPaddedK + channel);
      }
      for (int j0 = 0; j0 < kSubChunk; j0 += kColumns) {
        float sums[kColumns] = {};
        if (j0 <= i) {
          GLA_UNROLL
          for (int j = 0; j < kColumns; ++j) {
            GLA_UNROLL
            for (int c = 0; c < kPerLane; ++c) {
              const int channel = 2 * (lane + c * kWarpSize);
              if (channel >= kPaddedK) continue;
              const Vector<float, 2> k = load_pair(tiles.raw_k(slot), row0 + j0 + j, channel);
              const auto bj =
                  *reinterpret_cast<const Vector<float, 2>*>(cumulative + (j0 + j) * kPaddedK + channel);
              GLA_UNROLL
              for (int half = 0; half < 2; ++half)
                sums[j] += q[c].item[half] * k.item[half] * exp2_fast(b[c].item[half] - bj.item[half]);
            }
          }
          GLA_UNROLL
          for (int j = 0; j < kColumns; ++j) sums[j] = scale * sum_lanes<kWarpSize>(sums[j]);
        }
        // Columns above the diagonal hold overflow, not zero.
        GLA_UNROLL
        for (int j = 0; j < kColumns; ++j)
          if (lane == j) store(i, j0 + j, j0 + j <= i ? sums[j] : 0.0f);
      }
    }
  }
};

}  // namespace gla
