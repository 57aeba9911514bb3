// A chunk of a walk over key channels: what a warp makes of its 16 channels of it, in the layout of LaneValues<16>
// (chunk_sums.cuh), 16 tokens after 16.
//
// Where gates fall too far for one pivot a chunk is steep (key_steep.cuh). Both walks make the same choices, of the same gates.
//
// Gates' gradients are flows through the gates, chunk by chunk and not as one long sum. With ^in the part of dq and dk that
// comes through the state, D the sum over V of S (.) dS at a chunk's border, and sums over the chunk's tokens,
//   D_before = D_behind + sum of q dq^in - sum of k dk^in
//   dg_first = D_before      dg_t = D_behind + sum over s >= t of q_s dq_s - k_s dk_s
// The walk forward leaves q dq for the one back, and in the place of the first token's, which nobody needs, the sum of q dq^in:
// what P adds to both sides is the same, and what rounding leaves of its difference would grow from chunk to chunk in D.
#pragma once

#include "chunk_gates.cuh"
#include "chunk_sums.cuh"
#include "key_steep.cuh"

namespace gla {

template <class Walk, bool kSteep>
struct KeyUnit {
  static constexpr bool kForward = Walk::kGoesForward, kOutputs = Walk::kOutputs, kGated = Walk::kGated;
  static constexpr int kTokens = Walk::kChunk, kPairs = kTokens / 16;
  static constexpr int kParts = Walk::kParts;
  /// Query heads of a group meet in a unit, which is a block of 16 tokens then.
  static constexpr bool kOneHead = Walk::kHeads == 1;
  static_assert((kOneHead || kPairs == 1) && (kGated || !kSteep));
  /// Of what it finishes, which begins with `first_pair`.
  static constexpr int kOwnPairs = kPairs / Walk::kFinishers, kOwnTokens = 16 * kOwnPairs;
  static_assert(kPairs % Walk::kFinishers == 0 || !kOutputs);
  /// Operands are made while the state is multiplied, which before that wants the registers; but before the first of the warps
  /// that share key channels overwrites what they are made of.
  static constexpr bool kMakesLate = kOneHead && kOutputs && Walk::kFinishers == Walk::kSplit && !kSteep;
  /// Whether of_q becomes the factors of the gradients once operands are made, instead of their exponentials twice.
  static constexpr bool kKeepsFactors = kGated && kOutputs && kPairs > 1 && !kSteep;
  using Gates = typename Walk::Gates;
  using Words = typename Walk::Words;

  KeySteep<Walk>* steep;
  int first_pair;
  LaneValues<kTokens> of_q;  ///< log2 of q^ over scale q; of tokens that it finishes, once operands are made
  float before[2], middle[2], after[2];  ///< what the state takes, in the order of time
  Words words;                           ///< of what the state takes up: k^, going back q^ of a query head
  float sums[kOwnTokens / 8][4];         ///< dq^ of a query head, or dk^
  float inflow[2] = {};                  ///< the lane's sum of q dq^in, or k dk^in
  LaneValues<kOwnTokens> flows;          ///< q dq of all heads, or k dk

