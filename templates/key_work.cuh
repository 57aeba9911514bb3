// What a block and a warp have of chunk_backward's walks over key channels: tokens, channels, their rows of the state, and
// what the walks leave in memory for each other. The warps that walk are the block's first; each owns 16 key channels, with
// nobody but its fellow members, the warps that have other value channels of the same.
#pragma once

#include "backward_args.h"
#include "chunk_gates.cuh"
#include "chunk_work.cuh"
#include "key_walk_layout.h"
#include "relay.cuh"
#include "row_state.cuh"
#include "sequence.cuh"
#include "team.cuh"

namespace gla {

template <class Config, bool kForward, Pass kPass>
struct KeyWork {
  static constexpr KeyWalkShape kShape = kForward ? Config::key_walk : Config::key_walk_back;
  static constexpr bool kGoesForward = kForward;
  static constexpr int kChunk = kShape.chunk, kTileK = kShape.tile_k, kSplit = kShape.split();
  static constexpr int kK = kShape.head_dim_k, kV = kShape.head_dim_v, kPaddedV = kShape.padded_v();
  static constexpr int kColumns = kPaddedV / kSplit;  // value channels of a warp
  static constexpr int kGroupWarps = kShape.group_warps(), kFinishers = kShape.finishers();
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  /// Whether walks may be cut into legs.
  static constexpr bool kRelays = kPass == Pass::whole;
  /// Which side is loaded: what goes into the state, and for outputs both.
  static constexpr bool kQueries = !kForward || kOutputs;
  static constexpr bool kKeys = kForward || kOutputs;
  static constexpr int kHeads = kQueries ? Config::group : 1;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  /// Whether what the walks leave for each other of a gate's gradient is a sum of two, for want of bits.
  static constexpr bool kSplitsFlows = kShape.gate_gradient_bytes() == 2;
  static_assert(kTileK % 16 == 0 && 16 * kShape.warps % kTileK == 0);
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  using GateGradient = typename Select<kShape.fp32_gate_gradients, float, Gate>::type;
  using Team = gla::Team<0, kShape.warps, 0>;  ///< the warps that walk
  using Gates = ChunkGates<Config, ChunkTiles<Config::shape, Element, Gate>, Team>;

  const BackwardArgs& args;
  unsigned char* const shared = shared_memory();
  Sequence sequence{};
  Piece piece{};               ///< of segments
  Index n = 0, walk_slot = 0;  ///< of the states between passes
  int head = 0, tile = 0;
  Index first = 0, tokens = 0;  ///< of the walk, in tokens of the sequence
  Index first_token = 0;        ///< of the chunk
  bool is_last = true;          ///< in time
  int member;                   ///< which one the warp is of those that share its key channels
  RowState<kColumns> state;
  float flow[2] = {};   ///< D of the lane's channels
  float decay[2] = {};  ///< of the walk, log2

  GLA_DEVICE explicit KeyWork(const BackwardArgs& backward_args)
      : args(backward_args), member(group() % kSplit) {
    // A vote tells the compiler that it is the same in all of the warp: addresses of products come from it.
    if constexpr (kFinishers == 2) member = warp_any(member > 0) ? 1 : 0;
  }

  /// False if there is none for this block.
  GLA_DEVICE bool find_work() {
    constexpr int kTiles = (kK + kTileK - 1) / kTileK;
    Index block = block_index();
    Leg own;
    if constexpr (kRelays) {
      own = take_leg(relay(), turn());
      block = own.chain;
    }
    tile = static_cast<int>(block % kTiles);
    block /= kTiles;
    head = static_cast<int>(block % args.heads);
    block /= args.heads;
    n = block;
    if constexpr (kPass != Pass::whole) {
      piece = piece_of<!kOutputs, !kForward>(args, block);
      if (piece.n < 0) return false;
      n = piece.n;
    }
    sequence = sequence_of(args, n);
    tokens = sequence.length;
    walk_slot = n;
    if constexpr (kRelays) {
      if (relay().legs != 0) {
        tokens = cut_out_leg(sequence, relay(), kForward ? own.index : relay().legs - 1 - own.index);
      }
    }
    if constexpr (kPass != Pass::whole) {
      walk_slot = Index{piece.first_slot} + piece.index;
      first = Index{piece.index} * args.segment_tokens;
      is_last = gla::is_last(piece);
      // Nothing follows what the walk would leave behind.
      if (!kOutputs && (kForward ? is_last : piece.index == 0)) return false;
      tokens = is_last ? sequence.length - first : args.segment_tokens;
    }
    return true;
  }
  GLA_DEVICE Index count_chunks() const { return (tokens + kChunk - 1) / kChunk; }
  /// Makes the chunk that is walked as number `step` of all the current one.
  GLA_DEVICE void open_chunk(Index step, Index of_all) {
    first_token = first + (kForward ? step : of_all - 1 - step) * kChunk;
  }
  GLA_DEVICE int rows() const {
    const Index left = first + tokens - first_token;
    return left < kChunk ? static_cast<int>(left) : kChunk;
  }

  GLA_DEVICE static int group() { return warp_index() / kGroupWarps; }
  /// Whether the warp finishes gradients; and of a chunk's tokens, the first of those for which it does.
  GLA_DEVICE bool leads() const { return kFinishers == kSplit || member == 0; }
  GLA_DEVICE int first_own() const { return kFinishers == 1 ? 0 : member * (kChunk / kFinishers); }
  /// Within the tile.
  GLA_DEVICE static int first_channel() {
    return (group() / kSplit * kGroupWarps + warp_index() % kGroupWarps) * 16;
  }
  GLA_DEVICE int first_column() const { return member * kColumns; }
  GLA_DEVICE int first_row() const { return tile * kTileK + first_channel(); }
  GLA_DEVICE int valid_rows() const { return kK - first_row(); }
  GLA_DEVICE int valid_columns() const { return kV - first_column(); }
  /// Of the tile.
  GLA_DEVICE int valid_channels() const {
    const int left = kK - tile * kTileK;
    return left < kTileK ? left : kTileK;
  }
  template <class T>
  GLA_DEVICE T* keys_of(const Tensor& tensor, Index of_head) const {
    return row_of<T>(tensor, sequence, first_token, of_head) + tile * kTileK;
  }

