// What a block of a chunk kernel works on: one (sequence, key/value head, V tile), or one segment of it, from its first
// token to its last. The blocks of a cluster share one, each with its key channels. Overlapping segments need nothing of each
// other: a block first walks all chunks ahead of its own for the state alone.
#pragma once

#include "args.h"
#include "chunk_layout.h"
#include "chunk_state.cuh"
#include "device/launch.cuh"
#include "device/thread.cuh"
#include "relay.cuh"
#include "sequence.cuh"

namespace gla {

enum class Pass { whole, overlapped, segment_states, segment_outputs };

template <class Config, Pass kPass>
struct ChunkWork {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  /// Segments have states of their own in memory.
  static constexpr bool kKeepsStates = kPass == Pass::segment_states || kPass == Pass::segment_outputs;
  static constexpr bool kLeads = kPass == Pass::overlapped;
  /// Whether walks may be cut into legs.
  static constexpr bool kRelays = kPass == Pass::whole && kShape.cluster == 1;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  static constexpr int kTileV = kShape.tile_v;
  /// Blocks of other query heads.
  static constexpr int kGroupTiles =
      kOutputs && !kShape.value_gradients ? Config::group / kShape.group_tile : 1;
  static constexpr int kTilesV = (kShape.head_dim_v + kTileV - 1) / kTileV;
  using State = ChunkState<kShape>;

  const KernelArgs& args;
  Sequence sequence{};
  Piece piece{};  ///< of segments that have states of their own
  int n = 0, head = 0, segment = 0;
  Index first = 0, tokens = 0;  ///< of the walk, in tokens of the sequence
  int lead = 0;  ///< the walk's first chunks, for the state alone; of overlapping segments only
  int first_query_head = 0, tile = 0, valid_v = 0;
  int rank = 0;  ///< of the block in its cluster
  bool writes_state = false;

  /// False if there is none for this block.
  GLA_DEVICE bool find() {
    Index block = block_index();
    Leg leg;
    if constexpr (kRelays) {
      leg = take_leg(args.relay, turn());
      block = leg.chain;
    }
    if constexpr (kShape.cluster > 1) {
      rank = static_cast<int>(block % kShape.cluster);
      block /= kShape.cluster;
    }
    tile = static_cast<int>(block % kTilesV);
    block /= kTilesV;
    const int group_tile = static_cast<int>(block % kGroupTiles);
    block /= kGroupTiles;
    head = static_cast<int>(block % args.heads);
    block /= args.heads;
    if constexpr (kKeepsStates) {
      piece = piece_of<kPass == Pass::segment_states, kShape.value_gradients>(args, block);
      if (piece.n < 0) return false;
      n = piece.n;
      segment = piece.index;
    } else if constexpr (kLeads) {
      n = static_cast<int>(block % args.sequences);
      segment = static_cast<int>(block / args.sequences);
    } else {
      n = static_cast<int>(block);
    }
    sequence = sequence_of(args, n);
    first_query_head = head * Config::group + group_tile * kShape.group_tile;
    valid_v = min_of(kTileV, kShape.head_dim_v - tile * kTileV);
    tokens = sequence.length;
    bool is_last_segment = true;
    if constexpr (kKeepsStates) {
      first = Index{segment} * args.segment_tokens;
      is_last_segment = is_last(piece);
      if (kPass == Pass::segment_states && is_last_segment) return false;  // nothing follows it
      tokens = is_last_segment ? sequence.length - first : args.segment_tokens;
    }
    if constexpr (kRelays) {
      if (args.relay.legs != 0) {
        segment = static_cast<int>(kShape.value_gradients ? args.relay.legs - 1 - leg.index : leg.index);
        is_last_segment = segment == args.relay.legs - 1;
        tokens = cut_out_leg(sequence, args.relay, segment);
      }
    }
    if constexpr (kLeads) {
      if (segment >= args.segments) return false;
      is_last_segment = segment == args.segments - 1;
      lead = static_cast<int>(overlapped_chunks(segment));
      const Index end = overlapped_chunks(segment + 1) * kShape.chunk;
      tokens = end < sequence.length ? end : sequence.length;
    }
    // One of the blocks that hold the state that the walk ends with.
    writes_state = (kShape.value_gradients ? segment == 0 : is_last_segment) && group_tile == 0;
    return !kLeads || lead < chunks() || (writes_state && args.final_state != nullptr);
  }

  GLA_DEVICE int first_k() const { return rank * kShape.padded_k(); }
  GLA_DEVICE int valid_k() const {
    const int left = kShape.head_dim_k - first_k();
    return kShape.cluster == 1 ? left : min_of(kShape.padded_k(), left);
  }
  /// Of the value channels whose outputs the block stores.
  GLA_DEVICE int first_out_v() const { return tile * kTileV + rank * kShape.out_v(); }
  GLA_DEVICE int valid_out_v() const { return valid_v - rank * kShape.out_v(); }

  GLA_DEVICE Index chunks() const { return (tokens + kShape.chunk - 1) / kShape.chunk; }
  /// Tokens that the chunk has.
  GLA_DEVICE int rows_of(Index chunk) const {
    const Index left = tokens - chunk * kShape.chunk;
    return left < kShape.chunk ? static_cast<int>(left) : kShape.chunk;
  }

