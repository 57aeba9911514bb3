// recurrent_backward: the gradients of recurrent_forward's inputs by the chain rule as it stands, token by token in fp32.
// With dS_t the gradient of S_t by what follows token t, and G_t = dS_t + scale q_t dO_t^T that by its output too,
//   dq_t = scale S_t dO_t     dk_t = G_t v_t     dS_{t-1} = diag(exp gk_t) G_t diag(exp gv_t)     dgk_t = sums of S_{t-1} (.) dS_{t-1}
// over V. These need whole rows of the state and of its gradient, and nothing of other rows. dv and dgv need whole columns:
// the same of the transposed state, where v, k, gv and gk, dO and q take each other's places. So there are two walks over
// lines: over rows and over columns.
//
// The gradients of gates are products of the two states themselves, never sums of differences over tokens: nothing
// drifts with T, and nothing cancels where next to nothing passes a gate. A walk that has to give them therefore goes back over
// states that it has passed on the way there: it leaves one in memory before every segment, makes those before the segment's
// chunks from that again, and from each of these, in registers, those between the tokens of the chunk.
#pragma once

#include "backward_args.h"
#include "channel_group.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "line_walk_layout.h"
#include "sequence.cuh"

namespace gla {

/// A warp owns some lines of one state from the first token to the last and back; `lanes` lanes share a line, each with every
/// lanes-th group of 4 of its channels. Warps never meet, and what a thread leaves in memory only it reads.
template <class Config, bool kOfKeys, class GateGradient>
class LineWalk {
 public:
  GLA_DEVICE explicit LineWalk(const BackwardArgs& backward_args) : args(backward_args) {}

  GLA_DEVICE void run() {
    if (!find_work()) return;
    const bool gates = kLineGate && (kOfKeys ? args.dgk : args.dgv).data != nullptr;
    const bool queries = kOfKeys && args.dq.data != nullptr;
    const bool state = kContiguous && args.d_initial_state != nullptr;
    if (gates || queries) go_forward(gates, queries);
    if (!gates && !state && d_line().data == nullptr) return;
    load_state(d_lines, args.d_final_state);
    for (Index chunk = divided_up(sequence.length, kChunk) - 1; chunk >= 0; --chunk) {
      if (gates) {
        // The way there has left the chunks of the last segment.
        const Index behind = (chunk + 1) * kChunk;
        if (behind % args.segment_tokens == 0 && behind < sequence.length)
          pass_again(behind / args.segment_tokens - 1);
        go_back<true>(chunk);
      } else {
        go_back<false>(chunk);
      }
    }
    if constexpr (kContiguous) {
      if (state) store_state();
    }
  }

 private:
  static constexpr int kLines = kOfKeys ? Config::head_dim_k : Config::head_dim_v;
  static constexpr int kAcross = kOfKeys ? Config::head_dim_v : Config::head_dim_k;  // channels of a line
  static constexpr bool kLineGate = kOfKeys ? Config::gate_k : Config::gate_v;
  static constexpr bool kAcrossGate = kOfKeys ? Config::gate_v : Config::gate_k;
  static constexpr bool kContiguous = kOfKeys != Config::state_v_first;  // a line is a row of memory
  static constexpr LineWalkShape kShape{kLines, kAcross, Config::lanes, Config::rows};
  static constexpr int kGroup = Config::group, kLanes = Config::lanes, kRows = Config::rows;
  static constexpr int kQuads = kShape.quads(), kTiles = kShape.tiles();
  static constexpr int kChunk = Config::chunk;
  static constexpr bool kWholeLines = kLines % kShape.warp_lines() == 0;
  static constexpr bool kWholeAcross = kAcross % (4 * kLanes) == 0;
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  template <class T>
  using LineGroup = ChannelGroup<T, kRows, kLines, kWholeLines>;
  template <class T>
  using AcrossGroup = ChannelGroup<T, 4, kAcross, kWholeAcross>;

  /// A lane's part of the warp's lines.
  struct Lines {
    float values[kQuads][kRows][4];
  };
  /// What one token brings to one lane.
  struct Inputs {
    float line[kRows], line_decay[kRows];
    float across[kQuads][4], across_decay[kQuads][4];
  };