  // ---- the state, and what stands for it between walks and passes --------------------------------------------------

  /// The warp's part of a state in memory.
  struct StatePart {
    float* first;
    StateStrides strides;
  };
  /// Of what the caller gave, which may be nothing.
  GLA_DEVICE StatePart callers(const void* states) const {
    return part_of(states, n, state_strides(kK, kV, Config::state_v_first));
  }
  /// Of those ahead of the walk in time (states), or behind it (gradients).
  GLA_DEVICE StatePart beside(bool ahead) const {
    if (is_segment()) return segments_own(ahead ? args.segment_states : args.segment_gradients);
    return callers(ahead ? args.initial_state : args.d_final_state);
  }
  /// Whether the walk is one of several of its sequence, with states between passes.
  GLA_DEVICE bool is_segment() const { return kPass != Pass::whole && has_slots(piece); }
  /// Of those between passes.
  GLA_DEVICE StatePart segments_own(float* states) const {
    return part_of(states, walk_slot, state_strides(kK, kV, false));
  }
  GLA_DEVICE StatePart part_of(const void* states, Index at, StateStrides strides) const {
    if (states == nullptr) return {nullptr, strides};
    return {const_cast<float*>(static_cast<const float*>(states)) + (at * args.heads + head) * (kK * kV) +
                first_row() * strides.k + first_column() * strides.v,
            strides};
  }

  /// What the walk begins with, and what it leaves behind.
  GLA_DEVICE void begin() {
    StatePart from{nullptr, {}};
    if constexpr (kPass == Pass::whole) from = beside(kForward);
    if (takes_over()) {
      wait_for_hand_over(relay(), leg(), kShape.warps);
      from = segments_own(relay().states);
    }
    if constexpr (kPass == Pass::segment_outputs) from = beside(kForward);
    state.load(from.first, from.strides, valid_rows(), valid_columns());
    if constexpr (!kForward && kOutputs) {
      if (takes_over() ? !wants_flows() : !has_flow()) return;
      const float* const flows =
          takes_over() ? channels_of(relay().flows, walk_slot) : channels_of(args.flows, flow_slot());
      GLA_UNROLL
      for (int c = 0; c < 2; ++c)
        if (lane_channel(c) < valid_rows()) flow[c] = flows[lane_channel(c)];
    }
  }
  /// `add_up` adds up sums of the members, in those that lead.
  template <class AddUp>
  GLA_DEVICE void end(AddUp add_up) {
    if (kRelays && leg().index + 1 < relay().legs) {
      const StatePart to = segments_own(relay().states);
      state.store(to.first, to.strides, valid_rows(), valid_columns());
      if (!kForward && wants_flows() && leads()) store_channels(channels_of(relay().flows, walk_slot), flow);
      hand_on(relay(), leg());
    } else if constexpr (!kOutputs) {
      const StatePart to = segments_own(kForward ? args.segment_states : args.segment_gradients);
      state.store(to.first, to.strides, valid_rows(), valid_columns());
      float* const decays = kForward ? args.segment_decays : args.segment_gradient_decays;
      if (leads()) store_channels(channels_of(decays, walk_slot), decay);
    } else if constexpr (kForward) {
      if (!has_flow()) return;
      const StatePart behind = beside(false);
      float lane_sums[2] = {}, sums[1][4] = {};
      state.add_products(lane_sums, behind.first, behind.strides, valid_rows(), valid_columns());
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) sums[0][c] = sum_quad(lane_sums[c]);
      add_up(sums);
      if (leads()) store_channels(channels_of(args.flows, flow_slot()), {sums[0][0], sums[0][1]});
    }
  }
  /// The lane's channels of a vector [slots, H, K].
  GLA_DEVICE float* channels_of(float* vectors, Index slot) const {
    return vectors + (slot * args.heads + head) * kK + first_row();
  }
  GLA_DEVICE void store_channels(float* channels, const float (&values)[2]) const {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c)
      if (lane_index() % 4 == 0 && lane_channel(c) < valid_rows()) channels[lane_channel(c)] = values[c];
  }
  /// Each sequence has one, and behind those each segment that has a state.
  GLA_DEVICE Index flow_slot() const { return is_segment() ? args.sequences + walk_slot : n; }

  GLA_DEVICE const Relay& relay() const {
    if constexpr (kForward) return args.relay;
    return args.key_relay;
  }
  /// Read anew where it is needed, not kept in registers of the walk.
  GLA_DEVICE unsigned int* turn() const {
    return reinterpret_cast<unsigned int*>(shared + turn_offset(kShape, !kForward));
  }
  GLA_DEVICE Leg leg() const { return leg_of(relay(), turn()); }
  GLA_DEVICE bool takes_over() const { return kRelays && leg().index > 0; }

  GLA_DEVICE bool wants_flows() const { return kGated && args.dgk.data != nullptr; }
  /// Whether dk's memory takes one of the two for the walk back.
  GLA_DEVICE bool leaves_low_flows() const { return kForward && kSplitsFlows && wants_flows(); }
  /// Whether there is a D behind the walk: not where no gradient of the final state is given.
  GLA_DEVICE bool has_flow() const {
    return wants_flows() && (is_segment() || args.d_final_state != nullptr);
  }
};

}  // namespace gla