  GLA_DEVICE void load_state(State& state) const {
    constexpr bool kAfterStates = kPass == Pass::segment_outputs && !kShape.value_gradients;
    const bool chains = kAfterStates && args.segments_chain != 0;
    const float* source = nullptr;
    StateStrides strides = kOwnStrides;
    // All else has begun beside the kernels just ahead. A first segment needs nothing of them, but would hold them up.
    if constexpr (kAfterStates) wait_for_earlier_kernels();
    if (kPass == Pass::segment_outputs && !chains && has_slots(piece)) {
      source = segment_state(segment);
    } else if (kRelays && leg().index > 0) {
      wait_for_hand_over(args.relay, leg(), kShape.warps());
      source = args.relay.states + state_offset();
    } else if (kOutputs) {
      strides = state_strides(kShape.head_dim_k, kShape.head_dim_v, Config::state_v_first);
      if (args.initial_state != nullptr)
        source = static_cast<const float*>(args.initial_state) + state_offset();
    }
    if (source != nullptr) source += part_offset(strides);
    state.load(source, strides, valid_k(), valid_v);
    if constexpr (kPass == Pass::segment_outputs) {
      GLA_UNROLL_BY(1)
      for (int earlier = 0; chains && earlier < segment; ++earlier) {
        if constexpr (kAsHeld) {
          state.pass_as_held(segment_state(earlier) + held_offset(), segment_decays(earlier));
        } else {
          state.pass(segment_state(earlier) + part_offset(kOwnStrides), segment_decays(earlier), kOwnStrides,
                     valid_k(), valid_v);
        }
      }
    }
  }

  /// `decay`: of the walk, in shared memory.
  GLA_DEVICE void store_state(State& state, const float* decay) const {
    float* target = nullptr;
    StateStrides strides = kOwnStrides;
    [[maybe_unused]] bool as_held = false;
    const bool hands_on = kRelays && leg().index + 1 < args.relay.legs;
    if (hands_on) target = args.relay.states + state_offset();
    if constexpr (kPass == Pass::segment_states) {
      target = segment_state(segment);
      if (tile == 0) {
        for (int i = thread_index(); i < valid_k(); i += kMultipliers)
          segment_decays(segment)[i] = kGated ? decay[i] : 0.0f;
      }
      as_held = kAsHeld && args.segments_chain != 0;
    } else if (args.final_state != nullptr && writes_state) {
      strides = state_strides(kShape.head_dim_k, kShape.head_dim_v, Config::state_v_first);
      target = static_cast<float*>(args.final_state) + state_offset();
    }
    if (as_held) {
      state.store_as_held(target + held_offset());
    } else if (target != nullptr) {
      state.store(target + part_offset(strides), strides, valid_k(), valid_v);
    }
    if (hands_on) hand_on(args.relay, leg());
  }

  /// What a chunk, whose sums over K are `last`, does to the walk's decay.
  GLA_DEVICE static void add_decay(float* decay, const float* last) {
    if constexpr (kPass == Pass::segment_states && kGated) {
      for (int i = thread_index(); i < kShape.padded_k(); i += kMultipliers) decay[i] += last[i];
    }
  }

  /// Of a chunk with outputs.
  GLA_DEVICE void count_path(bool has_pivot) const {
    if (args.path_counts != nullptr && thread_index() == 0 && tile == 0 && rank == 0 &&
        first_query_head == head * Config::group) {
      atomic_add(args.path_counts + (has_pivot ? 0 : 1), has_pivot ? 1 : kShape.blocks());
    }
  }

 private:
  /// Chunks of the sequence ahead of overlapping segment i of n. With half of a chunk's work where it is walked for the state
  /// alone, all segments take as long if each is half of the one ahead: 1 - 2^-i of 1 - 2^-n.
  GLA_DEVICE Index overlapped_chunks(int i) const {
    const int n = static_cast<int>(args.segments);
    const Index all = (Index{1} << n) - 1, ahead = (Index{1} << n) - (Index{1} << (n - i));
    const Index whole = (sequence.length + kShape.chunk - 1) / kShape.chunk;
    return (whole * ahead + all / 2) / all;
  }

  /// Read anew where it is needed, not kept in registers of the walk.
  GLA_DEVICE static unsigned int* turn() {
    return reinterpret_cast<unsigned int*>(shared_memory() + turn_offset(kShape));
  }
  GLA_DEVICE Leg leg() const { return leg_of(args.relay, turn()); }

  static constexpr int kMultipliers =
      kWarpSize * kShape.warps();  // the block's first threads, which hold the state

  GLA_DEVICE static int min_of(int a, int b) { return a < b ? a : b; }
  GLA_DEVICE Index state_offset() const {
    return (Index{n} * args.heads + head) * (kShape.head_dim_k * kShape.head_dim_v);
  }
  /// The block's part of a head's state.
  GLA_DEVICE Index part_offset(StateStrides strides) const {
    return first_k() * strides.k + tile * kTileV * strides.v;
  }
  static constexpr StateStrides kOwnStrides{kShape.head_dim_v, 1};  ///< of states of segments and legs
  /// Segments that chain themselves are the only ones to read each other's states.
  static constexpr bool kAsHeld =
      kShape.cluster * kShape.padded_k() == kShape.head_dim_k && kShape.head_dim_v % kTileV == 0;
  GLA_DEVICE int held_offset() const { return (tile * kShape.cluster + rank) * State::kElements; }
  GLA_DEVICE float* segment_state(int of_segment) const {
    return args.segment_states + slot(of_segment) * kShape.head_dim_k * kShape.head_dim_v;
  }
  /// The block's part of them.
  GLA_DEVICE float* segment_decays(int of_segment) const {
    return args.segment_decays + slot(of_segment) * kShape.head_dim_k + first_k();
  }
  /// (slot of a segment of the block's sequence, head)
  GLA_DEVICE Index slot(int of_segment) const {
    return (Index{piece.first_slot} + of_segment) * args.heads + head;
  }
};

}  // namespace gla
