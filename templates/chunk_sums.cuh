// Sums of gates over the tokens of a chunk, by one warp for 16 channels. The warp reads tiles transposed, eight tokens and
// eight channels a matrix (mma.cuh, A operands): of octet o a lane has x[o][c][e], two tokens of each of two channels,
// lane / 4 and lane / 4 + 8. Which token is which row of which matrix is free, and TokenMap's choice.
#pragma once

#include "device/mma.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "device/tile.cuh"

namespace gla {

/// A gate below this many nats is an exact reset: one step of 127 log2 units.
inline constexpr float kMinGate = -88.0f;

/// The second index of what a lane has, as a channel of the 16.
GLA_DEVICE int lane_channel(int c) {
  return 8 * c + lane_index() / 4;
}

/// Of many tokens, a lane of a quad has a quarter, which it sums by itself: octet after octet, but each lane begins two
/// tokens after the one before it, so that the rows of a matrix lie in different banks. Of 16 it has two of each eight.
template <int Tokens>
struct TokenMap {
  static constexpr int kOctets = Tokens / 8;
  static constexpr bool kQuarters = Tokens > 16;

  /// Of lane `quad` of the quad.
  GLA_DEVICE static int token(int octet, int quad, int e) {
    if (!kQuarters) return 8 * octet + 2 * quad + e;
    return Tokens / 4 * quad + (2 * octet + 2 * quad) % (Tokens / 4) + e;
  }
  GLA_DEVICE static int token(int octet, int e) { return token(octet, lane_index() % 4, e); }
  /// The row whose address the lane gives for octets 2 * pair and 2 * pair + 1.
  GLA_DEVICE static int row(int pair) {
    const int lane = lane_index();
    return token(2 * pair + lane / 16, lane % 8 / 2, lane % 2);
  }
};

/// What a lane has of `Tokens` tokens and 16 channels.
template <int Tokens>
using LaneValues = float[Tokens / 8][2][2];

/// Octets 2 * pair and 2 * pair + 1 of the rows from row0 on.
template <int Tokens, class T>
GLA_DEVICE void load_octets(float (&x)[2][2][2], const RawTile<T>& tile, int row0, int channel, int pair) {
  if constexpr (sizeof(T) == 2) {
    Bits32 words[4];
    load_rows_transposed(words, tile.operand(), row0 + TokenMap<Tokens>::row(pair), channel);
    GLA_UNROLL
    for (int word = 0; word < 4; ++word) {
      const Vector<float, 2> values = unpack<T>(words[word]);
      x[word / 2][word % 2][0] = values.item[0];
      x[word / 2][word % 2][1] = values.item[1];
    }
  } else {
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int row = row0 + TokenMap<Tokens>::token(2 * pair + i / 4, i % 2);
      x[i / 4][i / 2 % 2][i % 2] =
          to_float(*reinterpret_cast<const T*>(tile.at(row, channel + lane_channel(i / 2 % 2))));
    }
  }
}

/// The way back, of 16-bit words of two tokens each.
template <int Tokens>
GLA_DEVICE void store_octets(const Bits32 (&words)[4], const OperandTile& tile, int row0, int channel,
                             int pair) {
  if constexpr (kStoresMatrices) {
    store_rows_transposed(words, tile, row0 + TokenMap<Tokens>::row(pair), channel);
  } else {
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int word = i / 2;
      unsigned char* target = tile.at(row0 + TokenMap<Tokens>::token(2 * pair + word / 2, i % 2),
                                      channel + lane_channel(word % 2));
      *reinterpret_cast<Bits16*>(target) = static_cast<Bits16>(words[word] >> 16 * (i % 2));
    }
  }
}

