// Sizes and the shared-memory layout of chunk_backward's walks over key channels, for the kernels and the host. Plain C++:
// NVRTC, the generator and the emulator compile this one file.
#pragma once

#include "chunk_layout.h"

namespace gla {

/// What a variant fixes of them. Names are those of the parameters (generator/variant.h).
struct KeyWalkShape {
  int head_dim_k, head_dim_v;
  int chunk, tile_k, warps, stages, score_parts, state_parts;
  int element_bytes;     ///< of q, k, v and their gradients
  bool element_is_bf16;  ///< then v and dO are MMA operands as they lie
  int gate_bytes;        ///< 0: ungated
  bool async_copy;
  int producers;  ///< 0: every warp does everything (key_walk.cuh); else key_pipeline.cuh's warps for copies and P
  bool fp32_gate_gradients = false;  ///< of gates of 16 bits, in whose place they cannot be staged

  /// Warps that hold the state of 16 key channels, each for its share of the value channels.
  GLA_HOST_DEVICE constexpr int split() const { return 16 * warps / tile_k; }
  /// Value channels, those of each warp a multiple of 16; of a warpgroup's products whole panels, or half of the only one.
  GLA_HOST_DEVICE constexpr int padded_v() const {
    const int unit = producers && head_dim_v <= 64 ? 64 : (producers ? 64 : 16) * split();
    return (head_dim_v + unit - 1) / unit * unit;
  }
  /// Warps whose rows of the state are one product's.
  GLA_HOST_DEVICE constexpr int group_warps() const { return producers ? 4 : 1; }
  /// Groups that share key channels and finish the gradients of some of a chunk's tokens each; if one, the first does for all.
  GLA_HOST_DEVICE constexpr int finishers() const { return producers ? split() : 1; }
  GLA_HOST_DEVICE constexpr int threads() const { return 32 * (warps + producers); }
  /// Registers per thread of producers, which give some to the warps that walk, and of those: of a multiprocessor's for one
  /// block of 12 warps, or two of 8.
  GLA_HOST_DEVICE constexpr int producer_registers() const { return 72; }
  GLA_HOST_DEVICE constexpr int consumer_registers() const { return warps == 8 ? 216 : 184; }
  GLA_HOST_DEVICE constexpr int operand_parts() const {
    return score_parts > state_parts ? score_parts : state_parts;
  }
  GLA_HOST_DEVICE constexpr int v_parts() const { return element_is_bf16 ? 1 : state_parts; }
  GLA_HOST_DEVICE constexpr int gate_gradient_bytes() const { return fp32_gate_gradients ? 4 : gate_bytes; }
  /// Whether what one walk leaves for the other of a gate's gradient has a place of its own, where fp32_gate_gradients are staged.
  GLA_HOST_DEVICE constexpr bool has_carried(bool backward) const { return backward || fp32_gate_gradients; }
  GLA_HOST_DEVICE constexpr bool has_carried_low(bool backward) const {
    return backward && gate_gradient_bytes() == 2;
  }
};

/// Byte offsets into the dynamic shared memory. Rows lie an odd multiple of 16 bytes apart (ChunkLayout).
struct KeyWalkLayout {
  int key_row, gate_row, gate_gradient_row, value_row;  ///< bytes per row of channels; of bf16 value channels
  int q, k, gate, carried, carried_low;                 ///< as loaded, within a stage
  int v, d_o;                                           ///< there too, where they are bf16
  int stage_bytes, raw_bytes;                           ///< raw_bytes: of all stages, which come first
  int value_plane, v_operand, d_o_operand;  ///< v and dO as bf16 parts, where they are not bf16 already
  int score_row, score_plane, scores;
  int exchange,
      exchange_plane;  ///< sums of the warps that share key channels, a plane for each but the first
  int turn;            ///< a word: whose turn it is (relay.cuh)
  int total;

  /// `backward`: of the walk that reads what the other one left of the gates' gradients.
  GLA_HOST_DEVICE constexpr KeyWalkLayout(const KeyWalkShape& s, bool backward)
      : key_row(ChunkLayout::odd_16(s.tile_k * s.element_bytes)),
        gate_row(s.gate_bytes ? ChunkLayout::odd_16(s.tile_k * s.gate_bytes) : 0),
        gate_gradient_row(s.gate_bytes ? ChunkLayout::odd_16(s.tile_k * s.gate_gradient_bytes()) : 0),
        value_row(ChunkLayout::odd_16(2 * s.padded_v())),
        q(0),
        k(q + s.chunk * key_row),
        gate(k + s.chunk * key_row),
        carried(gate + s.chunk * gate_row),
        carried_low(carried + (s.has_carried(backward) ? s.chunk * gate_gradient_row : 0)),
        v(carried_low + (s.has_carried_low(backward) ? s.chunk * gate_gradient_row : 0)),
        d_o(v + (s.element_is_bf16 ? s.chunk * value_row : 0)),
        stage_bytes(d_o + (s.element_is_bf16 ? s.chunk * value_row : 0)),
        raw_bytes(s.stages * stage_bytes),
        value_plane(s.element_is_bf16 ? 0 : s.chunk * value_row),
        v_operand(raw_bytes),
        d_o_operand(v_operand + s.v_parts() * value_plane),
        score_row(ChunkLayout::odd_16(2 * s.chunk)),
        score_plane(s.chunk * score_row),
        scores(d_o_operand + s.v_parts() * value_plane),
        exchange(scores + s.score_parts * score_plane),
        exchange_plane(4 * 16 * s.chunk),
        turn(exchange + s.tile_k / 16 * (s.split() - 1) * exchange_plane),
        total(turn + 4) {}
};

/// The same of key_pipeline.cuh's kernels: panels as wgmma and tensor copies have them (device/warpgroup.cuh), in a ring of
/// `stages` stages. Outputs are staged in the place of what was loaded.
struct KeyPipelineLayout {
  static constexpr int kPanelRow = PipelineLayout::kPanelRow;