  /// False if the tokens may not have one pivot, and the unit is of those that have.
  GLA_DEVICE bool find_factors(Walk& walk) {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) before[c] = middle[c] = after[c] = 1;
    first_pair = walk.first_own() / 16;
    if constexpr (kSteep) {
      steep->find(walk, middle);
    } else if constexpr (kGated) {
      SumRange range;
      if (warp_any(sum_in_order<kTokens>(of_q, range, walk.raw_gates(), Walk::first_channel())))
        widen<kTokens / 4>(range, [&](int i, int c) { return of_q[i / 2][c][i % 2]; });
      typename Gates::Pivots pivots;
      if (!walk.agree(Gates::find_pivots(pivots, range))) return false;
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        before[c] = exp2_fast(pivots.pivot[c]);
        after[c] = exp2_fast(pivots.after(c));
        walk.decay[c] += kLog2E * range.last[c];
        GLA_UNROLL
        for (int i = 0; i < kTokens / 4; ++i) {
          float& sum = of_q[i / 2][c][i % 2];
          sum = kLog2E * sum - pivots.pivot[c];
        }
      }
    }
    count_path(walk);
    return true;
  }

  GLA_DEVICE void enter(Walk& walk) {
    if constexpr (!kMakesLate && (kForward || kOneHead)) make_operands(walk);
    if constexpr (kForward) {
      walk.state.scale(before);
      clear(flows);
    } else {
      walk.state.scale(after);
      if constexpr (kOutputs) {
        find_state_product(walk);
        if constexpr (kSteep && !kOneHead) steep->clear_apart();
      }
      walk.state.scale(middle);
      if constexpr (kOutputs) add_inflow(walk);
    }
  }

  GLA_DEVICE void add_queries(Walk& walk) {
    if constexpr (kForward) {
      find_state_product(walk);
      if constexpr (kOneHead) walk.state.scale(middle);
      add_inflow(walk);
    } else if constexpr (!kOneHead) {
      make_operands(walk);
    }
    constexpr bool kUpdates = !kForward || kOneHead;
    if constexpr (kSteep) {
      if (kOutputs && walk.leads()) {
        steep->add_between_blocks(walk, sums, words);
        if constexpr (!kForward && !kOneHead) steep->add_within_blocks(walk, 0, kPairs);
      }
      if constexpr (kUpdates) update(walk);
    } else {
      walk.add_products(sums, words, kOutputs && walk.leads(), kUpdates);
    }
    if (!kOutputs || !walk.leads()) return;
    if constexpr (kForward) stage_gradient(walk, walk.raw_q());
  }

  GLA_DEVICE void leave(Walk& walk) {
    if constexpr (kForward) {
      if constexpr (!kOneHead || !kOutputs) {
        walk.state.scale(middle);
        update(walk);
      }
      if constexpr (kOutputs) {
        if (!walk.wants_flows()) walk.meet();
        if (walk.wants_flows() && walk.leads()) stage_flows(walk);
      }
      walk.finish_update(words);
      walk.state.scale(after);
    } else {
      if (kOutputs && walk.leads()) {
        clear(flows);
        stage_gradient(walk, walk.raw_k());
        if (walk.wants_flows()) {
          stage_gate_gradients(walk);
        } else {
          walk.meet();
        }
      }
      walk.finish_update(words);
      walk.state.scale(before);
    }
  }

 private:
  /// log2 of q^ over scale q, and of k^ over k.
  GLA_DEVICE float log_q(int o, int c, int e) const { return kGated ? of_q[o][c][e] : 0.0f; }
  GLA_DEVICE float log_k(int o, int c, int e) const { return -log_q(o, c, e); }
  /// Of a pair that it finishes.
  GLA_DEVICE int first_token(int pair) const { return 16 * (first_pair + pair); }
  /// Of dq over dq^, or dk over dk^.
  GLA_DEVICE float factor(const Walk& walk, int o, int c, int e) const {
    if constexpr (kSteep) return steep->to_gradient[first_pair + o / 2][o % 2 * 4 + c * 2 + e];
    if constexpr (kKeepsFactors) return of_q[o][c][e];
    if constexpr (!kGated) return kForward ? walk.args.scale : 1.0f;
    return kForward ? walk.args.scale * exp2_fast(log_q(o, c, e)) : exp2_fast(log_k(o, c, e));
  }

  GLA_DEVICE void count_path(const Walk& walk) const {
    if (kGated && kForward && kOutputs && walk.args.path_counts != nullptr && thread_index() == 0 &&
        walk.tile == 0)
      atomic_add(walk.args.path_counts + (kSteep ? 1 : 0), kSteep ? kPairs : 1);
  }

  /// The words of k^, or going back of the q^ of a query head; steep: within blocks.
  GLA_DEVICE void make_operands(const Walk& walk) {
    GLA_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      float x[2][2][2];
      load_octets<16>(x, operand(walk), 16 * pair, Walk::first_channel(), 0);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = 2 * pair + i / 4, c = i / 2 % 2, e = i % 2;
        float& value = x[i / 4][c][e];
        if constexpr (kSteep) {
          value *= steep->to_operand[pair][i];
        } else {
          if constexpr (kGated) value *= exp2_fast(kForward ? log_k(o, c, e) : log_q(o, c, e));
          if constexpr (!kForward) value *= walk.args.scale;
        }
        if constexpr (kKeepsFactors) {
          float& log = of_q[o][c][e];
          log = kForward ? walk.args.scale * exp2_fast(log) : exp2_fast(-log);
        }
      }
      Gates::template split<kParts>(words[pair], x);
    }
    if constexpr (Walk::kFinishers > 1 && kKeepsFactors) {
      static_assert(Walk::kFinishers == 2);
      GLA_UNROLL
      for (int i = 0; i < kOwnTokens / 2; ++i) {
        float(&octet)[2][2] = of_q[i / 4];
        const float(&later)[2][2] = of_q[kOwnTokens / 8 + i / 4];
        if (first_pair > 0) octet[i / 2 % 2][i % 2] = later[i / 2 % 2][i % 2];
      }
    }
  }

  GLA_DEVICE void update(Walk& walk) {
    if constexpr (kSteep) steep->widen(words);
    walk.add_update(words);
  }

  template <int N>
  GLA_DEVICE static void clear(float (&values)[N][2][2]) {
    GLA_UNROLL
    for (int i = 0; i < 4 * N; ++i) values[i / 4][i / 2 % 2][i % 2] = 0;
  }

  /// The gradient's own tile, of q or k, and the other one.
  GLA_DEVICE static auto subject(const Walk& walk) { return kForward ? walk.raw_q() : walk.raw_k(); }
  GLA_DEVICE static auto operand(const Walk& walk) { return kForward ? walk.raw_k() : walk.raw_q(); }

  /// sums = what comes through the state.
  GLA_DEVICE void find_state_product(Walk& walk) {
    typename Walk::Sums product;
    GLA_UNROLL
    for (int i = 0; i < kTokens / 2; ++i) product[i / 4][i % 4] = 0;
    walk.add_state_product(product);
    if constexpr (kMakesLate) make_operands(walk);
    walk.finish_state_product(product);
    walk.add_members(product);
    GLA_UNROLL
    for (int i = 0; i < kOwnTokens / 2; ++i) sums[i / 4][i % 4] = product[i / 4][i % 4];
  }

  /// What the sums bring to the flows so far.
  GLA_DEVICE void add_inflow(Walk& walk) {
    if (!walk.wants_flows() || !walk.leads()) return;
    GLA_UNROLL
    for (int pair = 0; pair < kOwnPairs; ++pair) {
      float x[2][2][2];
      load_octets<16>(x, subject(walk), first_token(pair), Walk::first_channel(), 0);
      float outer[2];
      if constexpr (kSteep) steep->find_outer(outer, first_pair + pair, kForward);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = 2 * pair + i / 4, c = i / 2 % 2, e = i % 2;
        const float in = factor(walk, o, c, e) * x[i / 4][c][e] * sums[o][2 * c + e];
        inflow[c] += kSteep ? outer[c] * in : in;
      }
    }
  }

  /// dq or dk, in the place of q or k; flows += each times its gradient.
  template <class Tile>
  GLA_DEVICE void stage_gradient(const Walk& walk, const Tile& to) {
    if constexpr (kSteep && (kForward || kOneHead)) {
      steep->clear_apart();
      steep->add_within_blocks(walk, first_pair, kOwnPairs);
    }
    GLA_UNROLL
    for (int pair = 0; pair < kOwnPairs; ++pair) {
      float x[2][2][2];
      load_octets<16>(x, to, first_token(pair), Walk::first_channel(), 0);
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = 2 * pair + i / 4, c = i / 2 % 2, e = i % 2;
        float& value = x[i / 4][c][e];
        float gradient = factor(walk, o, c, e) * sums[o][2 * c + e];
        if constexpr (kSteep) gradient += steep->apart[first_pair + pair][i];
        flows[o][c][e] += value * gradient;
        if constexpr (kSteep) gradient += steep->own[first_pair + pair][i];
        value = gradient;
      }
      warp_sync();  // others still read what is overwritten
      walk.stage_octets(x, to, first_token(pair));
    }
  }

  /// Values become the sums from each token to the unit's last.
  GLA_DEVICE static void sum_from_behind(LaneValues<kOwnTokens>& values) {
    float behind[2] = {};
    GLA_UNROLL
    for (int o = kOwnTokens / 8 - 1; o >= 0; --o) {
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        float(&two)[2] = values[o][c];
        float others;
        const float all = scan_quad<true>(others, two[0] + two[1]);
        two[1] += behind[c] + others;
        two[0] += two[1];
        behind[c] += all;
      }
    }
  }
  /// Whether element e of octet o is of the unit's first token.
  GLA_DEVICE bool is_first(int o, int e) const {
    return o == 0 && e == 0 && lane_index() % 4 == 0 && first_pair == 0;
  }

  GLA_DEVICE void stage_flows(const Walk& walk) {
    walk.wait_for_carried();
    const float own[2] = {sum_quad(inflow[0]), sum_quad(inflow[1])};
    float others[2] = {};
    walk.trade(others, own);
    GLA_UNROLL
    for (int c = 0; c < 2; ++c)
      if (is_first(0, 0)) flows[0][c][0] = own[c] + others[c];
    GLA_UNROLL
    for (int pair = 0; pair < kOwnPairs; ++pair) {
      float x[2][2][2];
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) x[i / 4][i / 2 % 2][i % 2] = flows[2 * pair + i / 4][i / 2 % 2][i % 2];
      if constexpr (Walk::kSplitsFlows) {
        walk.clear_padding(x);
        Bits32 parts[2][4];
        Gates::template split<2>(parts, x);
        walk.stage_words(parts[0], walk.template raw_gates<bf16>().operand(), first_token(pair));
        walk.stage_words(parts[1], walk.low_flows().operand(), first_token(pair));
      } else {
        walk.stage_octets(x, walk.staged_gates(), first_token(pair));
      }
    }
  }

  GLA_DEVICE void stage_gate_gradients(Walk& walk) {
    walk.wait_for_carried();
    float inflow_of_q[2] = {};
    GLA_UNROLL
    for (int pair = 0; pair < kOwnPairs; ++pair) {
      float x[2][2][2], low[2][2][2];
      if constexpr (Walk::kSplitsFlows) {
        load_octets<16>(x, walk.template carried<bf16>(), first_token(pair), Walk::first_channel(), 0);
        load_octets<16>(low, walk.carried_low(), first_token(pair), Walk::first_channel(), 0);
      } else {
        GLA_UNROLL
        for (int i = 0; i < 8; ++i)
          x[i / 4][i / 2 % 2][i % 2] = to_float(*walk.element(walk.carried(), first_token(pair), i));
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        if constexpr (Walk::kSplitsFlows) x[o][c][e] += low[o][c][e];
        if (pair == 0 && o == 0 && e == 0) inflow_of_q[c] = is_first(o, e) ? x[o][c][e] : 0.0f;
        flows[2 * pair + o][c][e] = x[o][c][e] - flows[2 * pair + o][c][e];
      }
    }
    sum_from_behind(flows);
    // What the unit's tokens change D by, and the sums of those that it finishes.
    float own[4], others[4] = {}, behind[2];
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      own[c] = sum_quad(inflow_of_q[c] - inflow[c]);
      own[2 + c] = Walk::kFinishers == 1 ? 0.0f : sum_quad(lane_index() % 4 == 0 ? flows[0][c][0] : 0.0f);
    }
    walk.trade(others, own);
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      behind[c] = walk.flow[c] + (first_pair == 0 ? others[2 + c] : 0.0f);
      walk.flow[c] += own[c] + others[c];
    }
    GLA_UNROLL
    for (int pair = 0; pair < kOwnPairs; ++pair) {
      float x[2][2][2];
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        x[o][c][e] = pair == 0 && is_first(o, e) ? walk.flow[c] : behind[c] + flows[2 * pair + o][c][e];
      }
      walk.stage_octets(x, walk.staged_gates(), first_token(pair));
    }
  }
};

}  // namespace gla