/// Clamped gates of an octet pair, NaN where they are; `most` becomes at least the greatest of them.
template <int Tokens, class Gate>
GLA_DEVICE void load_gates(float (&gates)[2][2][2], float& most, const RawTile<Gate>& tile, int row0,
                           int channel, int pair) {
  load_octets<Tokens>(gates, tile, row0, channel, pair);
  GLA_UNROLL
  for (int i = 0; i < 8; ++i) {
    float& gate = gates[i / 4][i / 2 % 2][i % 2];
    gate = gate < kMinGate ? kMinGate : gate;
    most = fmaxf(most, gate);
  }
}
/// bf16: two at a time, as words.
template <int Tokens>
GLA_DEVICE void load_gates(Bits32 (&words)[4], Bits32& most, const RawTile<bf16>& tile, int row0, int channel,
                           int pair) {
  load_rows_transposed(words, tile.operand(), row0 + TokenMap<Tokens>::row(pair), channel);
  GLA_UNROLL
  for (int word = 0; word < 4; ++word) {
    words[word] = max_bf16(words[word], pack_bf16(kMinGate, kMinGate));
    most = max_bf16(most, words[word]);
  }
}
template <int Tokens>
GLA_DEVICE void load_gates(float (&gates)[2][2][2], Bits32& most, const RawTile<bf16>& tile, int row0,
                           int channel, int pair) {
  Bits32 words[4];
  load_gates<Tokens>(words, most, tile, row0, channel, pair);
  GLA_UNROLL
  for (int word = 0; word < 4; ++word) {
    gates[word / 2][word % 2][0] = low_of(words[word]);
    gates[word / 2][word % 2][1] = high_of(words[word]);
  }
}

/// What load_gates keeps the greatest gates in.
template <class Gate>
struct Most {
  static constexpr bool kOfWords = false;
  float value = 0;
  GLA_DEVICE bool rises() const { return value > 0.0f; }
};
template <>
struct Most<bf16> {
  static constexpr bool kOfWords = true;
  Bits32 value = 0;
  GLA_DEVICE bool rises() const { return low_of(value) > 0.0f || high_of(value) > 0.0f; }
};

template <int Tokens, class Gate>
GLA_DEVICE void load_gates(LaneValues<Tokens>& gates, Most<Gate>& most, const RawTile<Gate>& tile, int row0,
                           int channel) {
  GLA_UNROLL
  for (int pair = 0; pair < Tokens / 16; ++pair) {
    float two[2][2][2];
    load_gates<Tokens>(two, most.value, tile, row0, channel, pair);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) gates[2 * pair + i / 4][i / 2 % 2][i % 2] = two[i / 4][i / 2 % 2][i % 2];
  }
}

/// Sum over the quad.
GLA_DEVICE float sum_quad(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}

/// The sum of the quad's lanes before this one, or, `Behind`, behind it; returns the sum of all.
template <bool Behind>
GLA_DEVICE float scan_quad(float& others, float value) {
  others = 0;
  GLA_UNROLL
  for (int mask = 1; mask < 4; mask *= 2) {
    const float other = shuffle_xor(value, mask);
    const bool other_is_behind = (lane_index() & mask) == 0;
    if (other_is_behind == Behind) others += other;
    value += other;
  }
  return value;
}

/// What sums over a lane's own tokens, of one channel, lack for sums over all tokens: for all octets but the last three the same.
template <int Tokens>
struct SumsAhead {
  static constexpr int kOctets = Tokens / 8;
  static constexpr int kKinds = TokenMap<Tokens>::kQuarters ? 4 : 1;
  float value[kKinds] = {};

  GLA_DEVICE static constexpr int kind(int octet) {
    return kKinds == 1 || octet < kOctets - 3 ? 0 : octet - (kOctets - 4);
  }
  GLA_DEVICE float of(int octet) const { return value[kind(octet)]; }
};

/// Values of channel c become their inclusive sums over the lane's own tokens, which lack what is returned in `ahead`. Returns the
/// sum of all.
template <int Tokens>
GLA_DEVICE float sum_own_tokens(LaneValues<Tokens>& x, SumsAhead<Tokens>& ahead, int c) {
  constexpr int kOctets = Tokens / 8;
  if constexpr (TokenMap<Tokens>::kQuarters) {
    // In the order of octets first. Those from kOctets - quad on are the lane's first tokens.
    const int quad = lane_index() % 4;
    float sum = 0, end = 0;  // of all so far; behind the octet of the lane's last token
    GLA_UNROLL
    for (int o = 0; o < kOctets; ++o) {
      x[o][c][0] += sum;
      x[o][c][1] += x[o][c][0];
      sum = x[o][c][1];
      if (o == kOctets - 1 - quad) end = sum;
    }
    float before;
    const float all = scan_quad<false>(before, sum);
    const float to_first = before - end, to_others = to_first + sum;
    GLA_UNROLL
    for (int o = kOctets - 4; o < kOctets; ++o)
      ahead.value[ahead.kind(o)] = o >= kOctets - 3 && o >= kOctets - quad ? to_first : to_others;
    return all;
  } else {
    float total = 0;
    GLA_UNROLL
    for (int o = 0; o < kOctets; ++o) {
      float before;
      const float all = scan_quad<false>(before, x[o][c][0] + x[o][c][1]);
      x[o][c][0] += total + before;
      x[o][c][1] += x[o][c][0];
      total += all;
    }
    return total;
  }
}

