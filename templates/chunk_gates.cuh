// From raw q, k and gates to the operands that make a chunk plain linear attention (DESIGN section 5). With b the
// inclusive sum of the gates in log2 units, m a pivot per channel and b_C the last sum,
//   q^_i = scale q_i exp2(b_i - m)     k^_j = k_j exp2(m - b_j)     before = exp2(m)     after = exp2(b_C - m)
// The pivot is b_C + n with an integer n: it lies mid-range and makes `after` an exact power of two.
#pragma once

#include "chunk_layout.h"
#include "device/numeric.cuh"
#include "device/thread.cuh"

namespace gla {

/// exp2 of half this range, squared by a product, still leaves room for small gradients (DESIGN section 5).
inline constexpr float kMaxRange = 140.0f;
/// A gate below this many nats is an exact reset: one step of 127 log2 units.
inline constexpr float kMinGate = -88.0f;
inline constexpr float kInfinity = __builtin_bit_cast(float, 0x7f800000u);

/// A natural-log gate in log2 units, clamped; NaN stays NaN.
template <class Gate>
GLA_DEVICE float gate_log2(Gate gate) {
  const float value = to_float(gate);
  return (value < kMinGate ? kMinGate : value) * kLog2E;
}

template <class Config>
struct ChunkGates {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr ChunkLayout kLayout{kShape};
  static constexpr int kPaddedK = kShape.padded_k();
  static constexpr int kPairs = kPaddedK / 2;
  static constexpr int kThreads = kShape.threads();
  static constexpr bool kGated = kShape.gate_bytes != 0;
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;

  unsigned char* shared;
  const unsigned char* stage;  ///< raw tiles of the chunk in work
  float scale;

  /// One thread's share: two neighbouring channels, and the rows of one token group.
  template <int Tokens>
  struct Share {
    static constexpr int kGroups = kShape.token_groups(Tokens);
    static constexpr int kRows = Tokens / kGroups;
    static constexpr int kShares = kPairs * kGroups;
    int channel, group;
    GLA_DEVICE explicit Share(int index) : channel(index % kPairs * 2), group(index / kPairs) {}
  };

  /// Sums over a chunk of the gates of one channel.
  struct Range {
    float last, least, most;
  };

  GLA_DEVICE float* vector(int offset) const { return reinterpret_cast<float*>(shared + offset); }

  /// totals[g], least[g], most[g] of token group g: its sum, and the extremes of its running sums.
  GLA_DEVICE float* partial(int which, int groups, int group) const {
    return vector(kLayout.partial) + (which * groups + group) * kPaddedK;
  }

  GLA_DEVICE Vector<float, 2> gates(int row, int channel) const {
    const auto pair = *reinterpret_cast<const Vector<Gate, 2>*>(
        stage + kLayout.gate + row * kLayout.gate_row + channel * static_cast<int>(sizeof(Gate)));
    return {gate_log2(pair.item[0]), gate_log2(pair.item[1])};
  }

  GLA_DEVICE Vector<float, 2> elements(int tile, int row, int channel) const {
    const auto pair = *reinterpret_cast<const Vector<Element, 2>*>(
        stage + tile + row * kLayout.q_row + channel * static_cast<int>(sizeof(Element)));
    return {to_float(pair.item[0]), to_float(pair.item[1])};
  }

  /// First pass over rows [row0, row0 + Tokens): each token group's sums. A barrier must follow.
  template <int Tokens>
  GLA_DEVICE void sum_groups(int row0) const {
    using S = Share<Tokens>;
    for (int i = thread_index(); i < S::kShares; i += kThreads) {
      const S share(i);
      float sum[2] = {0, 0}, least[2] = {kInfinity, kInfinity}, most[2] = {-kInfinity, -kInfinity};
      for (int row = 0; row < S::kRows; ++row) {
        const Vector<float, 2> gate = gates(row0 + share.group * S::kRows + row, share.channel);
        GLA_UNROLL
        for (int c = 0; c < 2; ++c) {
          sum[c] += gate.item[c];
          least[c] = fminf(least[c], sum[c]);
          most[c] = fmaxf(most[c], sum[c]);
        }
      }
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        partial(0, S::kGroups, share.group)[share.channel + c] = sum[c];
        partial(1, S::kGroups, share.group)[share.channel + c] = least[c];
        partial(2, S::kGroups, share.group)[share.channel + c] = most[c];
      }
    }
  }

