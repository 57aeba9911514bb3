// recurrent_forward: the recurrence itself, token by token, for decoding and short sequences
// (S_t = diag(exp gk_t) S_{t-1} diag(exp gv_t) + k_t v_t^T, o_t = scale q_t^T S_t; DESIGN sections 1 and 6). A warp owns
// all K key channels of some value channels of one state, in registers from the first token to the last; warps never
// meet, so a block is only a bundle of them. Sums over K are shuffles among `lanes_k` lanes.
#pragma once

#include "args.h"
#include "channel_group.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "sequence.cuh"

namespace gla {

template <class Config>
class RecurrentForward {
 public:
  GLA_DEVICE explicit RecurrentForward(const KernelArgs& kernel_args) : args(kernel_args) {}

  GLA_DEVICE void run() {
    if (!find_work()) return;
    load_state();
    Inputs ahead[kStages];
    GLA_UNROLL
    for (int s = 0; s < kStages; ++s)
      if (s < sequence.length) load_inputs(ahead[s], s);
    for (Index step = 0; step < sequence.length; step += kStages) {
      GLA_UNROLL
      for (int s = 0; s < kStages; ++s) {
        if (step + s >= sequence.length) break;
        const Inputs now = ahead[s];
        if (step + s + kStages < sequence.length) load_inputs(ahead[s], step + s + kStages);
        advance(now, step + s);
      }
    }
    store_state();
  }

 private:
  static constexpr int kK = Config::head_dim_k;
  static constexpr int kV = Config::head_dim_v;
  static constexpr int kGroup = Config::group;
  static constexpr int kLanesK = Config::lanes_k;
  static constexpr int kLanesV = kWarpSize / kLanesK;
  static constexpr int kRowsV = Config::rows_v;
  static constexpr int kStages = Config::stages;
  static constexpr int kWarpV = kLanesV * kRowsV;  // value channels per warp
  static constexpr int kTilesV = (kV + kWarpV - 1) / kWarpV;
  static constexpr int kQuads = (kK + 4 * kLanesK - 1) / (4 * kLanesK);  // groups of 4 key channels per lane
  static constexpr int kStepV = Config::state_v_first ? kLanesV : 1;     // between value channels of a lane
  static constexpr bool kWholeK = kK % (4 * kLanesK) == 0, kWholeV = kV % kWarpV == 0;
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  using State = typename Config::State;
  template <class T>
  using KeyGroup = ChannelGroup<T, 4, kK, kWholeK>;
  template <class T>
  using ValueGroup = ChannelGroup<T, kRowsV, kV, kWholeV>;

  /// What one token brings to one lane.
  struct Inputs {
    float k[kQuads][4], gate_k[kQuads][4];
    float v[kRowsV], gate_v[kRowsV];
  };

  const KernelArgs& args;
  Sequence sequence;
  Index n = 0, head = 0;
  int lane_k = 0, first_v = 0;
  float state[kQuads][4][kRowsV];

  GLA_DEVICE bool find_work() {
    Index warp = block_index() * Config::warps + warp_index();
    const int tile = static_cast<int>(warp % kTilesV);
    warp /= kTilesV;
    head = warp % args.heads;
    n = warp / args.heads;
    if (n >= args.sequences) return false;
    sequence = sequence_of(args, n);
    lane_k = lane_index() % kLanesK;
    const int lane_v = lane_index() / kLanesK;
    first_v = tile * kWarpV + lane_v * (Config::state_v_first ? 1 : kRowsV);
    return true;
  }

  GLA_DEVICE static bool has_key(int k) { return kWholeK || k < kK; }
  GLA_DEVICE static bool has_value(int v) { return kWholeV || v < kV; }
  GLA_DEVICE int key(int quad) const { return (quad * kLanesK + lane_k) * 4; }
  GLA_DEVICE Index token(Index step) const { return Config::reverse ? sequence.length - 1 - step : step; }

  // ---- state: vectors along V ([K, V]) or along K ([V, K]) -----------------------------------------------------

  GLA_DEVICE Index state_offset() const { return (n * args.heads + head) * kK * kV; }

  GLA_DEVICE void load_state() {
    const State* source = static_cast<const State*>(args.initial_state);
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      if constexpr (Config::state_v_first) {
        GLA_UNROLL
        for (int j = 0; j < kRowsV; ++j) {
          float values[4] = {};
          const int v = first_v + j * kStepV;
          if (source != nullptr && has_value(v))
            KeyGroup<State>::load(values, source + state_offset() + static_cast<Index>(v) * kK, key(quad));
          GLA_UNROLL
          for (int c = 0; c < 4; ++c) state[quad][c][j] = values[c];
        }
      } else {
        GLA_UNROLL
        for (int c = 0; c < 4; ++c) {
          GLA_UNROLL
          for (int j = 0; j < kRowsV; ++j) state[quad][c][j] = 0;
          const int k = key(quad) + c;
          if (source != nullptr && has_key(k)) {
            ValueGroup<State>::load(state[quad][c], source + state_offset() + static_cast<Index>(k) * kV,
                                    first_v);
          }
        }
      }
    }
  }