/// Values of channel c become the negated sums of those behind each, exact however great the sums of all are.
template <int Tokens>
GLA_DEVICE void sum_tokens_behind(LaneValues<Tokens>& x, int c) {
  constexpr int kOctets = Tokens / 8;
  const auto take = [](float(&two)[2], float behind) {  // returns what is behind the two tokens before these
    const float first = two[0];
    two[0] = behind - two[1];
    two[1] = behind;
    return two[0] - first;
  };
  if constexpr (TokenMap<Tokens>::kQuarters) {
    const int quad = lane_index() % 4;
    float sum = 0, of_first = 0;  // the lane's first tokens are the last octets (sum_own_tokens)
    GLA_UNROLL
    for (int o = kOctets - 1; o >= 0; --o) {
      if (o == kOctets - 1 - quad) {
        of_first = sum;
        sum = 0;
      }
      sum = take(x[o][c], sum);
    }
    float behind;
    scan_quad<true>(behind, sum + of_first);
    GLA_UNROLL
    for (int i = 0; i < 2 * kOctets; ++i)
      x[i / 2][c][i % 2] += i / 2 >= kOctets - quad ? sum + behind : behind;
  } else {
    float total = 0;
    GLA_UNROLL
    for (int o = kOctets - 1; o >= 0; --o) {
      float behind;
      const float all = scan_quad<true>(behind, -x[o][c][0] - x[o][c][1]);
      take(x[o][c], total + behind);
      total += all;
    }
  }
}

/// Inclusive sums of what a lane has of two channels, in nats. `InOrder`: of TokenMap<16>'s tokens, sixteen after sixteen, and whole.
template <int Tokens, bool InOrder>
struct TokenSums {
  LaneValues<Tokens> own;
  SumsAhead<InOrder ? 16 : Tokens> ahead[2];

  GLA_DEVICE float of(int octet, int c, int e) const { return own[octet][c][e] + ahead[c].of(octet); }
};

/// Of the inclusive sums of a lane's two channels, in nats: the last one, and their extremes.
struct SumRange {
  float last[2], least[2], most[2];
};

/// Inclusive sums of the gates of rows [row0, row0 + Tokens), and their range if they fall from the first to the last.
/// Returns whether they may do otherwise: then see widen(). Where a gate is NaN the last sum is, and others are.
template <int Tokens, class Gate>
GLA_DEVICE bool sum_gates(TokenSums<Tokens, false>& sums, SumRange& range, const RawTile<Gate>& tile,
                          int row0, int channel) {
  Most<Gate> most;
  load_gates<Tokens>(sums.own, most, tile, row0, channel);
  GLA_UNROLL
  for (int c = 0; c < 2; ++c) {
    range.most[c] = sum_quad(lane_index() % 4 == 0 ? sums.own[0][c][0] : 0.0f);  // the first gate
    range.last[c] = range.least[c] = sum_own_tokens<Tokens>(sums.own, sums.ahead[c], c);
  }
  return most.rises();
}

/// The same of the first `Tokens` rows, in order.
template <int Tokens, class Gate>
requires(!Most<Gate>::kOfWords) GLA_DEVICE
    bool sum_in_order(LaneValues<Tokens>& sums, SumRange& range, const RawTile<Gate>& gates, int channel) {
  Most<Gate> most;
  float total[2] = {};
  GLA_UNROLL
  for (int pair = 0; pair < Tokens / 16; ++pair) {
    LaneValues<16> part;
    load_gates<16>(part, most.value, gates, 16 * pair, channel, 0);
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      if (pair == 0) range.most[c] = sum_quad(lane_index() % 4 == 0 ? part[0][c][0] : 0.0f);
      SumsAhead<16> none;
      const float all = sum_own_tokens<16>(part, none, c);
      GLA_UNROLL
      for (int i = 0; i < 4; ++i) sums[2 * pair + i / 2][c][i % 2] = total[c] + part[i / 2][c][i % 2];
      total[c] += all;
      range.last[c] = range.least[c] = total[c];
    }
  }
  return most.rises();
}