  const BackwardArgs& args;
  Sequence sequence;
  Index n = 0, head = 0, tile = 0;
  int lane_across = 0, first_line = 0;
  Lines d_lines;  // of dS_t, then of G_t

  GLA_DEVICE bool find_work() {
    const Index work = block_index() * Config::warps + warp_index();
    tile = work % kTiles;
    head = work / kTiles % args.heads;
    n = work / kTiles / args.heads;
    if (n >= args.sequences) return false;
    sequence = sequence_of(args, n);
    lane_across = lane_index() % kLanes;
    first_line = static_cast<int>(tile) * kShape.warp_lines() + lane_index() / kLanes * kRows;
    return true;
  }

  GLA_DEVICE static Index divided_up(Index number, Index by) { return (number + by - 1) / by; }
  GLA_DEVICE int channel(int quad) const { return (quad * kLanes + lane_across) * 4; }
  GLA_DEVICE Index token(Index step) const { return Config::reverse ? sequence.length - 1 - step : step; }

  // Which tensor is which, of a walk over rows and of one over columns.
  GLA_DEVICE const Tensor& line_query() const { return kOfKeys ? args.q : args.d_o; }
  GLA_DEVICE const Tensor& across_query() const { return kOfKeys ? args.d_o : args.q; }
  GLA_DEVICE const Tensor& d_line() const { return kOfKeys ? args.dk : args.dv; }

  // ---- states ---------------------------------------------------------------------------------------------------

  GLA_DEVICE Index state_offset() const { return (n * args.heads + head) * kLines * kAcross; }

  GLA_DEVICE void load_state(Lines& lines, const float* states) const {
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      if constexpr (kContiguous) {
        GLA_UNROLL
        for (int row = 0; row < kRows; ++row) {
          const int line = first_line + row;
          clear(lines.values[quad][row]);
          if (states != nullptr && (kWholeLines || line < kLines))
            AcrossGroup<float>::load(lines.values[quad][row],
                                     states + state_offset() + static_cast<Index>(line) * kAcross,
                                     channel(quad));
        }
      } else {
        GLA_UNROLL
        for (int c = 0; c < 4; ++c) {
          const int across = channel(quad) + c;
          float values[kRows] = {};
          if (states != nullptr && (kWholeAcross || across < kAcross))
            LineGroup<float>::load(values, states + state_offset() + static_cast<Index>(across) * kLines,
                                   first_line);
          GLA_UNROLL
          for (int row = 0; row < kRows; ++row) lines.values[quad][row][c] = values[row];
        }
      }
    }
  }

