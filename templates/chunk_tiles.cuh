// The tiles of a chunk kernel in shared memory, by name (chunk_layout.h has the offsets). ChunkTiles are those of
// chunk_forward.cuh, PipelineTiles those of chunk_pipeline.cuh; what both have is named alike.
#pragma once

#include "args.h"
#include "chunk_layout.h"
#include "device/tile.cuh"

namespace gla {

template <ChunkShape kShape, class Element, class Gate>
struct ChunkTiles {
  static constexpr ChunkLayout kLayout{kShape};
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kPaddedK = kShape.padded_k();

  unsigned char* shared;
  int slot = 0, v_slot = 0;  ///< of the raw tiles

  /// Those of a chunk.
  GLA_DEVICE ChunkTiles of(Index chunk) const {
    return {shared, static_cast<int>(chunk % kShape.stages), static_cast<int>(chunk % kShape.v_slots())};
  }

  // ---- fp32 vectors over K ---------------------------------------------------------------------------------------

  GLA_DEVICE float* before() const { return vector(kLayout.before); }
  GLA_DEVICE float* after() const { return vector(kLayout.after); }
  GLA_DEVICE float* last() const { return vector(kLayout.last); }
  GLA_DEVICE float* decay() const { return vector(kLayout.decay); }
  /// Of a steep chunk: what the gates of a block of 16 tokens multiply to, over K; and scores of a block and some of its channels.
  GLA_DEVICE float* steep_totals(int, int block) const {
    return vector(kLayout.steep_totals + block * 4 * kPaddedK);
  }
  GLA_DEVICE float* steep_partials(int, int which) const {
    return vector(kLayout.scores + which * 4 * 16 * 16);
  }

  // ---- as loaded -------------------------------------------------------------------------------------------------

  GLA_DEVICE RawTile<Element> raw_q(int head) const {
    return {stage() + kLayout.q + head * kChunk * kLayout.q_row, kLayout.q_row, kChunk, kPaddedK};
  }
  GLA_DEVICE RawTile<Element> raw_k() const { return {stage() + kLayout.k, kLayout.k_row, kChunk, kPaddedK}; }
  GLA_DEVICE RawTile<Gate> raw_gates() const {
    return {stage() + kLayout.gate, kLayout.gate_row, kChunk, kPaddedK};
  }
  GLA_DEVICE RawTile<Element> raw_v() const {
    return {shared + kLayout.v + v_slot * kLayout.v_bytes, kLayout.v_row, kChunk, kShape.tile_v};
  }

  // ---- operands, part by part ------------------------------------------------------------------------------------

  GLA_DEVICE OperandTile q(int head, int part) const {
    const int plane = (part * kShape.group_tile + head) * kLayout.operand_plane;
    return {shared + kLayout.q_operand + plane, kChunk, kPaddedK, kLayout.operand_row};
  }
  GLA_DEVICE OperandTile k(int part) const {
    return {shared + kLayout.k_operand + part * kLayout.operand_plane, kChunk, kPaddedK, kLayout.operand_row};
  }
  GLA_DEVICE OperandTile scores(int part) const {
    return {shared + kLayout.scores + part * kLayout.score_plane, kChunk, kChunk, kLayout.score_row};
  }
  /// Of a query head; they all take turns.
  GLA_DEVICE OperandTile score_part(int, int part) const { return scores(part); }
  static constexpr bool kScoresOverOperands = false, kPartialsOverScores = true, kForWarpgroups = false;
  GLA_DEVICE OperandTile split_v(int part) const {
    return {shared + kLayout.v_operand + part * kLayout.v_plane, kChunk, kShape.tile_v, kLayout.v_part_row};
  }
  GLA_DEVICE OperandTile v(int part) const {
    if constexpr (kShape.element_is_bf16) {
      return {raw_v().base, kChunk, kShape.tile_v, kLayout.v_row};
    } else {
      return split_v(part);
    }
  }
  /// Staged output rows of 16-bit elements.
  template <int Rows>
  GLA_DEVICE OperandTile out() const {
    return {shared + kLayout.out, Rows, kShape.tile_v, kLayout.out_row};
  }
  /// Row of staged fp32 outputs, one plane per warp along K.
  GLA_DEVICE float* out_row(int plane, int row) const {
    return reinterpret_cast<float*>(shared + kLayout.out + plane * kLayout.out_plane + row * kLayout.out_row);
  }

