// recurrent_backward: the gradients of recurrent_forward's inputs by the chain rule as it stands, token by token in fp32.
// With dS_t the gradient of S_t by what follows token t, and G_t = dS_t + scale q_t dO_t^T that by its output too,
//   dq_t = scale S_t dO_t     dk_t = G_t v_t     dS_{t-1} = diag(exp gk_t) G_t diag(exp gv_t)     dgk_t = sums of S_{t-1} (.) dS_{t-1}
// over V. These need whole rows of the state and of its gradient, and nothing of other rows. dv and dgv need whole columns:
// the same of the transposed state, where v, k, gv and gk, dO and q take each other's places. So there are two walks over
// lines: over rows and over columns. Each goes forward in time with the state and back with its gradient.
//
// The gradients of gates are products of the two states themselves, never sums of differences over tokens: nothing
// drifts with T, and nothing cancels where next to nothing passes a gate. A walk that has to give them therefore goes back over
// states that it has passed on the way there: it leaves one in memory before every segment but the first, makes those before the segment's
// chunks from that again, and from each of these, in registers, those between the tokens of the chunk.
#pragma once

#include "device/launch.cuh"
#include "line_inputs.cuh"

namespace gla {

/// A warp owns some lines of one state from the first token to the last and back. Warps never meet, and what a thread leaves in
/// memory only it reads.
template <class Config, bool kOfKeys, class GateGradient>
class LineWalk : LineInputs<Config, kOfKeys> {
 public:
  GLA_DEVICE explicit LineWalk(const BackwardArgs& backward_args) : Base(backward_args) {}

  GLA_DEVICE void run() {
    if (!find_work()) return;
    const bool gates = kLineGate && (kOfKeys ? args.dgk : args.dgv).data != nullptr;
    const bool queries = kOfKeys && args.dq.data != nullptr;
    const bool state = kContiguous && args.d_initial_state != nullptr;
    const bool back = gates || state || d_line().data != nullptr;
    if (gates && sequence.length > 0) {
      if constexpr (kLineGate) walk_segments(queries);
    } else {
      walk_once(queries, back);
    }
    if constexpr (kContiguous) {
      if (state) store_state();
    }
  }

 private:
  using Base = LineInputs<Config, kOfKeys>;
  using Base::args, Base::sequence, Base::n, Base::head, Base::tile, Base::lane_across, Base::first_line;
  using Base::kLines, Base::kAcross, Base::kLineGate, Base::kAcrossGate, Base::kLanes, Base::kRows;
  using Base::kOneQuery, Base::find_work, Base::channel, Base::token, Base::each_query;
  using Base::kShape, Base::kQuads, Base::kTiles, Base::kUnit, Base::kWholeLines, Base::kWholeAcross;
  using Base::start_unit, Base::await_unit, Base::end_unit, Base::read;
  using typename Base::Element, typename Base::Gate, typename Base::Stretch, typename Base::Token;
  static constexpr bool kContiguous = kOfKeys != Config::state_v_first;  // a line is a row of memory
  static constexpr int kChunk = Config::chunk;
  static constexpr int kQuerySums = kOneQuery ? kChunk : 1;  // tokens whose sums are made at once
  static_assert(kUnit % kChunk == 0);
  template <class T>
  using LineGroup = ChannelGroup<T, kRows, kLines, kWholeLines>;
  template <class T>
  using AcrossGroup = ChannelGroup<T, 4, kAcross, kWholeAcross>;
  template <class T>
  using HeldLines = HeldChannels<T, kRows>;
  template <class T>
  using HeldAcross = HeldChannels<T, 4>;

  /// A lane's part of the warp's lines.
  struct Lines {
    float values[kQuads][kRows][4];
  };

  Lines d_lines;  // of dS_t, then of G_t

  GLA_DEVICE const Tensor& d_line() const { return kOfKeys ? args.dk : args.dv; }