  template <int Tokens>
  GLA_DEVICE Range range_of(int channel) const {
    constexpr int kGroups = Share<Tokens>::kGroups;
    Range range{partial(0, kGroups, 0)[channel], partial(1, kGroups, 0)[channel],
                partial(2, kGroups, 0)[channel]};
    GLA_UNROLL
    for (int group = 1; group < kGroups; ++group) {
      range.least = fminf(range.least, range.last + partial(1, kGroups, group)[channel]);
      range.most = fmaxf(range.most, range.last + partial(2, kGroups, group)[channel]);
      range.last += partial(0, kGroups, group)[channel];
    }
    return range;
  }

  /// Sum of the gates before token group `group`.
  template <int Tokens>
  GLA_DEVICE float sum_before(int channel, int group) const {
    constexpr int kGroups = Share<Tokens>::kGroups;
    float sum = 0;
    GLA_UNROLL
    for (int g = 0; g < kGroups - 1; ++g) sum += g < group ? partial(0, kGroups, g)[channel] : 0.0f;
    return sum;
  }

  /// True in every thread if the rows summed last may share one pivot. Contains a barrier.
  template <int Tokens>
  GLA_DEVICE bool within_range() const {
    bool within = true;
    for (int channel = thread_index(); channel < kPaddedK; channel += kThreads) {
      const Range range = range_of<Tokens>(channel);
      // fminf and fmaxf drop NaN, but NaN and inf anywhere in the sums end up in `last`, and fail.
      within &= range.most - range.least <= kMaxRange && range.last - range.last == 0.0f;
    }
    return block_sync_and(within);
  }

  /// Stores two neighbouring channels of an operand row as bf16 parts.
  template <int Parts>
  GLA_DEVICE void store_pair(int plane0, int plane_bytes, int row, int channel, float low, float high) const {
    Bits32 parts[Parts];
    split_bf16(low, high, parts);
    GLA_UNROLL
    for (int part = 0; part < Parts; ++part) {
      *reinterpret_cast<Bits32*>(shared + plane0 + part * plane_bytes + row * kLayout.operand_row +
                                 2 * channel) = parts[part];
    }
  }

  template <int Tokens>
  GLA_DEVICE void store_k(int row0, int row, int channel, const float (&factor)[2]) const {
    const Vector<float, 2> k = elements(kLayout.k, row0 + row, channel);
    store_pair<kShape.k_parts(Tokens)>(kLayout.k_operand, kLayout.k_plane(Tokens), row, channel,
                                       k.item[0] * factor[0], k.item[1] * factor[1]);
  }

  GLA_DEVICE void store_q(int row0, int row, int channel, const float (&factor)[2]) const {
    GLA_UNROLL
    for (int head = 0; head < kShape.group_tile; ++head) {
      const Vector<float, 2> q = elements(kLayout.q, head * kShape.chunk + row0 + row, channel);
      store_pair<kShape.operand_parts()>(kLayout.q_operand, kLayout.q_plane, head * kShape.chunk + row,
                                         channel, scale * q.item[0] * factor[0],
                                         scale * q.item[1] * factor[1]);
    }
  }

