// A steep chunk of a walk over key channels: what its gates are to KeyUnit, which is the same for such a chunk otherwise. All
// factors are products of exp2 of single gates, as those of steep_chunk.cuh, and at most 1 for gates of at most 0. With P_i that of
// the gates of a block of 16 tokens up to token i, S_j that of those behind j, and E of all of a block, going forward
//   dq_i = scale P_i (.) (the sum so far of i's block)     what starts as dO_i S^T becomes, for each block behind which
//                                                          i's own stands, E (.) that + P k~     k~_j = S_j (.) k_j
// and what P adds within a block comes from segments of 1, 2, 4 and 8 tokens that are joined two by two. The state takes the
// product of all E between its product and its addition. Going back the same holds of dk, with the tokens in the other order and
// q~_i = scale P_i (.) q_i.
#pragma once

#include "chunk_sums.cuh"
#include "device/mma.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"

namespace gla {

/// Of the blocks of a chunk, 8 values of each as they lie in LaneValues<16>. Loops over blocks are loops here where they can be,
/// and these lie in local memory; beside the unit, whose members then stay in registers.
template <class Walk>
struct KeySteep {
  static constexpr bool kForward = Walk::kGoesForward;
  static constexpr int kBlocks = Walk::kChunk / 16;
  static constexpr int kParts = Walk::kParts, kScoreParts = Walk::kShape.score_parts;
  using Gates = typename Walk::Gates;
  using Block = LaneValues<16>;

  float to_gradient[kBlocks][8];  ///< of dq or dk over its sum
  float to_operand[kBlocks][8];   ///< of k~ over k, or q~ over q
  float totals[kBlocks][2];       ///< what gates multiply to
  float apart[kBlocks][8];  ///< what P adds to a gradient from within the block, but for a token's own term
  float own[kBlocks][8];    ///< which would be in the flows of both walks, and is left out of both

