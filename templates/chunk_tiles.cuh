// The tiles of a chunk kernel in shared memory, by name (chunk_layout.h has the offsets).
#pragma once

#include "chunk_layout.h"
#include "device/tile.cuh"

namespace gla {

template <ChunkShape kShape, class Element, class Gate>
struct ChunkTiles {
  static constexpr ChunkLayout kLayout{kShape};
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kPaddedK = kShape.padded_k();

  unsigned char* shared;
  int scaling_set = 0;  ///< of the chunk in work

  GLA_DEVICE float* vector(int offset) const { return reinterpret_cast<float*>(shared + offset); }
  /// What the state is scaled with: kLayout.before, after or last.
  GLA_DEVICE float* scaling(int offset) const { return vector(offset + scaling_set * kLayout.scaling_bytes); }

  // ---- as loaded; q, k and gates of slot chunk % stages, v of slot chunk % v_slots -------------------------------

  GLA_DEVICE RawTile<Element> raw_q(int slot, int head) const {
    return {stage(slot) + kLayout.q + head * kChunk * kLayout.q_row, kLayout.q_row, kChunk, kPaddedK};
  }
  GLA_DEVICE RawTile<Element> raw_k(int slot) const {
    return {stage(slot) + kLayout.k, kLayout.k_row, kChunk, kPaddedK};
  }
  GLA_DEVICE RawTile<Gate> raw_gates(int slot) const {
    return {stage(slot) + kLayout.gate, kLayout.gate_row, kChunk, kPaddedK};
  }
  GLA_DEVICE auto raw_v(int slot) const {
    unsigned char* base = shared + kLayout.v + slot * kLayout.v_bytes;
    if constexpr (kShape.wgmma) {
      return OperandTile{base, kChunk, kShape.tile_v, kPanelRowBytes, kChunk * kPanelRowBytes};
    } else {
      return RawTile<Element>{base, kLayout.v_row, kChunk, kShape.tile_v};
    }
  }

  // ---- operands of `Tokens` tokens that share a pivot, part by part ----------------------------------------------

  template <int Tokens>
  GLA_DEVICE OperandTile q(int head, int part) const {
    return operand<Tokens>(kLayout.q_operand +
                           (part * kShape.group_tile + head) * kLayout.operand_plane(kChunk));
  }
  template <int Tokens>
  GLA_DEVICE OperandTile k(int part) const {
    return operand<Tokens>(kLayout.k_operand + part * kLayout.operand_plane(Tokens));
  }
  template <int Tokens>
  GLA_DEVICE OperandTile scores(int part) const {
    return tile(kLayout.scores + part * kLayout.score_plane, Tokens, Tokens, kLayout.score_row);
  }
  GLA_DEVICE OperandTile split_v(int part) const {
    return {shared + kLayout.v_operand + part * kLayout.v_plane, kChunk, kShape.tile_v, kLayout.v_part_row};
  }
  /// Rows [row0, row0 + Tokens) of v.
  template <int Tokens>
  GLA_DEVICE OperandTile v(int slot, int row0, int part) const {
    if constexpr (kShape.element_is_bf16) {
      OperandTile whole;
      if constexpr (kShape.wgmma) {
        whole = raw_v(slot);
      } else {
        whole = raw_v(slot).operand();
      }
      return {whole.base + row0 * whole.row_bytes, Tokens, whole.columns, whole.row_bytes, whole.panel_bytes};
    } else {
      return split_v(part);
    }
  }
  /// Staged output rows of 16-bit elements.
  template <int Tokens>
  GLA_DEVICE OperandTile out() const {
    return tile(kLayout.out, Tokens, kShape.tile_v, kLayout.out_row);
  }

 private:
  GLA_DEVICE unsigned char* stage(int slot) const { return shared + slot * kLayout.stage_bytes; }

  GLA_DEVICE OperandTile tile(int offset, int rows, int columns, int row_bytes) const {
    if constexpr (kShape.wgmma)
      return {shared + offset, rows, columns, kPanelRowBytes, rows * kPanelRowBytes};
    return {shared + offset, rows, columns, row_bytes};
  }
  template <int Tokens>
  GLA_DEVICE OperandTile operand(int offset) const {
    return tile(offset, Tokens, kPaddedK, kLayout.operand_row);
  }
};

}  // namespace gla