/// Of ones, an operand that sums up a lane's column: rows up to it, or, `Behind`, those behind it, of each 8 x 8 block.
template <bool Behind>
GLA_DEVICE Bits32 ones_of_column(float one) {
  const int column = lane_index() / 4, row = lane_index() % 4 * 2;
  return pack_bf16((row > column) == Behind ? one : 0.0f, (row + 1 > column) == Behind ? one : 0.0f);
}

/// bf16: by products with ones, which are exact. Where a gate is NaN the sums of its 16 tokens are, and all later ones.
template <int Tokens>
GLA_DEVICE bool sum_in_order(LaneValues<Tokens>& sums, SumRange& range, const RawTile<bf16>& gates,
                             int channel) {
  const Bits32 ones = pack_bf16(1.0f, 1.0f), up_to_column = ones_of_column<false>(1.0f);
  Most<bf16> most;
  float total[4] = {};
  GLA_UNROLL
  for (int pair = 0; pair < Tokens / 16; ++pair) {
    Bits32 words[4];
    load_gates<16>(words, most.value, gates, 16 * pair, channel, 0);
    float octets[2][4];
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) octets[i / 4][i % 4] = total[i % 4];
    multiply_accumulate(octets[0], words, up_to_column, 0);
    multiply_accumulate(octets[1], words, ones, up_to_column);
    multiply_accumulate(total, words, ones, ones);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) sums[2 * pair + i / 4][i / 2 % 2][i % 2] = octets[i / 4][i % 4];
    if (pair == 0) {
      float first[4] = {};
      multiply_accumulate(first, words, pack_bf16(lane_index() % 4 == 0 ? 1.0f : 0.0f, 0.0f), 0);
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) range.most[c] = first[2 * c];
    }
  }
  GLA_UNROLL
  for (int c = 0; c < 2; ++c) range.last[c] = range.least[c] = total[2 * c];
  return most.rises();
}
template <int Tokens>
GLA_DEVICE bool sum_gates(TokenSums<Tokens, true>& sums, SumRange& range, const RawTile<bf16>& tile, int,
                          int channel) {
  return sum_in_order<Tokens>(sums.own, range, tile, channel);
}

/// sum_tokens_behind() of both channels in order, as sum_in_order() does it.
template <int Tokens>
GLA_DEVICE void sum_behind_in_order(LaneValues<Tokens>& sums, const RawTile<bf16>& gates, int channel) {
  const Bits32 ones = pack_bf16(-1.0f, -1.0f), behind_column = ones_of_column<true>(-1.0f);
  float total[4] = {};
  GLA_UNROLL
  for (int pair = Tokens / 16 - 1; pair >= 0; --pair) {
    Bits32 words[4], most = 0;
    load_gates<16>(words, most, gates, 16 * pair, channel, 0);
    float octets[2][4];
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) octets[i / 4][i % 4] = total[i % 4];
    multiply_accumulate(octets[0], words, behind_column, ones);
    multiply_accumulate(octets[1], words, 0, behind_column);
    multiply_accumulate(total, words, ones, ones);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) sums[2 * pair + i / 4][i / 2 % 2][i % 2] = octets[i / 4][i % 4];
  }
}

/// The range of sums that rise: of(i, c) for each i < Count of what a lane has of channel c.
template <int Count, class Of>
GLA_DEVICE void widen(SumRange& range, Of of) {
  GLA_UNROLL
  for (int c = 0; c < 2; ++c) {
    GLA_UNROLL
    for (int i = 0; i < Count; ++i) {
      range.least[c] = fminf(range.least[c], of(i, c));
      range.most[c] = fmaxf(range.most[c], of(i, c));
    }
    GLA_UNROLL
    for (int mask = 1; mask < 4; mask *= 2) {
      range.least[c] = fminf(range.least[c], shuffle_xor(range.least[c], mask));
      range.most[c] = fmaxf(range.most[c], shuffle_xor(range.most[c], mask));
    }
  }
}

}  // namespace gla