  GLA_DEVICE void store_state() const {
    State* target = static_cast<State*>(args.final_state);
    if (target == nullptr) return;
    target += state_offset();
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      if constexpr (Config::state_v_first) {
        GLA_UNROLL
        for (int j = 0; j < kRowsV; ++j) {
          const int v = first_v + j * kStepV;
          const float values[4] = {state[quad][0][j], state[quad][1][j], state[quad][2][j],
                                   state[quad][3][j]};
          if (has_value(v)) KeyGroup<State>::store(target + static_cast<Index>(v) * kK, key(quad), values);
        }
      } else {
        GLA_UNROLL
        for (int c = 0; c < 4; ++c) {
          const int k = key(quad) + c;
          if (has_key(k))
            ValueGroup<State>::store(target + static_cast<Index>(k) * kV, first_v, state[quad][c]);
        }
      }
    }
  }

  // ---- one token -----------------------------------------------------------------------------------------------

  GLA_DEVICE void load_inputs(Inputs& inputs, Index step) const {
    const Index t = token(step);
    const Element* k = row_of<const Element>(args.k, sequence, t, head);
    const Element* v = row_of<const Element>(args.v, sequence, t, head);
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      KeyGroup<Element>::load(inputs.k[quad], k, key(quad));
      if constexpr (Config::gate_k)
        KeyGroup<Gate>::load(inputs.gate_k[quad], row_of<const Gate>(args.gk, sequence, t, head), key(quad));
    }
    load_value_channels(inputs.v, v);
    if constexpr (Config::gate_v)
      load_value_channels(inputs.gate_v, row_of<const Gate>(args.gv, sequence, t, head));
  }

  template <class T>
  GLA_DEVICE void load_value_channels(float (&target)[kRowsV], const T* row) const {
    if constexpr (kStepV == 1) {
      ValueGroup<T>::load(target, row, first_v);
    } else {
      GLA_UNROLL
      for (int j = 0; j < kRowsV; ++j) {
        const int v = first_v + j * kStepV;
        target[j] = has_value(v) ? to_float(row[v]) : 0.0f;
      }
    }
  }

  GLA_DEVICE void advance(const Inputs& inputs, Index step) {
    float decay_v[kRowsV];
    if constexpr (Config::gate_v) {
      GLA_UNROLL
      for (int j = 0; j < kRowsV; ++j) decay_v[j] = exp2_fast(inputs.gate_v[j] * kLog2E);
    }
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      GLA_UNROLL
      for (int c = 0; c < 4; ++c) {
        float decay = 1;
        if constexpr (Config::gate_k) decay = exp2_fast(inputs.gate_k[quad][c] * kLog2E);
        GLA_UNROLL
        for (int j = 0; j < kRowsV; ++j) {
          float value = state[quad][c][j];
          if constexpr (Config::gate_k) value *= decay;
          if constexpr (Config::gate_v) value *= decay_v[j];
          state[quad][c][j] = value + inputs.k[quad][c] * inputs.v[j];
        }
      }
    }
    for (int i = 0; i < kGroup; ++i) write_output(token(step), head * kGroup + i);
  }

  GLA_DEVICE void write_output(Index t, Index query_head) const {
    const Element* q = row_of<const Element>(args.q, sequence, t, query_head);
    float sums[kRowsV] = {};
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      float query[4];
      KeyGroup<Element>::load(query, q, key(quad));
      GLA_UNROLL
      for (int c = 0; c < 4; ++c) {
        GLA_UNROLL
        for (int j = 0; j < kRowsV; ++j) sums[j] += query[c] * state[quad][c][j];
      }
    }
    GLA_UNROLL
    for (int j = 0; j < kRowsV; ++j) sums[j] = args.scale * sum_lanes<kLanesK>(sums[j]);
    if (lane_k != 0) return;
    Element* o = row_of<Element>(args.o, sequence, t, query_head);
    if constexpr (kStepV == 1) {
      ValueGroup<Element>::store(o, first_v, sums);
    } else {
      GLA_UNROLL
      for (int j = 0; j < kRowsV; ++j) {
        const int v = first_v + j * kStepV;
        if (has_value(v)) o[v] = from_float<Element>(sums[j]);
      }
    }
  }
};

template <class Config>
GLA_DEVICE void recurrent_forward(const KernelArgs& args) {
  RecurrentForward<Config>(args).run();
}

}  // namespace gla