 private:
  GLA_DEVICE float* vector(int offset) const { return reinterpret_cast<float*>(shared + offset); }
  GLA_DEVICE unsigned char* stage() const { return shared + slot * kLayout.stage_bytes; }
};

template <ChunkShape kShape, class Element, class Gate>
struct PipelineTiles {
  static constexpr PipelineLayout kLayout{kShape};
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kPaddedK = kShape.padded_k();

  unsigned char* shared;
  int slot = 0;  ///< of the ring
  /// Of a tight stage: whether scores lie in the place of q^'s second part, where the state takes up k^'s.
  bool scores_over_queries = false;

  GLA_DEVICE PipelineTiles of(Index chunk) const { return {shared, static_cast<int>(chunk % kShape.stages)}; }
  GLA_DEVICE PipelineTiles with_scores(bool over_queries) const {
    return {shared, slot, kLayout.tight && over_queries};
  }

  GLA_DEVICE float* before() const { return vector(slot * kLayout.vectors_bytes + kLayout.before); }
  GLA_DEVICE float* after() const { return vector(slot * kLayout.vectors_bytes + kLayout.after); }
  GLA_DEVICE float* last() const { return vector(slot * kLayout.vectors_bytes + kLayout.last); }
  GLA_DEVICE float* decay() const { return vector(kLayout.decay); }

  /// What the state that chunk `chunk` left is still to be scaled with: exponents of 2.
  GLA_DEVICE float* carried(int chunk) const {
    return vector(kLayout.carried + chunk % PipelineLayout::kCarried * 4 * kPaddedK);
  }
  /// Of this slot, by producer warp: ChunkPipeline::Mark of the last chunk that it has marked.
  GLA_DEVICE int* marks() const {
    return reinterpret_cast<int*>(shared + kLayout.marks) + slot * kShape.producers;
  }
  /// Of this slot: its gates have been loaded; its other tiles; they have been turned into operands; its scores are made too.
  GLA_DEVICE unsigned long long* gates_loaded() const { return barrier(kLayout.gates_loaded) + slot; }
  GLA_DEVICE unsigned long long* loaded() const { return barrier(kLayout.loaded) + slot; }
  GLA_DEVICE unsigned long long* converted() const { return barrier(kLayout.converted) + slot; }
  GLA_DEVICE unsigned long long* made() const { return barrier(kLayout.made) + slot; }
  /// Of tight stages: a chunk has left the one place of q^'s second part.
  GLA_DEVICE unsigned long long* rest_free() const { return barrier(kLayout.rest_free); }
  /// Of any slot, by team of producers: what had been turned into operands has been loaded again.
  GLA_DEVICE unsigned long long* reloaded(int team) const { return barrier(kLayout.reloaded) + team; }
  /// Of any slot, by team of producers: the first chunk that it tries to make halves of.
  GLA_DEVICE int* halves_from(int team) const {
    return reinterpret_cast<int*>(shared + kLayout.halves_from) + team;
  }
  /// Of the warp's inbox for this chunk: the sums from the other block of the cluster have come.
  GLA_DEVICE unsigned long long* received(int chunk) const {
    return barrier(kLayout.received) + 2 * warp_index() + chunk % 2;
  }
  /// Of a team's steep chunk, as ChunkTiles has them.
  GLA_DEVICE float* steep_totals(int team, int block) const {
    return vector(kLayout.steep_totals + team * kLayout.steep_bytes + block * 4 * kPaddedK);
  }
  GLA_DEVICE float* steep_partials(int team, int which) const {
    return vector(kLayout.steep_partials + team * kLayout.steep_bytes + which * 4 * 16 * 16);
  }
  /// The inbox of a chunk for all warps.
  GLA_DEVICE unsigned char* inbox(int chunk) const {
    return shared + kLayout.inbox + chunk % 2 * PipelineLayout::inbox_bytes(kShape);
  }