  /// Second pass: operands with one pivot, and the state factors. After within_range() said yes.
  template <int Tokens, bool WithQueries>
  GLA_DEVICE void make_operands(int row0) const {
    using S = Share<Tokens>;
    for (int i = thread_index(); i < S::kShares; i += kThreads) {
      const S share(i);
      float relative[2] = {0, 0};  // b - m
      if constexpr (kGated) {
        GLA_UNROLL
        for (int c = 0; c < 2; ++c) {
          const int channel = share.channel + c;
          const Range range = range_of<Tokens>(channel);
          const float distance = rintf(0.5f * (range.most + range.least) - range.last);
          const float pivot = range.last + distance;
          relative[c] = sum_before<Tokens>(channel, share.group) - pivot;
          if (share.group == 0) {
            vector(kLayout.before)[channel] = exp2_fast(pivot);
            vector(kLayout.after)[channel] = exp2_fast(-distance);
            vector(kLayout.decay)[channel] += range.last;
          }
        }
      }
      for (int r = 0; r < S::kRows; ++r) {
        const int row = share.group * S::kRows + r;
        float q_factor[2] = {1, 1}, k_factor[2] = {1, 1};
        if constexpr (kGated) {
          const Vector<float, 2> gate = gates(row0 + row, share.channel);
          GLA_UNROLL
          for (int c = 0; c < 2; ++c) {
            relative[c] += gate.item[c];
            q_factor[c] = exp2_fast(relative[c]);
            k_factor[c] = exp2_fast(-relative[c]);
          }
        }
        store_k<Tokens>(row0, row, share.channel, k_factor);
        if constexpr (WithQueries) store_q(row0, row, share.channel, q_factor);
      }
    }
  }

  /// Operands without a pivot, for a sub-chunk that fails the guard: q~_i = scale q_i exp2(b_i) and
  /// k~_j = k_j exp2(b_C - b_j) never exceed q and k for gates of at most 0. `before` becomes exp2(b_C), which the
  /// state takes between its product with q~ and the addition of k~^T v. The sums stay for direct scores.
  template <bool WithQueries>
  GLA_DEVICE void make_direct_operands(int row0) const {
    using S = Share<kSubChunk>;
    for (int i = thread_index(); i < S::kShares; i += kThreads) {
      const S share(i);
      float sum[2], rest[2] = {0, 0},
                    factor[2];  // b_i; b_C - b_j, summed from the end because b may be large
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int channel = share.channel + c;
        sum[c] = sum_before<kSubChunk>(channel, share.group);
        for (int group = S::kGroups - 1; group > share.group; --group)
          rest[c] += partial(0, S::kGroups, group)[channel];
        if (share.group == 0) {
          const float last = range_of<kSubChunk>(channel).last;
          vector(kLayout.before)[channel] = exp2_fast(last);
          vector(kLayout.decay)[channel] += last;
        }
      }
      for (int r = 0; r < S::kRows; ++r) {
        const int row = share.group * S::kRows + r;
        const Vector<float, 2> gate = gates(row0 + row, share.channel);
        GLA_UNROLL
        for (int c = 0; c < 2; ++c) {
          sum[c] += gate.item[c];
          vector(kLayout.cumulative)[row * kPaddedK + share.channel + c] = sum[c];
          factor[c] = exp2_fast(sum[c]);
        }
        if constexpr (WithQueries) store_q(row0, row, share.channel, factor);
      }
      for (int r = S::kRows - 1; r >= 0; --r) {
        const int row = share.group * S::kRows + r;
        GLA_UNROLL
        for (int c = 0; c < 2; ++c) factor[c] = exp2_fast(rest[c]);
        store_k<kSubChunk>(row0, row, share.channel, factor);
        const Vector<float, 2> gate = gates(row0 + row, share.channel);
        GLA_UNROLL
        for (int c = 0; c < 2; ++c) rest[c] += gate.item[c];
      }
    }
  }

  /// Scores of a direct sub-chunk, element by element: sum_k scale q_ik k_jk exp2(b_i - b_j) for j <= i. A warp takes
  /// rows, several columns at once so that their sums overlap; element (i, j) goes to `store(i, j, value)`.
  template <class Store>
  GLA_DEVICE void direct_scores(int head, int row0, Store store) const {
    constexpr int kWarps = kThreads / kWarpSize;
    constexpr int kPerLane = (kPaddedK + 2 * kWarpSize - 1) / (2 * kWarpSize);
    constexpr int kColumns = 4;
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
        q[c] = elements(kLayout.q, head * kShape.chunk + row0 + i, channel);
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
              const Vector<float, 2> k = elements(kLayout.k, row0 + j0 + j, channel);
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
