// From raw q, k and gates to the operands that make a chunk plain linear attention (DESIGN section 5). With b the
// inclusive sum of the gates in log2 units, m a pivot per channel and b_C the last sum,
//   q^_i = scale q_i exp2(b_i - m)     k^_j = k_j exp2(m - b_j)     before = exp2(m)     after = exp2(b_C - m)
// The pivot is b_C + n with an integer n: it lies mid-range and makes `after` an exact power of two.
// Where outputs are multiplied by the scale (ChunkShape::scales_outputs()), q^ is not.
// Where an operand has a second part for the scores' sake, it is what rounding to bf16 leaves, and the scores are the sum of three
// products; or, by producers in chunks whose gates fall little, a rounding to fp16, three bits longer than the first part, and one
// product of those is as good. HalvesCheck tells whether fp16's range has held what there was.
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
/// In more than this range roundings to fp16 are not tried.
inline constexpr float kMaxHalvesRange = 8.0f;

/// What the second part of an operand is: what the first one leaves; a rounding of the operand to fp16; or not there.
enum class Second { rest, half, none };

/// Whether roundings to fp16 are as good as parts in bf16, for what a warp has rounded: 16 channels or more, tokens in the layout of
/// chunk_sums.cuh. Magnitudes have to be below 2^15. A denormal's error of 2^-25 meets a factor of the other operand of up to
/// 2^(kMaxHalvesRange / 2): beside a row of 2^-10 of q or k, without its factor, the two are 2^-11. The rows of k^ may be weighed by
/// anything, with their values: each of them needs such an element. Those of q^, of each query head, are rows of the result, of which
/// a tiny one is not told from those around it: it needs one in any row.
template <int Heads, int Octets>
class HalvesCheck {
 public:
  /// For the lane's channels, whose sums have this range in log2 units: 2^-10 at the greatest factor.
  GLA_DEVICE static Bits32 least(float range) {
    const float magnitude = exp2_fast(0.5f * range - 10.0f);
    return pack<fp16>(magnitude, magnitude);
  }
  GLA_DEVICE explicit HalvesCheck(Bits32 least_of_lane) : least_(least_of_lane) {}

  /// Of an octet pair, the halves of two channels of the lane: those of k^.
  GLA_DEVICE void add_keys(int pair, const Bits32 (&words)[4]) {
    GLA_UNROLL
    for (int o = 0; o < 2; ++o) {
      const Bits32 of_both = greater_magnitude(words[2 * o], words[2 * o + 1]);
      kept_ |= mask_at_least(of_both, least_) & kBothTokens << (2 * pair + o);
      most_ = greater_magnitude(most_, of_both);
    }
  }
  GLA_DEVICE void add_queries(int head, const Bits32 (&words)[4]) {
    GLA_UNROLL
    for (const Bits32 word : words) queries_[head] = greater_magnitude(queries_[head], word);
  }
  /// All lanes agree. Padding, which is zero in all rows, is kept.
  GLA_DEVICE bool holds() const {
    Bits32 rows = kept_;
    GLA_UNROLL
    for (int mask = 4; mask < kWarpSize; mask *= 2) rows |= shuffle_xor(rows, mask);
    const bool every_row = rows == ((1u << Octets) - 1) * kBothTokens;
    Bits32 greatest = most_;
    bool all = !warp_any(!every_row) || !warp_any(most_ != 0);
    GLA_UNROLL
    for (const Bits32 query : queries_) {
      greatest = greater_magnitude(greatest, query);
      all &= warp_any(mask_at_least(query, least_) != 0) || !warp_any(query != 0);
    }
    return !warp_any(greater_of(greatest) >= kTooMuch) && all;
  }

 private:
  static_assert(Octets <= 16);
  static constexpr Bits32 kTooMuch = 0x7800u, kBothTokens = 0x00010001u;
  Bits32 least_, kept_ = 0, most_ = 0, queries_[Heads] = {};  ///< kept: a bit a row, of both tokens of a word

  /// Of a pair of magnitudes, as bits.
  GLA_DEVICE static Bits32 greater_of(Bits32 pair) {
    const Bits32 low = pair & 0xffffu, high = pair >> 16;
    return low > high ? low : high;
  }
};

/// By the warps of `Team` (team.cuh).
template <class Config, class Tiles, class Team>
struct ChunkGates {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr int kPaddedK = kShape.padded_k();
  static constexpr bool kGated = kShape.gate_bytes != 0;
  using Gate = typename Config::Gate;

  Tiles tiles;
  float scale;
  static constexpr bool kScalesQueries = !kShape.scales_outputs();
  /// A walk back takes the factors of a chunk in the other order.
  static constexpr bool kBack = kShape.value_gradients;
  template <int Tokens>
  using Check = HalvesCheck<kShape.group_tile ? kShape.group_tile : 1, Tokens / 8>;