  // ---- as loaded -------------------------------------------------------------------------------------------------

  GLA_DEVICE RawTile<Element> raw_q(int head) const {
    return raw<Element>(kLayout.q + head * kLayout.head_rows, kPaddedK, kLayout.q_panel);
  }
  GLA_DEVICE RawTile<Element> raw_k() const { return raw<Element>(kLayout.k, kPaddedK, kLayout.head_rows); }
  GLA_DEVICE RawTile<Gate> raw_gates() const { return raw<Gate>(kLayout.gate, kPaddedK, kLayout.head_rows); }
  GLA_DEVICE RawTile<Element> raw_v() const {
    return raw<Element>(kLayout.v, kShape.tile_v, kLayout.head_rows);
  }

  // ---- operands, part by part, where q, k and gates lay ------------------------------------------------------------

  GLA_DEVICE OperandTile q(int head, int part) const {
    if (kLayout.tight && part > 0)
      return {shared + kLayout.q_rest, kChunk, kPaddedK, kPanelRowBytes, kLayout.q_panel};
    const int of_head = head * kLayout.head_rows;
    return operand((part == 0 ? kLayout.q : kLayout.q_rest) + of_head, kLayout.q_panel);
  }
  GLA_DEVICE OperandTile k(int part) const {
    return operand(part == 0 ? kLayout.k : kLayout.k_rest, kLayout.head_rows);
  }
  /// `which`: the query head; of the only one's, the part.
  GLA_DEVICE OperandTile scores(int which) const {
    if (kLayout.tight && scores_over_queries) return panels(shared + kLayout.q_rest, kChunk, kChunk);
    return panels(stage() + kLayout.scores + which * kLayout.head_rows, kChunk, kChunk);
  }
  GLA_DEVICE OperandTile score_part(int head, int part) const {
    return scores(kShape.group_tile > 1 ? head : part);
  }
  static constexpr bool kScoresOverOperands =
      kLayout.tight || (kLayout.scores == kLayout.q_rest && kShape.score_parts > 1);
  static constexpr bool kPartialsOverScores = false, kForWarpgroups = true;
  GLA_DEVICE OperandTile v(int) const { return raw_v().operand(); }
  /// Staged output rows, of several query heads one below the other.
  template <int Rows>
  GLA_DEVICE OperandTile out() const {
    return panels(shared + kLayout.out + slot * kLayout.out_bytes, Rows, kShape.out_v());
  }

 private:
  GLA_DEVICE float* vector(int offset) const { return reinterpret_cast<float*>(shared + offset); }
  GLA_DEVICE unsigned long long* barrier(int offset) const {
    return reinterpret_cast<unsigned long long*>(shared + offset);
  }
  GLA_DEVICE unsigned char* stage() const { return shared + slot * kLayout.stage_bytes; }

  template <class T>
  GLA_DEVICE RawTile<T> raw(int offset, int columns, int panel_bytes) const {
    return {stage() + offset, kPanelRowBytes, kChunk, columns, panel_bytes};
  }
  GLA_DEVICE OperandTile operand(int offset, int panel_bytes) const {
    return {stage() + offset, kChunk, kPaddedK, kPanelRowBytes, panel_bytes};
  }
  GLA_DEVICE static OperandTile panels(unsigned char* base, int rows, int columns) {
    return {base, rows, columns, kPanelRowBytes, rows * kPanelRowBytes};
  }
};

}  // namespace gla