  // ---- the way --------------------------------------------------------------------------------------------------

  /// Without gates' gradients.
  GLA_DEVICE void walk_once(bool queries, bool back) {
    const Stretch all{0, static_cast<int>(sequence.length)};
    if constexpr (kOfKeys) {
      if (queries) {
        Lines lines;
        load_state(lines, static_cast<const float*>(args.initial_state));
        pass(lines, all, true, false);
      }
    }
    if (!back) return;
    load_state(d_lines, args.d_final_state);
    if (!(kOfKeys && queries)) {
      start_unit(all, all.units() - 1, true);
      start_unit(all, all.units() - 2, true);
    }
    go_back<false>(all, 0);
  }

  /// There over all segments, and back from the last; over the others it goes once more before it goes back.
  GLA_DEVICE void walk_segments(bool queries) {
    const int tokens = static_cast<int>(args.segment_tokens);
    const int segments = static_cast<int>((sequence.length + tokens - 1) / tokens);
    for (int visit = 0; visit < 2 * segments - 1; ++visit) {
      const bool again = visit >= segments;
      const int segment = again ? 2 * segments - 2 - visit : visit;
      const Index first = static_cast<Index>(segment) * tokens, rest = sequence.length - first;
      const Stretch stretch{first, rest < tokens ? static_cast<int>(rest) : tokens};
      // The state before the segment behind has been used: the gradient takes its place.
      if (again) leave(segment_slot(segment + 1), d_lines);
      Lines lines;
      load_segment(lines, segment);
      const bool turns = visit + 1 >= segments;
      pass(lines, stretch, queries && !again, turns);
      if (!turns) {
        leave(segment_slot(segment + 1), lines);
        continue;
      }
      if (again) {
        fetch(d_lines, segment_slot(segment + 1));
      } else {
        load_state(d_lines, args.d_final_state);
      }
      go_back<true>(stretch, segment);
    }
  }

  /// The state before a segment.
  GLA_DEVICE void load_segment(Lines& lines, int segment) const {
    if (segment > 0) {
      fetch(lines, segment_slot(segment));
    } else {
      load_state(lines, static_cast<const float*>(args.initial_state));
    }
  }

  // ---- states ---------------------------------------------------------------------------------------------------

  GLA_DEVICE Index state_offset() const {
    return (static_cast<Index>(n) * args.heads + head) * kLines * kAcross;
  }