  /// Panels' rows that follow each other lie in different banks, and sums over tokens in order are products.
  static constexpr bool kInOrder = Tiles::kForWarpgroups && kShape.gate_bytes == 2;

  static constexpr int kParts = kShape.operand_parts();
  /// 16 x 16 elements of an operand as bf16 parts, each an A operand (mma.cuh).
  template <int Parts>
  using Words = Bits32[Parts][4];

  /// One pivot per channel of the lane, and what follows from it.
  struct Pivots {
    float pivot[2], last[2];  ///< log2 units; an integer apart, but for rounding
    float origin[2];          ///< what sums are counted from that become b - m: the pivot, or zero
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
      pivots.origin[c] = pivots.pivot[c];
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

  template <int Parts>
  GLA_DEVICE static void join(float (&x)[2][2][2], const Words<Parts>& words) {
    GLA_UNROLL
    for (int word = 0; word < 4; ++word) {
      Bits32 parts[Parts];
      GLA_UNROLL
      for (int part = 0; part < Parts; ++part) parts[part] = words[part][word];
      join_bf16(x[word / 2][word % 2][0], x[word / 2][word % 2][1], parts);
    }
  }

  /// What a lane has of 16 channels of a chunk.
  using OfChunk = LaneValues<kShape.chunk>;

  /// Two octets of 16 channels: of each channel of a lane two tokens each.
  using OctetPair = float[2][2][2];

  /// An octet pair of a chunk, in the order of tokens that lanes have.
  GLA_DEVICE static void load(OctetPair& x, const RawTile<typename Config::Element>& tile, int channel,
                              int pair) {
    if constexpr (kInOrder) {
      load_octets<16>(x, tile, 16 * pair, channel, 0);
    } else {
      load_octets<kShape.chunk>(x, tile, 0, channel, pair);
    }
  }
  GLA_DEVICE static void store(const Bits32 (&words)[4], const OperandTile& tile, int channel, int pair) {
    if constexpr (kInOrder) {
      store_octets<16>(words, tile, 16 * pair, channel, 0);
    } else {
      store_octets<kShape.chunk>(words, tile, 0, channel, pair);
    }
  }

  /// An octet pair of an operand.
  template <Second kSecond>
  GLA_DEVICE static void convert(Words<kParts>& words, const float (&x)[2][2][2]) {
    if constexpr (kSecond == Second::half) {
      static_assert(kParts == 2);
      GLA_UNROLL
      for (int word = 0; word < 4; ++word) {
        const float(&two)[2] = x[word / 2][word % 2];
        words[0][word] = pack_bf16(two[0], two[1]);
        words[1][word] = pack<fp16>(two[0], two[1]);
      }
    } else {
      split<kParts>(words, x);
    }
  }
  /// An octet pair of k^, or of q^, from that of k or q; `relative` is b - m.
  template <Second kSecond = Second::rest>
  GLA_DEVICE void make_k(Words<kParts>& words, OctetPair& x, int pair, const OfChunk& relative) const {
    GLA_UNROLL
    for (int i = 0; i < 8; ++i)
      if constexpr (kGated)
        x[i / 4][i / 2 % 2][i % 2] *= exp2_fast(-relative[2 * pair + i / 4][i / 2 % 2][i % 2]);
    convert<kSecond>(words, x);
  }
  template <Second kSecond = Second::rest>
  GLA_DEVICE void make_q(Words<kParts>& words, OctetPair& x, int pair, const OfChunk& relative) const {
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      if constexpr (kGated) {
        const float factor = exp2_fast(relative[2 * pair + i / 4][i / 2 % 2][i % 2]);
        x[i / 4][i / 2 % 2][i % 2] *= kScalesQueries ? scale * factor : factor;
      } else if constexpr (kScalesQueries) {
        x[i / 4][i / 2 % 2][i % 2] *= scale;
      }
    }
    convert<kSecond>(words, x);
  }

  template <Second kSecond = Second::rest>
  GLA_DEVICE void store_k(const Words<kParts>& words, int channel, int pair) const {
    GLA_UNROLL
    for (int part = 0; part < (kSecond == Second::none ? 1 : kParts); ++part)
      store(words[part], tiles.k(part), channel, pair);
  }
  GLA_DEVICE void store_q(const Words<kParts>& words, int head, int channel, int pair) const {
    GLA_UNROLL
    for (int part = 0; part < kParts; ++part) store(words[part], tiles.q(head, part), channel, pair);
  }