  /// Factors, and `totals`, whose product `all` is multiplied with.
  GLA_DEVICE void find(Walk& walk, float (&all)[2]) {
    GLA_UNROLL_BY(1)
    for (int pair = 0; pair < kBlocks; ++pair) {
      Block upto, behind;
      join_segments(walk, pair, upto, behind, [](int) {});
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        const float from_first = walk.args.scale * upto[o][c][e], to_last = behind[o][c][e];
        to_gradient[pair][i] = kForward ? from_first : to_last;
        to_operand[pair][i] = kForward ? to_last : from_first;
      }
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        const float total = upto[0][c][0] * behind[0][c][0];
        totals[pair][c] = total;
        all[c] *= total;
      }
      if constexpr (!Walk::kOutputs) add_decay(walk, pair);
    }
  }

  GLA_DEVICE void clear_apart() {
    GLA_UNROLL_BY(1)
    for (int i = 0; i < 8 * kBlocks; ++i) apart[i / 8][i % 8] = own[i / 8][i % 8] = 0;
  }

  /// What the gates of the blocks before a block, or of those behind it, multiply to.
  GLA_DEVICE void find_outer(float (&outer)[2], int pair, bool of_earlier) const {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      outer[c] = 1;
      GLA_UNROLL
      for (int other = 0; other < kBlocks; ++other)
        if (of_earlier ? other < pair : other > pair) outer[c] *= totals[other][c];
    }
  }

  /// What P adds to the sums of blocks from the others: of those that the warp finishes.
  template <int Octets>
  GLA_DEVICE void add_between_blocks(const Walk& walk, float (&sums)[Octets][4],
                                     const typename Walk::Words& words) const {
    constexpr int kOwn = Octets / 2;
    GLA_UNROLL
    for (int n = 1; n < kBlocks; ++n) {
      GLA_UNROLL
      for (int m = 0; m < n; ++m) {
        const int to = kForward ? n : kBlocks - 1 - n, from = kForward ? m : kBlocks - 1 - m;
        if (kOwn < kBlocks && to / kOwn != walk.member) continue;
        const int own = to % kOwn * 2;
        GLA_UNROLL
        for (int i = 0; i < 8; ++i) sums[own + i / 4][i % 4] *= totals[from][i % 4 / 2];
        Bits32 b[kScoreParts][4];
        walk.load_scores(b, from, to);
        multiply_parts<kScoreParts>(sums[own], sums[own + 1], words[from], b);
      }
    }
  }

  /// Operands within blocks become those of the chunk.
  GLA_DEVICE void widen(typename Walk::Words& words) const {
    GLA_UNROLL
    for (int pair = 0; pair < kBlocks; ++pair) {
      float outer[2];
      find_outer(outer, pair, !kForward);
      Block x;
      Gates::template join<kParts>(x, words[pair]);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) x[i / 4][i / 2 % 2][i % 2] *= outer[i / 2 % 2];
      Gates::template split<kParts>(words[pair], x);
    }
  }

  /// What P adds within some of the blocks, to `apart` and `own`.
  GLA_DEVICE void add_within_blocks(const Walk& walk, int first, int count) {
    GLA_UNROLL_BY(1)
    for (int pair = first; pair < first + count; ++pair) add_within(walk, pair, apart[pair], own[pair]);
  }

 private:
  GLA_DEVICE static void add_within(const Walk& walk, int pair, float (&apart)[8], float (&own)[8]) {
    Bits32 b[kScoreParts][4];
    walk.load_scores(b, pair, pair);
    Block x, upto, behind;
    load_octets<16>(x, kForward ? walk.raw_k() : walk.raw_q(), 16 * pair, Walk::first_channel(), 0);
    const int row = lane_index() / 4, column = lane_index() % 4 * 2;  // two tokens of an octet in b
    join_segments(walk, pair, upto, behind, [&](int level) {
      Block factors;
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        const float factor = kForward ? behind[o][c][e] : walk.args.scale * upto[o][c][e];
        factors[o][c][e] = is_later(level, o, e) == kForward ? 0.0f : x[o][c][e] * factor;
      }
      Bits32 a[kParts][4];
      Gates::template split<kParts>(a, factors);
      float found[2][4] = {};
      const bool is_same = row >> (level + 1) == column >> (level + 1);  // segment, once these are joined
      GLA_UNROLL
      for (int p = 0; p < kScoreParts; ++p) {
        GLA_UNROLL
        for (int r = 0; p + r < kScoreParts; ++r) {
          if (level < 3) {
            multiply_accumulate(found[0], a[p], is_same ? b[r][0] : 0, 0);
            multiply_accumulate(found[1], a[p], 0, is_same ? b[r][3] : 0);
          } else if (kForward) {
            multiply_accumulate(found[1], a[p], b[r][2], 0);
          } else {
            multiply_accumulate(found[0], a[p], 0, b[r][1]);
          }
        }
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        const float factor = kForward ? walk.args.scale * upto[o][c][e] : behind[o][c][e];
        apart[i] += is_later(level, o, e) == kForward ? factor * found[o][2 * c + e] : 0.0f;
      }
    });
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int o = i / 4, c = i / 2 % 2, e = i % 2, token = 16 * pair + TokenMap<16>::token(o, e);
      own[i] += walk.args.scale * score(walk, token) * x[o][c][e];
    }
  }

  /// Whether element e of octet o is of the later one of two segments of 2^level tokens.
  GLA_DEVICE static bool is_later(int level, int o, int e) {
    return (level == 0 ? e : level == 3 ? o : lane_index() >> (level - 1) & 1) != 0;
  }

  /// Joins the segments of a block two by two, from single tokens on. What gates of a segment multiply to up to each token is
  /// `upto`, behind it `behind`. Calls use(level) before each.
  template <class Use>
  GLA_DEVICE static void join_segments(const Walk& walk, int pair, Block& upto, Block& behind, Use use) {
    load_octets<16>(upto, walk.raw_gates(), 16 * pair, Walk::first_channel(), 0);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      float& gate = upto[i / 4][i / 2 % 2][i % 2];
      gate = exp2_fast(kLog2E * gate);
      behind[i / 4][i / 2 % 2][i % 2] = 1;
    }
    GLA_UNROLL
    for (int level = 0; level < 4; ++level) {
      use(level);
      Block all;
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        all[o][c][e] = upto[o][c][e] * behind[o][c][e];
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        const float other = level == 0   ? all[o][c][1 - e]
                            : level == 3 ? all[1 - o][c][e]
                                         : shuffle_xor(all[o][c][e], level);
        upto[o][c][e] *= is_later(level, o, e) ? other : 1.0f;
        behind[o][c][e] *= is_later(level, o, e) ? 1.0f : other;
      }
    }
  }

  /// Of a walk for a segment's own state: as sums, which do not vanish.
  GLA_DEVICE static void add_decay(Walk& walk, int pair) {
    Block gates;
    Most<typename Walk::Gate> most;
    load_gates<16>(gates, most, walk.raw_gates(), 16 * pair, Walk::first_channel());
    GLA_UNROLL
    for (int c = 0; c < 2; ++c)
      walk.decay[c] += kLog2E * sum_quad(gates[0][c][0] + gates[0][c][1] + gates[1][c][0] + gates[1][c][1]);
  }

  /// Of a token with itself.
  GLA_DEVICE static float score(const Walk& walk, int token) {
    float sum = 0;
    GLA_UNROLL
    for (int part = 0; part < kScoreParts; ++part)
      sum += to_float(*reinterpret_cast<const bf16*>(walk.scores(part).at(token, token)));
    return sum;
  }
};

}  // namespace gla