  GLA_DEVICE void store_state() const {
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      GLA_UNROLL
      for (int row = 0; row < kRows; ++row) {
        const int line = first_line + row;
        if (kWholeLines || line < kLines)
          AcrossGroup<float>::store(
              args.d_initial_state + state_offset() + static_cast<Index>(line) * kAcross, channel(quad),
              d_lines.values[quad][row]);
      }
    }
  }

  GLA_DEVICE static void clear(float (&values)[4]) {
    GLA_UNROLL
    for (int c = 0; c < 4; ++c) values[c] = 0;
  }

  using Quad = Vector<float, 4>;

  /// Where the lane's part of the state in a slot begins; the parts of a warp's lanes alternate.
  GLA_DEVICE Quad* slot(Index index) const {
    return reinterpret_cast<Quad*>(args.segment_states) +
           ((index * args.heads + head) * kTiles + tile) * (kShape.warp_floats() / 4) + lane_index();
  }
  // The slots of all sequences for chunks, then those for segments, if a sequence can have more than one.
  GLA_DEVICE Index chunk_slots() const {
    return line_walk_chunk_slots(args.tokens, args.segment_tokens, kChunk);
  }
  GLA_DEVICE Quad* chunk_slot(Index first_token) const {
    return slot(n * chunk_slots() + first_token % args.segment_tokens / kChunk);
  }
  GLA_DEVICE Quad* segment_slot(Index segment) const {
    return slot(args.sequences * chunk_slots() + first_segment_slot(args, n) + segment);
  }

  GLA_DEVICE static void leave(Quad* to, const Lines& lines) {
    GLA_UNROLL
    for (int i = 0; i < kQuads * kRows; ++i) {
      const float(&values)[4] = lines.values[i / kRows][i % kRows];
      to[i * kWarpSize] = {values[0], values[1], values[2], values[3]};
    }
  }
  GLA_DEVICE static void fetch(Lines& lines, const Quad* from) {
    GLA_UNROLL
    for (int i = 0; i < kQuads * kRows; ++i) {
      const Quad quad = from[i * kWarpSize];
      GLA_UNROLL
      for (int c = 0; c < 4; ++c) lines.values[i / kRows][i % kRows][c] = quad.item[c];
    }
  }

  // ---- there ----------------------------------------------------------------------------------------------------

  template <int Count>
  GLA_DEVICE static void make_decays(float (&gates)[Count]) {
    GLA_UNROLL
    for (int i = 0; i < Count; ++i) gates[i] = exp2_fast(gates[i] * kLog2E);
  }

  GLA_DEVICE void load_inputs(Inputs& inputs, Index t) const {
    const Tensor& line = kOfKeys ? args.k : args.v;
    const Tensor& across = kOfKeys ? args.v : args.k;
    const Tensor& line_gate = kOfKeys ? args.gk : args.gv;
    const Tensor& across_gate = kOfKeys ? args.gv : args.gk;
    load_lines(inputs.line, row_of<const Element>(line, sequence, t, head));
    load_across(inputs.across, row_of<const Element>(across, sequence, t, head));
    if constexpr (kLineGate) {
      load_lines(inputs.line_decay, row_of<const Gate>(line_gate, sequence, t, head));
      make_decays(inputs.line_decay);
    }
    if constexpr (kAcrossGate) {
      load_across(inputs.across_decay, row_of<const Gate>(across_gate, sequence, t, head));
      GLA_UNROLL
      for (int quad = 0; quad < kQuads; ++quad) make_decays(inputs.across_decay[quad]);
    }
  }

  template <class T>
  GLA_DEVICE void load_lines(float (&values)[kRows], const T* row) const {
    GLA_UNROLL
    for (int i = 0; i < kRows; ++i) values[i] = 0;
    LineGroup<T>::load(values, row, first_line);
  }
  template <class T>
  GLA_DEVICE void load_across(float (&values)[kQuads][4], const T* row) const {
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) AcrossGroup<T>::load(values[quad], row, channel(quad));
  }

  /// Calls use(value, quad, row, c) for the lane's part of the warp's lines.
  template <class Use>
  GLA_DEVICE static void each(Lines& lines, Use use) {
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      GLA_UNROLL
      for (int row = 0; row < kRows; ++row) {
        GLA_UNROLL
        for (int c = 0; c < 4; ++c) use(lines.values[quad][row][c], quad, row, c);
      }
    }
  }

  GLA_DEVICE static void decay(Lines& lines, const Inputs& inputs) {
    each(lines, [&](float& value, int quad, int row, int c) {
      if constexpr (kLineGate) value *= inputs.line_decay[row];
      if constexpr (kAcrossGate) value *= inputs.across_decay[quad][c];
    });
  }
  GLA_DEVICE static void add_product(Lines& lines, const float (&line)[kRows],
                                     const float (&across)[kQuads][4]) {
    each(lines, [&](float& value, int quad, int row, int c) { value += line[row] * across[quad][c]; });
  }
  GLA_DEVICE static void advance(Lines& lines, const Inputs& inputs) {
    decay(lines, inputs);
    add_product(lines, inputs.line, inputs.across);
  }

  /// Of each line, the sum over its channels of what term(value, quad, row, c) makes of them, times `factor`, to a token's row
  /// of an output.
  template <class T, class Term>
  GLA_DEVICE void write_sums(const Tensor& output, Index t, Index output_head, Lines& lines, float factor,
                             Term term) const {
    float sums[kRows] = {};
    each(lines, [&](float value, int quad, int row, int c) { sums[row] += term(value, quad, row, c); });
    GLA_UNROLL
    for (int row = 0; row < kRows; ++row) sums[row] = factor * sum_lanes<kLanes>(sums[row]);
    if (lane_across == 0) LineGroup<T>::store(row_of<T>(output, sequence, t, output_head), first_line, sums);
  }

  GLA_DEVICE void write_queries(Lines& lines, Index t) const {
    for (Index query_head = head * kGroup; query_head < (head + 1) * kGroup; ++query_head) {
      float d_o[kQuads][4];
      load_across(d_o, row_of<const Element>(args.d_o, sequence, t, query_head));
      write_sums<Element>(args.dq, t, query_head, lines, args.scale,
                          [&](float value, int quad, int, int c) { return value * d_o[quad][c]; });
    }
  }

  /// Over tokens from `first` to `end`, which there must be, with the states before chunks to their slots if there are `gates`
  /// to come back for.
  GLA_DEVICE void pass(Lines& lines, Index first, Index end, bool gates, bool queries) const {
    Inputs ahead;
    load_inputs(ahead, token(first));
    for (Index step = first; step < end; ++step) {
      if (gates && step % kChunk == 0 && step > 0) leave(chunk_slot(step), lines);
      const Inputs now = ahead;
      if (step + 1 < end) load_inputs(ahead, token(step + 1));
      advance(lines, now);
      if (queries) write_queries(lines, token(step));
    }
  }

  GLA_DEVICE void go_forward(bool gates, bool queries) const {
    Lines lines;
    load_state(lines, static_cast<const float*>(args.initial_state));
    const Index step = gates ? args.segment_tokens : sequence.length;
    for (Index first = 0; first < sequence.length; first += step) {
      if (first > 0) leave(segment_slot(first / step), lines);
      const Index end = first + step;
      pass(lines, first, end < sequence.length ? end : sequence.length, gates, queries);
    }
  }

  // ---- and back -------------------------------------------------------------------------------------------------

  /// For the states before the chunks of a segment that is not the last.
  GLA_DEVICE void pass_again(Index segment) const {
    Lines lines;
    if (segment == 0) {
      load_state(lines, static_cast<const float*>(args.initial_state));
    } else {
      fetch(lines, segment_slot(segment));
    }
    pass(lines, segment * args.segment_tokens, (segment + 1) * args.segment_tokens, true, false);
  }

  template <bool kGates>
  GLA_DEVICE void go_back(Index chunk) {
    const Index first = chunk * kChunk;
    const Index rest = sequence.length - first;
    const int count = rest < kChunk ? static_cast<int>(rest) : kChunk;
    Lines before[kGates ? kChunk : 1];  // each token
    if constexpr (kGates) {
      if (chunk == 0) {
        load_state(before[0], static_cast<const float*>(args.initial_state));
      } else {
        fetch(before[0], chunk_slot(first));
      }
      GLA_UNROLL
      for (int i = 1; i < kChunk; ++i) {
        if (i >= count) break;
        Inputs inputs;
        load_inputs(inputs, token(first + i - 1));
        before[i] = before[i - 1];
        advance(before[i], inputs);
      }
    }
    GLA_UNROLL
    for (int i = kChunk - 1; i >= 0; --i) {
      if (i < count) go_back_over(token(first + i), kGates ? &before[kGates ? i : 0] : nullptr);
    }
  }

  /// `before`: S_{t-1}, or null where the gates' gradients are not wanted.
  GLA_DEVICE void go_back_over(Index t, const Lines* before) {
    Inputs inputs;
    load_inputs(inputs, t);
    for (Index query_head = head * kGroup; query_head < (head + 1) * kGroup; ++query_head) {
      float line[kRows], across[kQuads][4];
      load_lines(line, row_of<const Element>(line_query(), sequence, t, query_head));
      load_across(across, row_of<const Element>(across_query(), sequence, t, query_head));
      GLA_UNROLL
      for (int row = 0; row < kRows; ++row) line[row] *= args.scale;
      add_product(d_lines, line, across);
    }
    if (d_line().data != nullptr)
      write_sums<Element>(d_line(), t, head, d_lines, 1.0f,
                          [&](float value, int quad, int, int c) { return value * inputs.across[quad][c]; });
    decay(d_lines, inputs);
    if constexpr (kLineGate) {
      if (before != nullptr)
        write_sums<GateGradient>(
            kOfKeys ? args.dgk : args.dgv, t, head, d_lines, 1.0f,
            [&](float value, int quad, int row, int c) { return value * before->values[quad][row][c]; });
    }
  }
};

template <class Config, bool kOfKeys, class GateGradient = typename Config::Gate>
GLA_DEVICE void line_walk(const BackwardArgs& args) {
  LineWalk<Config, kOfKeys, GateGradient>(args).run();
}

}  // namespace gla