  int panel;                                                        ///< bytes from one panel to the next
  int key_panels, gate_panels, gate_gradient_panels, value_panels;  ///< of 128 bytes of channels
  int q, k, gate, d_o, v;  ///< within a stage; a product's 64 rows of a chunk of 32 reach from dO into v
  int stage_bytes;
  int carried, carried_low;  ///< what one walk leaves for the other of the gates' gradients, of one chunk
  int score_plane, scores;   ///< bytes per part
  int exchange,
      trade;  ///< what warpgroups that share key channels have for each other: of sums; of single values
  int loaded, made, finished;  ///< barriers, one per stage each
  int used, carried_loaded;    ///< one more each
  int turn;                    ///< a word: whose turn it is (relay.cuh)
  int total;

  static constexpr int kTradedBytes = 4 * 4;  ///< of a thread
  /// Of a thread: its sums of the tokens that the other warpgroup finishes.
  GLA_HOST_DEVICE static constexpr int exchanged_bytes(const KeyWalkShape& s) {
    return 4 * s.chunk / 2 / s.finishers();
  }

  /// `backward`: of the walk that reads what the other one left of the gates' gradients.
  GLA_HOST_DEVICE constexpr KeyPipelineLayout(const KeyWalkShape& s, bool backward)
      : panel(s.chunk * kPanelRow),
        key_panels(PipelineLayout::panels(2 * s.tile_k)),
        gate_panels(PipelineLayout::panels(s.gate_bytes * s.tile_k)),
        gate_gradient_panels(PipelineLayout::panels(s.gate_gradient_bytes() * s.tile_k)),
        value_panels(PipelineLayout::panels(2 * s.padded_v())),
        q(0),
        k(q + key_panels * panel),
        gate(k + key_panels * panel),
        d_o(gate + gate_panels * panel),
        v(d_o + value_panels * panel),
        stage_bytes(v + value_panels * panel),
        carried(s.stages * stage_bytes),
        carried_low(carried + (s.has_carried(backward) ? gate_gradient_panels * panel : 0)),
        score_plane(panel),
        scores(carried_low + (s.has_carried_low(backward) ? gate_gradient_panels * panel : 0)),
        exchange(scores + s.score_parts * score_plane),
        trade(exchange + (s.finishers() > 1 ? 32 * s.warps * exchanged_bytes(s) : 0)),
        loaded(trade + (s.finishers() > 1 ? 32 * s.warps * kTradedBytes : 0)),
        made(loaded + 8 * s.stages),
        finished(made + 8 * s.stages),
        used(finished + 8 * s.stages),
        carried_loaded(used + 8),
        turn(carried_loaded + 8),
        total(turn + 4) {}
};

/// Dynamic shared memory in bytes.
GLA_HOST_DEVICE constexpr int shared_bytes(const KeyWalkShape& shape, bool backward) {
  return shape.producers ? KeyPipelineLayout(shape, backward).total : KeyWalkLayout(shape, backward).total;
}

/// Where a walk that may be cut into legs has the word of its turn.
GLA_HOST_DEVICE constexpr int turn_offset(const KeyWalkShape& shape, bool backward) {
  return shape.producers ? KeyPipelineLayout(shape, backward).turn : KeyWalkLayout(shape, backward).turn;
}

/// Blocks of a walk by producers that a multiprocessor of 228 KB is to have; 1 KB of each is the system's. One product of
/// more value channels has more sums than an even share of registers for two.
GLA_HOST_DEVICE constexpr int blocks_of_pipeline(const KeyWalkShape& shape) {
  const bool fit = 2 * (shared_bytes(shape, true) + 1024) <= 228 * 1024;
  return shape.warps == 4 && fit && shape.padded_v() <= 128 ? 2 : 1;
}
/// Whether its producers give registers away: where an even share would not do.
GLA_HOST_DEVICE constexpr bool moves_registers(const KeyWalkShape& shape) {
  return shape.warps == 8 || blocks_of_pipeline(shape) > 1;
}

}  // namespace gla