  GLA_DEVICE void load_state(Lines& lines, const float* states) const {
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      if constexpr (kContiguous) {
        GLA_UNROLL
        for (int row = 0; row < kRows; ++row) {
          const int line = first_line + row;
          for (float& value : lines.values[quad][row]) value = 0;
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

  using Quad = Vector<float, 4>;

  // The workspace's slots: of all sequences those for chunks, unless shared memory has them, then those for segments; first of
  // rows, then of columns, if both have gates.

  /// Where the lane's part of the state in a slot begins; the parts of a warp's lanes alternate.
  GLA_DEVICE Quad* slot(Index index) const {
    Quad* slots = reinterpret_cast<Quad*>(args.segment_states);
    if constexpr (!kOfKeys && Config::gate_k)
      slots += line_walk_slots(args.sequences, args.tokens, is_packed(), args.segment_tokens, kChunk) *
               args.heads * (kKeyShape.state_floats() / 4);
    return slots + ((index * args.heads + head) * kTiles + tile) * (kShape.warp_floats() / 4) + lane_index();
  }
  static constexpr LineWalkShape kKeyShape{
      .lines = Config::head_dim_k, .across = Config::head_dim_v, .lanes = kLanes, .rows = kRows};

  GLA_DEVICE bool is_packed() const { return args.cu_seqlens != nullptr; }
  GLA_DEVICE bool shares_chunks() const { return args.segment_tokens <= kLineSharedChunks * kChunk; }
  GLA_DEVICE int chunk_slots() const {
    return static_cast<int>(line_walk_chunk_slots(args.tokens, args.segment_tokens, kChunk));
  }
  /// Of a chunk that is not a segment's first: so many of its tokens are ahead of it.
  GLA_DEVICE Quad* chunk_slot(int tokens_ahead) const {
    const int index = tokens_ahead / kChunk - 1;
    if (!shares_chunks()) return slot(static_cast<Index>(n) * chunk_slots() + index);
    return reinterpret_cast<Quad*>(shared_memory() + Config::warps * 2 * kShape.unit_bytes()) +
           (warp_index() * chunk_slots() + index) * (kShape.warp_floats() / 4) + lane_index();
  }
  /// Of a segment that is not a sequence's first.
  GLA_DEVICE Quad* segment_slot(int segment) const {
    const Index tokens = is_packed() ? sequence.begin : args.tokens;
    return slot(line_walk_all_chunk_slots(args.sequences, args.tokens, args.segment_tokens, kChunk) +
                line_walk_segment_slots(n, tokens, is_packed(), args.segment_tokens) + segment - 1);
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

  // ---- arithmetic -----------------------------------------------------------------------------------------------

  /// Calls use(value, quad, row, c) for the lane's part of the warp's lines.
  template <class SomeLines, class Use>
  GLA_DEVICE static void each(SomeLines& lines, Use use) {
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad) {
      GLA_UNROLL
      for (int row = 0; row < kRows; ++row) {
        GLA_UNROLL
        for (int c = 0; c < 4; ++c) use(lines.values[quad][row][c], quad, row, c);
      }
    }
  }

  GLA_DEVICE static float decay_of(float gate) { return exp2_fast(gate * kLog2E); }

  GLA_DEVICE static void decay(Lines& lines, const Token& one) {
    if constexpr (kLineGate) {
      float decays[kRows];
      GLA_UNROLL
      for (int row = 0; row < kRows; ++row) decays[row] = decay_of(one.line_gate[row]);
      each(lines, [&](float& value, int, int row, int) { value *= decays[row]; });
    }
    if constexpr (kAcrossGate) {
      float decays[kQuads][4];
      GLA_UNROLL
      for (int i = 0; i < 4 * kQuads; ++i) decays[i / 4][i % 4] = decay_of(one.across_gate[i / 4][i % 4]);
      each(lines, [&](float& value, int quad, int, int c) { value *= decays[quad][c]; });
    }
  }

  /// lines += factor * line across^T.
  GLA_DEVICE static void add_product(Lines& lines, const HeldLines<Element>& line, float factor,
                                     const HeldAcross<Element> (&across)[kQuads]) {
    float scaled[kRows];
    GLA_UNROLL
    for (int row = 0; row < kRows; ++row) scaled[row] = factor * line[row];
    each(lines, [&](float& value, int quad, int row, int c) { value += scaled[row] * across[quad][c]; });
  }

  GLA_DEVICE static void advance(Lines& lines, const Token& one) {
    decay(lines, one);
    add_product(lines, one.line, 1.0f, one.across);
  }

  /// sums[row] += the sum over the lane's channels of the row's products with those of `other`.
  template <class Other>
  GLA_DEVICE static void add_dots(float (&sums)[kRows], const Lines& lines, Other other) {
    each(lines, [&](float value, int quad, int row, int c) { sums[row] += value * other(quad, row, c); });
  }

  template <int kTokens>
  GLA_DEVICE static void clear(float (&sums)[kTokens][kRows]) {
    GLA_UNROLL
    for (int i = 0; i < kTokens * kRows; ++i) sums[i / kRows][i % kRows] = 0;
  }

  /// Adds up what the lanes of a line have of the sums of `kTokens` tokens, and shares the tokens out among those lanes. Of the
  /// tokens from the one returned on, the first kTokens / kLanes, one at the least, are then the lane's; where there are
  /// more lanes than tokens, several have the same.
  template <int kTokens>
  GLA_DEVICE int share_out(float (&sums)[kTokens][kRows]) const {
    int first = 0, tokens = kTokens;
    GLA_UNROLL
    for (int mask = kLanes / 2; mask > 0; mask /= 2) {
      if (tokens > 1) {
        tokens /= 2;
        const bool upper = (lane_across & mask) != 0;
        if (upper) first += tokens;
        GLA_UNROLL
        for (int i = 0; i < tokens; ++i) {
          GLA_UNROLL
          for (int row = 0; row < kRows; ++row) {
            const float low = sums[i][row], high = sums[i + tokens][row];
            sums[i][row] = (upper ? high : low) + shuffle_xor(upper ? low : high, mask);
          }
        }
      } else {
        GLA_UNROLL
        for (int row = 0; row < kRows; ++row) sums[0][row] += shuffle_xor(sums[0][row], mask);
      }
    }
    return first;
  }

  /// Calls use(i, sums) once for each of the first `count` tokens that have been summed, in one lane of each line.
  template <int kTokens, class Use>
  GLA_DEVICE void each_sum(float (&sums)[kTokens][kRows], int count, Use use) const {
    constexpr int kHeld = kTokens > kLanes ? kTokens / kLanes : 1;
    constexpr int kCopies = kTokens > kLanes ? 1 : kLanes / kTokens;
    const int own = share_out(sums);
    if (lane_across % kCopies != 0) return;
    GLA_UNROLL
    for (int i = 0; i < kHeld; ++i)
      if (own + i < count) use(own + i, sums[i]);
  }

  // ---- there ----------------------------------------------------------------------------------------------------

  /// Over a stretch; over rows it writes dq if `queries`. If it `turns`, with gates to come back for, the states before chunks but
  /// the first go to their slots. Then, or over rows, the last two units are there afterwards.
  GLA_DEVICE void pass(Lines& lines, const Stretch& stretch, bool queries, bool turns) const {
    const int last_two = stretch.units() - 2;
    start_unit(stretch, 0, kOfKeys || (turns && last_two <= 0));
    for (int unit = 0; unit < stretch.units(); ++unit) {
      start_unit(stretch, unit + 1, kOfKeys || (turns && unit + 1 >= last_two));
      await_unit();
      GLA_UNROLL_BY(1)
      for (int at = unit * kUnit; at < (unit + 1) * kUnit && at < stretch.count; at += kChunk) {
        if (turns && at > 0) leave(chunk_slot(at), lines);
        pass_chunk(lines, stretch, at, queries);
      }
      end_unit();
    }
  }

  GLA_DEVICE void pass_chunk(Lines& lines, const Stretch& stretch, int at, bool queries) const {
    const Index start = stretch.first + at;
    const int count = stretch.count - at;
    float sums[kQuerySums][kRows];
    clear(sums);
    GLA_UNROLL
    for (int i = 0; i < kChunk; ++i) {
      if (i >= count) break;
      Token one;
      read(one, at + i, kOfKeys);
      advance(lines, one);
      if (!queries) continue;
      each_query(one, token(start + i),
                 [&](int query_head, const HeldLines<Element>&, const HeldAcross<Element>(&across)[kQuads]) {
                   add_dots(sums[kOneQuery ? i : 0], lines,
                            [&](int quad, int, int c) { return across[quad][c]; });
                   if constexpr (kOneQuery) return;
                   write_sums<Element>(args.dq, query_head, args.scale, sums, start + i, 1);
                   clear(sums);
                 });
    }
    if (kOneQuery && queries) write_sums<Element>(args.dq, head, args.scale, sums, start, count);
  }

  // ---- and back -------------------------------------------------------------------------------------------------

  /// Over a stretch, whose last two units are there, or coming, the last one first. kGates: with gates' gradients, for which the
  /// way there over this segment has left the states before its chunks.
  template <bool kGates>
  GLA_DEVICE void go_back(const Stretch& stretch, int segment) {
    for (int unit = stretch.units() - 1; unit >= 0; --unit) {
      await_unit();
      GLA_UNROLL_BY(1)
      for (int at = (unit + 1) * kUnit - kChunk; at >= unit * kUnit; at -= kChunk) {
        if (at >= stretch.count) continue;
        if constexpr (kGates) {
          Lines before[kChunk];  // each token
          if (at > 0) {
            fetch(before[0], chunk_slot(at));
          } else {
            load_segment(before[0], segment);
          }
          make_states(before, stretch, at);
          go_back_over<true>(stretch, at, before);
        } else {
          go_back_over<false>(stretch, at, nullptr);
        }
      }
      end_unit();
      start_unit(stretch, unit - 2, true);
    }
  }

  /// From the state before a chunk those before its other tokens.
  GLA_DEVICE void make_states(Lines (&before)[kChunk], const Stretch& stretch, int at) const {
    GLA_UNROLL
    for (int i = 1; i < kChunk; ++i) {
      if (at + i >= stretch.count) break;
      Token one;
      read(one, at + i - 1, false);
      before[i] = before[i - 1];
      advance(before[i], one);
    }
  }

  /// Over the tokens of a chunk. `before`: S_{t-1} of each, or null.
  template <bool kGates>
  GLA_DEVICE void go_back_over(const Stretch& stretch, int at, const Lines* before) {
    const Index start = stretch.first + at;
    const int count = stretch.count - at;
    float sums[kChunk][kRows], gate_sums[kGates ? kChunk : 1][kRows];
    clear(sums);
    clear(gate_sums);
    GLA_UNROLL
    for (int i = kChunk - 1; i >= 0; --i) {
      if (i >= count) continue;
      Token one;
      read(one, at + i, true);
      each_query(one, token(start + i),
                 [&](int, const HeldLines<Element>& line, const HeldAcross<Element>(&across)[kQuads]) {
                   add_product(d_lines, line, args.scale, across);
                 });
      add_dots(sums[i], d_lines, [&](int quad, int, int c) { return one.across[quad][c]; });
      decay(d_lines, one);
      if constexpr (kGates)
        add_dots(gate_sums[i], d_lines,
                 [&](int quad, int row, int c) { return before[i].values[quad][row][c]; });
    }
    if (d_line().data != nullptr) write_sums<Element>(d_line(), head, 1.0f, sums, start, count);
    if constexpr (kGates)
      write_sums<GateGradient>(kOfKeys ? args.dgk : args.dgv, head, 1.0f, gate_sums, start, count);
  }

  /// The sums of a head's first `count` tokens from `start` on, times `factor`.
  template <class T, int kTokens>
  GLA_DEVICE void write_sums(const Tensor& output, int of_head, float factor, float (&sums)[kTokens][kRows],
                             Index start, int count) const {
    each_sum(sums, count, [&](int i, float(&values)[kRows]) {
      GLA_UNROLL
      for (int row = 0; row < kRows; ++row) values[row] *= factor;
      LineGroup<T>::store(row_of<T>(output, sequence, token(start + i), of_head), first_line, values);
    });
  }
};

template <class Config, class GateGradient = typename Config::Gate>
GLA_DEVICE void key_line_walk(const BackwardArgs& args) {
  LineWalk<Config, true, GateGradient>(args).run();
}

/// Beside the walk over rows, if that comes right ahead.
template <class Config, class GateGradient = typename Config::Gate>
GLA_DEVICE void value_line_walk(const BackwardArgs& args) {
  const bool has_keys = args.dq.data != nullptr || args.dk.data != nullptr || args.dgk.data != nullptr ||
                        (!Config::state_v_first && args.d_initial_state != nullptr);
  run_beside(has_keys, [&args] { LineWalk<Config, false, GateGradient>(args).run(); });
}

}  // namespace gla