  /// `Blocks` times 16 channels of a chunk on their way to operands with one pivot, at once so that their latencies overlap.
  template <int Blocks>
  struct Channels {
    static constexpr int kTokens = kShape.chunk;
    int first;  ///< channel block of this warp
    Pivots pivots[Blocks];
    TokenSums<kTokens, kInOrder> sums[Blocks];
    bool narrow = true;  ///< of halves(): whether all sums are within kMaxHalvesRange
    Bits32 least = 0;    ///< of the lane's halves: HalvesCheck

    GLA_DEVICE int channel(int b) const { return channel_of(first + b); }

    /// False if these channels may not have one pivot. All lanes agree. Without queries they always may: where there is none
    /// mid-range it is the last sum, with which k^ is at most k for gates of at most 0. Then b - m is summed from the chunk's end,
    /// since great sums differ by what they are rounded to.
    template <bool WithQueries>
    GLA_DEVICE bool find_pivots(const ChunkGates& gates) {
      if constexpr (!kGated) return true;
      SumRange ranges[Blocks];
      bool rise = false;
      GLA_UNROLL
      for (int b = 0; b < Blocks; ++b)
        rise |= sum_gates<kTokens>(sums[b], ranges[b], gates.tiles.raw_gates(), 0, channel(b));
      if (warp_any(rise)) {
        GLA_UNROLL
        for (int b = 0; b < Blocks; ++b)
          widen<kTokens / 4>(ranges[b], [&](int i, int c) { return sums[b].of(i / 2, c, i % 2); });
      }
      bool within = true;
      GLA_UNROLL
      for (int b = 0; b < Blocks; ++b) within &= ChunkGates::find_pivots(pivots[b], ranges[b]);
      within = !warp_any(!within);
      if constexpr (WithQueries && kShape.halves()) {
        float range = 0;
        GLA_UNROLL
        for (int i = 0; i < 2 * Blocks; ++i)
          range = fmaxf(range, kLog2E * (ranges[i / 2].most[i % 2] - ranges[i / 2].least[i % 2]));
        narrow = !warp_any(range > kMaxHalvesRange);
        least = Check<kTokens>::least(range);
      }
      if constexpr (WithQueries) return within;
      if (!within) count_from_end(gates);
      return true;
    }

    GLA_DEVICE void count_from_end(const ChunkGates& gates) {
      GLA_UNROLL
      for (int b = 0; b < Blocks; ++b) {
        if constexpr (kInOrder) {
          sum_behind_in_order<kTokens>(sums[b].own, gates.tiles.raw_gates(), channel(b));
        } else {
          Most<Gate> most;
          load_gates<kTokens>(sums[b].own, most, gates.tiles.raw_gates(), 0, channel(b));
          sums[b].ahead[0] = sums[b].ahead[1] = {};
          GLA_UNROLL
          for (int c = 0; c < 2; ++c) sum_tokens_behind<kTokens>(sums[b].own, c);
        }
        GLA_UNROLL
        for (int c = 0; c < 2; ++c) {
          pivots[b].pivot[c] = pivots[b].last[c];
          pivots[b].origin[c] = 0;
        }
      }
    }

