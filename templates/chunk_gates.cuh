// From raw q, k and gates to the operands that make a chunk plain linear attention (DESIGN section 5). With b the
// inclusive sum of the gates in log2 units, m a pivot per channel and b_C the last sum,
//   q^_i = scale q_i exp2(b_i - m)     k^_j = k_j exp2(m - b_j)     before = exp2(m)     after = exp2(b_C - m)
// The pivot is b_C + n with an integer n: it lies mid-range and makes `after` an exact power of two.
// A warp takes 16 channels of all tokens, in the layout of chunk_sums.cuh, so that operands need nothing of other warps.
#pragma once

#include "chunk_layout.h"
#include "chunk_sums.cuh"
#include "chunk_tiles.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"

namespace gla {

/// exp2 of half this range, squared by a product, still leaves room for small gradients (DESIGN section 5).
inline constexpr float kMaxRange = 140.0f;

/// By the warps of `Team` (team.cuh).
template <class Config, class Tiles, class Team>
struct ChunkGates {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr int kPaddedK = kShape.padded_k();
  static constexpr bool kGated = kShape.gate_bytes != 0;
  using Gate = typename Config::Gate;

  Tiles tiles;
  float scale;

  static constexpr int kPartsQ = kShape.operand_parts();
  /// 16 x 16 elements of an operand as bf16 parts, each an A operand (mma.cuh).
  template <int Parts>
  using Words = Bits32[Parts][4];

  /// One pivot per channel of the lane, and what follows from it.
  struct Pivots {
    float pivot[2], last[2];  ///< log2 units; an integer apart, but for rounding
    GLA_DEVICE float after(int c) const { return rintf(last[c] - pivot[c]); }
  };

  /// Channel block `n` of this warp: its first channel, from kPaddedK on if there is none.
  static constexpr int kChannelBlocks = (kPaddedK / 16 + Team::kWarps - 1) / Team::kWarps;
  GLA_DEVICE static int channel_of(int n) { return 16 * (Team::warp() + n * Team::kWarps); }
  /// False if rows with sums of this range may not share a pivot.
  GLA_DEVICE static bool find_pivots(Pivots& pivots, const SumRange& range) {
    bool within = true;
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      const float last = kLog2E * range.last[c];
      const float spread = kLog2E * (range.most[c] - range.least[c]);
      // fminf and fmaxf drop NaN, but NaN and inf anywhere in the sums end up in `last`, and fail.
      within &= spread <= kMaxRange && last - last == 0.0f;
      pivots.pivot[c] = last + rintf(0.5f * kLog2E * (range.most[c] + range.least[c]) - last);
      pivots.last[c] = last;
    }
    return within;
  }