    /// `InPlace`: the operands lie where gates, k and q do, of which each octet pair is read before it is written. False if
    /// their second parts are halves that have not kept every row.
    template <bool WithQueries, bool InPlace, Second kSecond = Second::rest>
    GLA_DEVICE bool make(const ChunkGates& gates) {
      constexpr int kHeads = WithQueries ? kShape.group_tile : 0;
      constexpr bool kHalves = kSecond == Second::half;
      Check<kTokens> check(least);
      if constexpr (kGated) {
        GLA_UNROLL
        for (int i = 0; i < 2 * Blocks; ++i) {  // sums in nats become b - m in log2 units
          const int b = i / 2, c = i % 2;
          auto& ahead = sums[b].ahead[c];
          GLA_UNROLL
          for (float& value : ahead.value) value = value * kLog2E - pivots[b].origin[c];
          GLA_UNROLL
          for (int t = 0; t < kTokens / 4; ++t) {
            float& sum = sums[b].own[t / 2][c][t % 2];
            sum = sum * kLog2E + ahead.of(t / 2);
          }
        }
      }
      // By octet pair k and each q. What comes next is loaded before anything is stored, behind which the compiler would leave it.
      constexpr int kTiles = 1 + kHeads, kSteps = kTokens / 16 * Blocks * kTiles;
      OctetPair x[2];
      Words<kParts> k;
      const auto load_next = [&](int step) {
        const int tile = step % kTiles, which = step / kTiles;
        load(x[step % 2], tile == 0 ? gates.tiles.raw_k() : gates.tiles.raw_q(tile - 1),
             channel(which % Blocks), which / Blocks);
      };
      load_next(0);
      GLA_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        const int tile = step % kTiles, b = step / kTiles % Blocks, pair = step / kTiles / Blocks;
        if (step + 1 < kSteps) load_next(step + 1);
        if (tile == 0) {
          gates.template make_k<kSecond>(k, x[step % 2], pair, sums[b].own);
          if constexpr (kHalves) check.add_keys(pair, k[1]);
        } else {
          Words<kParts> q;
          gates.template make_q<kSecond>(q, x[step % 2], pair, sums[b].own);
          if constexpr (kHalves) check.add_queries(tile - 1, q[1]);
          if constexpr (InPlace) warp_sync();
          gates.store_q(q, tile - 1, channel(b), pair);
        }
        if (tile == kHeads) {
          if constexpr (InPlace && kHeads == 0) warp_sync();
          gates.template store_k<kSecond>(k, channel(b), pair);
        }
      }
      if constexpr (kHalves) return check.holds();
      return true;
    }
  };

  /// Operands with one pivot, and the state factors, none of which lies where something is read. False in some thread if the
  /// chunk may not have one: then what was written is of no use. A barrier must follow.
  template <bool WithQueries>
  GLA_DEVICE bool make_operands() const {
    for (int n = 0; channel_of(n) < kPaddedK; ++n) {
      Channels<1> channels;
      channels.first = n;
      // Nobody will read what this warp would make.
      if (!channels.template find_pivots<WithQueries>(*this)) return false;
      if constexpr (kGated) store_scaling(channels.pivots[0], channel_of(n));
      channels.template make<WithQueries, false>(*this);
    }
    return true;
  }

  /// As exponents of 2, what the state takes before a chunk, and what it may carry to the next one.
  GLA_DEVICE static float entering(const Pivots& pivots, int c) {
    return kBack ? pivots.after(c) : pivots.pivot[c];
  }
  GLA_DEVICE static float leaving(const Pivots& pivots, int c) {
    return kBack ? pivots.pivot[c] : pivots.after(c);
  }

  /// How far below 2^0 and above it one factor of the state may lie that is no zero.
  static constexpr float kMostScaling = 126;

  /// What is carried is divided out again where a steep chunk has used it. Going forward it is within half a chunk's range of
  /// 2^0; going back it is the pivot, which the first gate alone may put anywhere: a chunk that begins with a reset has no one pivot.
  template <int Blocks>
  GLA_DEVICE static bool can_carry(const Channels<Blocks>& channels) {
    if constexpr (!kBack) return true;
    bool within = true;
    GLA_UNROLL
    for (int i = 0; i < 2 * Blocks; ++i)
      within &= fabsf(channels.pivots[i / 2].pivot[i % 2]) <= kMaxRange / 2;
    return !warp_any(!within);
  }

  /// What has become of a warp's channel blocks.
  struct Replaced {
    int blocks = 0;    ///< that have one pivot; the others stay as they are loaded
    int parts = 0;     ///< of them, those whose second parts are what the first ones leave
    bool kept = true;  ///< of the others, if halves were wanted, whether they have kept every row
  };

  /// The operands of a whole chunk in the place of its q, k and gates; leaves `last` and `carried`, and in `entry` what the
  /// state takes first. `second`: as it is wanted, halves in narrow ranges. Calls wait() before it reads anything but gates, and before
  /// it writes.
  template <bool WithQueries, class Wait>
  GLA_DEVICE Replaced replace_by_operands(float (&entry)[kChannelBlocks][2], float* carried, Second second,
                                          Wait wait) const {
    static_assert(WithQueries || !kBack);
    constexpr bool kRoom = kShape.chunk <= 32 || !kShape.moves_registers();
    constexpr int kAtOnce = kRoom && kChannelBlocks % 2 == 0 ? 2 : 1;
    static_assert(kPaddedK / 16 % Team::kWarps == 0);
    Replaced replaced;
    GLA_UNROLL
    for (int n = 0; n < kChannelBlocks; n += kAtOnce) {
      Channels<kAtOnce> channels;
      channels.first = n;
      if constexpr (kGated) {
        const bool within = channels.template find_pivots<WithQueries>(*this) && can_carry(channels);
        if (n == 0) wait();
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
      } else if (n == 0) {
        wait();
      }
      replaced.blocks += kAtOnce;
      if constexpr (WithQueries && kShape.halves()) {
        if (second == Second::half && channels.narrow) {
          replaced.kept &= channels.template make<WithQueries, true, Second::half>(*this);
          continue;
        }
      }
      replaced.parts += kAtOnce;
      if constexpr (!WithQueries && kParts > 1) {
        if (second == Second::none) {
          channels.template make<WithQueries, true, Second::none>(*this);
          continue;
        }
      }
      channels.template make<WithQueries, true>(*this);
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
};

}  // namespace gla