  /// The lane's two channels of a vector over K; all lanes of a quad have the same.
  GLA_DEVICE static void store_channels(float* vector, int channel, const float (&values)[2]) {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) vector[channel + lane_channel(c)] = values[c];
  }

  /// The vectors that the state is scaled with, before and after.
  GLA_DEVICE void store_scaling(const Pivots& pivots, int channel) const {
    const int which = lane_index() % 4;
    float before[2], after[2];
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      before[c] = exp2_fast(pivots.pivot[c]);
      after[c] = exp2_fast(pivots.after(c));
    }
    if (which == 0) store_channels(tiles.before(), channel, before);
    if (which == 1) store_channels(tiles.after(), channel, after);
    if (which == 2) store_channels(tiles.last(), channel, pivots.last);
  }

  /// Words of two tokens each of an octet pair, as bf16 parts.
  template <int Parts>
  GLA_DEVICE static void split(Words<Parts>& words, const float (&x)[2][2][2]) {
    GLA_UNROLL
    for (int word = 0; word < 4; ++word) {
      Bits32 parts[Parts];
      split_bf16(x[word / 2][word % 2][0], x[word / 2][word % 2][1], parts);
      GLA_UNROLL
      for (int part = 0; part < Parts; ++part) words[part][word] = parts[part];
    }
  }

  /// An octet pair of k^ and of q^ from rows row0 on; `relative` is b - m.
  template <int Tokens, int Parts>
  GLA_DEVICE void make_k(Words<Parts>& words, int row0, int channel, int pair,
                         const LaneValues<Tokens>& relative) const {
    float x[2][2][2];
    load_octets<Tokens>(x, tiles.raw_k(), row0, channel, pair);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i)
      if constexpr (kGated)
        x[i / 4][i / 2 % 2][i % 2] *= exp2_fast(-relative[2 * pair + i / 4][i / 2 % 2][i % 2]);
    split<Parts>(words, x);
  }
  template <int Tokens>
  GLA_DEVICE void make_q(Words<kPartsQ>& words, int head, int row0, int channel, int pair,
                         const LaneValues<Tokens>& relative) const {
    float x[2][2][2];
    load_octets<Tokens>(x, tiles.raw_q(head), row0, channel, pair);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i)
      x[i / 4][i / 2 % 2][i % 2] *=
          kGated ? scale * exp2_fast(relative[2 * pair + i / 4][i / 2 % 2][i % 2]) : scale;
    split<kPartsQ>(words, x);
  }

  template <int Tokens, int Parts>
  GLA_DEVICE void store_k(const Words<Parts>& words, int channel, int pair) const {
    GLA_UNROLL
    for (int part = 0; part < Parts; ++part)
      store_octets<Tokens>(words[part], tiles.template k<Tokens>(part), channel, pair);
  }
  template <int Tokens>
  GLA_DEVICE void store_q(const Words<kPartsQ>& words, int head, int channel, int pair) const {
    GLA_UNROLL
    for (int part = 0; part < kPartsQ; ++part)
      store_octets<Tokens>(words[part], tiles.template q<Tokens>(head, part), channel, pair);
  }

  /// `Blocks` times 16 channels of `Tokens` tokens on their way to operands with one pivot, at once so that their latencies
  /// overlap.
  template <int Tokens, int Blocks>
  struct Channels {
    int row0, first;  ///< row; channel block of this warp
    Pivots pivots[Blocks];
    LaneValues<Tokens> sums[Blocks];

    GLA_DEVICE int channel(int b) const { return channel_of(first + b); }

    /// False if these channels may not have one pivot. All lanes agree.
    GLA_DEVICE bool find_pivots(const ChunkGates& gates) {
      if constexpr (!kGated) return true;
      SumRange ranges[Blocks];
      bool rise = false;
      GLA_UNROLL
      for (int b = 0; b < Blocks; ++b)
        rise |= sum_gates<Tokens>(sums[b], ranges[b], gates.tiles.raw_gates(), row0, channel(b));
      if (warp_any(rise)) {
        GLA_UNROLL
        for (int b = 0; b < Blocks; ++b) widen<Tokens>(ranges[b], sums[b]);
      }
      bool within = true;
      GLA_UNROLL
      for (int b = 0; b < Blocks; ++b) within &= ChunkGates::find_pivots(pivots[b], ranges[b]);
      return !warp_any(!within);
    }

    /// `InPlace`: the operands lie where gates, k and q do, of which each octet pair is read before it is written.
    template <bool WithQueries, bool InPlace>
    GLA_DEVICE void make(const ChunkGates& gates) {
      constexpr int kParts = kShape.k_parts(Tokens);
      constexpr int kHeads = WithQueries ? kShape.group_tile : 0;
      if constexpr (kGated) {
        GLA_UNROLL
        for (int i = 0; i < Blocks * Tokens / 2; ++i) {  // sums in nats become b - m in log2 units
          const int b = i / (Tokens / 2), c = i / 2 % 2;
          float& sum = sums[b][i % (Tokens / 2) / 4][c][i % 2];
          sum = sum * kLog2E - pivots[b].pivot[c];
        }
      }
      GLA_UNROLL
      for (int pair = 0; pair < Tokens / 16; ++pair) {
        GLA_UNROLL
        for (int b = 0; b < Blocks; ++b) {
          Words<kParts> k;
          gates.template make_k<Tokens, kParts>(k, row0, channel(b), pair, sums[b]);
          if constexpr (!InPlace) gates.template store_k<Tokens>(k, channel(b), pair);
          GLA_UNROLL
          for (int head = 0; head < kHeads; ++head) {
            Words<kPartsQ> q;
            gates.template make_q<Tokens>(q, head, row0, channel(b), pair, sums[b]);
            if constexpr (InPlace) warp_sync();
            gates.template store_q<Tokens>(q, head, channel(b), pair);
          }
          if constexpr (InPlace && kHeads == 0) warp_sync();
          if constexpr (InPlace) gates.template store_k<Tokens>(k, channel(b), pair);
        }
      }
    }
  };

  /// Operands with one pivot, and the state factors, of rows [row0, row0 + Tokens), none of which lies where something is
  /// read. False in some thread if they may not share a pivot: then what was written is of no use. A barrier must follow.
  template <int Tokens, bool WithQueries>
  GLA_DEVICE bool make_operands(int row0) const {
    for (int n = 0; channel_of(n) < kPaddedK; ++n) {
      Channels<Tokens, 1> channels;
      channels.row0 = row0;
      channels.first = n;
      if (!channels.find_pivots(*this)) return false;  // nobody will read what this warp would make
      if constexpr (kGated) store_scaling(channels.pivots[0], channel_of(n));
      channels.template make<WithQueries, false>(*this);
    }
    return true;
  }

  /// A walk back takes the factors of a chunk in the other order.
  static constexpr bool kBack = kShape.value_gradients;
  /// As exponents of 2, what the state takes before a chunk, and what it may carry to the next one.
  GLA_DEVICE static float entering(const Pivots& pivots, int c) {
    return kBack ? pivots.after(c) : pivots.pivot[c];
  }
  GLA_DEVICE static float leaving(const Pivots& pivots, int c) {
    return kBack ? pivots.pivot[c] : pivots.after(c);
  }

  /// How far below 2^0 and above it one factor of the state may lie that is no zero.
  static constexpr float kMostScaling = 126;

  /// What is carried is divided out again where sub-chunks have used it. Going forward it is within half a chunk's range of
  /// 2^0; going back it is the pivot, which the first gate alone may put anywhere: a chunk that begins with a reset has no one pivot.
  template <int Tokens, int Blocks>
  GLA_DEVICE static bool can_carry(const Channels<Tokens, Blocks>& channels) {
    if constexpr (!kBack) return true;
    bool within = true;
    GLA_UNROLL
    for (int i = 0; i < 2 * Blocks; ++i)
      within &= fabsf(channels.pivots[i / 2].pivot[i % 2]) <= kMaxRange / 2;
    return !warp_any(!within);
  }

  /// The operands of a whole chunk in the place of its q, k and gates; leaves `last` and `carried`, and in `entry` what the
  /// state takes first. Returns how many of the warp's channel blocks have one pivot; those of others stay as they are loaded. Without
  /// queries all have: where there is none mid-range it is the last sum, with which k^ is at most k for gates of at most 0.
  template <bool WithQueries>
  GLA_DEVICE int replace_by_operands(float (&entry)[kChannelBlocks][2], float* carried) const {
    constexpr bool kRoom = kShape.chunk <= 32 || !kShape.moves_registers();
    constexpr int kAtOnce = kRoom && kChannelBlocks % 2 == 0 ? 2 : 1;
    static_assert(kPaddedK / 16 % Team::kWarps == 0);
    int replaced = 0;
    GLA_UNROLL
    for (int n = 0; n < kChannelBlocks; n += kAtOnce) {
      Channels<kShape.chunk, kAtOnce> channels;
      channels.row0 = 0;
      channels.first = n;
      if constexpr (kGated) {
        bool within = channels.find_pivots(*this) && can_carry(channels);
        if constexpr (!WithQueries) {
          static_assert(!kBack);
          GLA_UNROLL
          for (int i = 0; i < 2 * kAtOnce && !within; ++i)
            channels.pivots[i / 2].pivot[i % 2] = channels.pivots[i / 2].last[i % 2];
          within = true;
        }
        GLA_UNROLL
        for (int b = 0; b < kAtOnce; ++b) {
          const Pivots& found = channels.pivots[b];
          float rest[2];
          GLA_UNROLL
          for (int c = 0; c < 2; ++c) {
            entry[n + b][c] = entering(found, c);
            rest[c] = within ? leaving(found, c) : 0.0f;
          }
          if (lane_index() % 4 == 0) store_channels(carried, channels.channel(b), rest);
          if (lane_index() % 4 == 1) store_channels(tiles.last(), channels.channel(b), found.last);
        }
        if (!within) continue;
      }
      channels.template make<WithQueries, true>(*this);
      replaced += kAtOnce;
    }
    return replaced;
  }

  /// Leaves `before`, which takes in what the chunk before left `carried`, if any. False if that is no factor for floats:
  /// without queries the state then takes the two by themselves, the second one from `after`, as exponents.
  template <bool WithQueries>
  GLA_DEVICE bool join_scaling(const float (&entry)[kChannelBlocks][2], const float* carried) const {
    bool within = true;
    GLA_UNROLL
    for (int n = 0; n < kChannelBlocks; ++n) {
      float before[2];
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        const float exponent =
            entry[n][c] + (carried == nullptr ? 0.0f : carried[channel_of(n) + lane_channel(c)]);
        // Under a pivot so low nothing is left of the state, whatever it still was to be scaled with. (Going back the pivot is
        // what is carried, within bounds.)
        within &= fabsf(exponent) <= kMostScaling || entry[n][c] < -kMostScaling;
        before[c] = exp2_fast(exponent);
      }
      if (lane_index() % 4 == 0) store_channels(tiles.before(), channel_of(n), before);
      if (!WithQueries && lane_index() % 4 == 1) store_channels(tiles.after(), channel_of(n), entry[n]);
    }
    return !warp_any(!within);
  }

  /// Operands and state factors of a sub-chunk: with one pivot, and false if this warp's channels may not have one; or
  /// `direct`, without: q~_i = scale q_i exp2(b_i) and k~_j = k_j exp2(b_C - b_j) never exceed q and k for gates of at
  /// most 0. Then `before` is exp2(b_C), which the state takes between its product with q~ and the addition of k~^T v, and
  /// the sums stay for direct scores. A barrier must follow. One loop makes k and q, to be compiled once.
  template <bool WithQueries>
  GLA_DEVICE bool make_sub_operands(int row0, bool direct) const {
    constexpr int kParts = kShape.k_parts(kSubChunk);
    GLA_UNROLL_BY(1)
    for (int n = 0; channel_of(n) < kPaddedK; ++n) {
      const int channel = channel_of(n);
      LaneValues<kSubChunk> of_q, of_k;  // log2 of what q is multiplied with, and k divided by
      if constexpr (kGated) {
        SumRange range;
        const bool rise = sum_gates<kSubChunk>(of_q, range, tiles.raw_gates(), row0, channel);
        if (direct) {
          sum_gates_after(of_k, tiles.raw_gates(), row0, channel);  // from the end, because b may be large
          float before[2], last[2];
          GLA_UNROLL
          for (int c = 0; c < 2; ++c) {
            last[c] = kLog2E * range.last[c];
            before[c] = exp2_fast(last[c]);
          }
          if (lane_index() % 4 == 0) store_channels(tiles.before(), channel, before);
          if (lane_index() % 4 == 1) store_channels(tiles.last(), channel, last);
          GLA_UNROLL
          for (int i = 0; i < 8; ++i) {
            const int o = i / 4, c = i / 2 % 2, e = i % 2;
            const int row = TokenMap<kSubChunk>::token(o, e);
            of_q[o][c][e] *= kLog2E;
            of_k[o][c][e] *= -kLog2E;
            tiles.cumulative()[row * kPaddedK + channel + lane_channel(c)] = of_q[o][c][e];
          }
        } else {
          if (warp_any(rise)) widen<kSubChunk>(range, of_q);
          Pivots pivots;
          if (warp_any(!find_pivots(pivots, range))) return false;
          store_scaling(pivots, channel);
          GLA_UNROLL
          for (int i = 0; i < 8; ++i) {
            const int o = i / 4, c = i / 2 % 2, e = i % 2;
            of_k[o][c][e] = of_q[o][c][e] = of_q[o][c][e] * kLog2E - pivots.pivot[c];
          }
        }
      }
      GLA_UNROLL_BY(1)
      for (int head = -1; head < (WithQueries ? kShape.group_tile : 0); ++head) {  // k, then the heads of q
        const bool is_k = head < 0;
        float x[2][2][2];
        load_octets<kSubChunk>(x, is_k ? tiles.raw_k() : tiles.raw_q(head), row0, channel, 0);
        GLA_UNROLL
        for (int i = 0; i < 8; ++i) {
          const int o = i / 4, c = i / 2 % 2, e = i % 2;
          const float factor = kGated ? exp2_fast(is_k ? -of_k[o][c][e] : of_q[o][c][e]) : 1.0f;
          x[o][c][e] *= is_k ? factor : scale * factor;
        }
        Words<kParts> words;
        split<kParts>(words, x);
        GLA_UNROLL
        for (int part = 0; part < kParts; ++part) {
          if (!is_k && part >= kPartsQ) continue;
          store_octets<kSubChunk>(
              words[part], is_k ? tiles.template k<kSubChunk>(part) : tiles.template q<kSubChunk>(head, part),
              channel, 0);
        }
      }
    }
    return true;
  }

  /// Scores of a direct sub-chunk, element by element: sum_k scale q_ik k_jk exp2(b_i - b_j) for j <= i. A warp takes
  /// rows, several columns at once so that their sums overlap; element (i, j) goes to `store(i, j, value)`.
  template <class Store>
  GLA_DEVICE void direct_scores(int head, int row0, Store store) const {
    constexpr int kPerLane = (kPaddedK + 2 * kWarpSize - 1) / (2 * kWarpSize);
    constexpr int kColumns = 4;
    constexpr int kWarps = Team::kWarps;
    static_assert(kSubChunk % kWarps == 0 || kWarps % kSubChunk == 0);
    const float* cumulative = tiles.cumulative();
    const int lane = lane_index();
    GLA_UNROLL_BY(1)
    for (int n = Team::warp(); n < kSubChunk; n += kWarps) {
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
        q[c] = load_pair(tiles.raw_q(head), row0 + i, channel);
        b[c] = *reinterpret_cast<const Vector<float, 2>*>(cumulative + i * kPaddedK + channel);
      }
      GLA_UNROLL_BY(1)
      for (int j0 = 0; j0 < kSubChunk; j0 += kColumns) {
        float sums[kColumns] = {};
        if (j0 <= i) {
          GLA_UNROLL
          for (int j = 0; j < kColumns; ++j) {
            GLA_UNROLL
            for (int c = 0; c < kPerLane; ++c) {
              const int channel = 2 * (lane + c * kWarpSize);
              if (channel >= kPaddedK) continue;
              const Vector<float, 2> k = load_pair(tiles.raw_k(), row0 + j0 + j, channel);
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
