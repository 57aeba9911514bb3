// Sizes and shared-memory layout of the chunk kernels, for the kernel that uses them and the host that must reserve
// them. Plain C++: NVRTC, the generator and the emulator compile this one file.
#pragma once

#include "device/platform.cuh"

namespace gla {

/// Rows of a sub-chunk: the finest unit with a pivot of its own (DESIGN section 5, range).
inline constexpr int kSubChunk = 16;

/// What a variant fixes. Names are those of the parameters (generator/variant.h).
struct ChunkShape {
  int head_dim_k, head_dim_v;
  int chunk, tile_v, warps_v, warps_k, group_tile, stages, score_parts, state_parts;
  int element_bytes;     ///< of q, k, v, o
  bool element_is_bf16;  ///< then v is an MMA operand as it lies
  int gate_bytes;        ///< 0: ungated
  bool async_copy;

  GLA_HOST_DEVICE constexpr int padded_k() const { return (head_dim_k + 15) / 16 * 16; }
  GLA_HOST_DEVICE constexpr int threads() const { return 32 * warps_v * warps_k; }
  GLA_HOST_DEVICE constexpr int v_slots() const { return stages + 1; }
  GLA_HOST_DEVICE constexpr int operand_parts() const {
    return score_parts > state_parts ? score_parts : state_parts;
  }
  /// Parts of k^ when `tokens` of them share a pivot. A sub-chunk has two at the least: under the steep gates that lead
  /// to it the last few tokens are most of the state, and one part would round them alone.
  GLA_HOST_DEVICE constexpr int k_parts(int tokens) const {
    return tokens == kSubChunk && operand_parts() < 2 ? 2 : operand_parts();
  }
  GLA_HOST_DEVICE constexpr int v_parts() const { return element_is_bf16 ? 1 : state_parts; }

  /// Threads along the tokens when channel pairs are spread over the block's threads first; a power of two.
  GLA_HOST_DEVICE constexpr int token_groups(int tokens) const {
    int groups = 1;
    while (2 * groups * (padded_k() / 2) <= threads() && 4 * groups <= tokens) groups *= 2;
    return groups;
  }
};

/// Byte offsets into the block's dynamic shared memory. Row strides of MMA operands are odd multiples of 16 bytes, so
/// that the eight rows of an ldmatrix matrix lie in different banks.
struct ChunkLayout {
  int q_row, k_row, gate_row, v_row;  ///< bytes per row of the raw tiles
  int operand_row, v_part_row, score_row,
      out_row;     ///< bytes per row of the operands and of the staged output
  int q, k, gate;  ///< raw tiles in a ring of `stages` slots, stage_bytes apart
  int v;  ///< raw tiles in a ring of `v_slots` slots, v_bytes apart: v is in use after its slot's q, k, gate
  int stage_bytes, v_bytes;
  int raw_bytes;  ///< of all slots; they come first
  int q_operand, k_operand, v_operand, scores, out;
  int q_plane, v_plane, score_plane, out_plane;  ///< bytes per part (out: per warp along K); k^: k_plane()
  int before, after, decay, partial;             ///< fp32 vectors over K; partial: 3 x token groups x K
  int cumulative;                                ///< fp32 [kSubChunk][K]
  int total;

  /// Bytes per part of k^ when `tokens` of them share a pivot.
  GLA_HOST_DEVICE constexpr int k_plane(int tokens) const { return tokens * operand_row; }

  GLA_HOST_DEVICE static constexpr int odd_16(int bytes) { return (bytes / 16 | 1) * 16; }

  GLA_HOST_DEVICE explicit constexpr ChunkLayout(const ChunkShape& s)
      : q_row(s.padded_k() * s.element_bytes),
        k_row(q_row),
        gate_row(s.padded_k() * s.gate_bytes),
        v_row(odd_16(s.tile_v * s.element_bytes)),
        operand_row(odd_16(2 * s.padded_k())),
        v_part_row(odd_16(2 * s.tile_v)),
        score_row(odd_16(2 * s.chunk)),
        out_row(s.warps_k == 1 && s.element_bytes == 2 ? 2 * s.tile_v + 16 : 4 * s.tile_v + 16),
        q(0),
        k(q + s.group_tile * s.chunk * q_row),
        gate(k + s.chunk * k_row),
        v(0),
        stage_bytes(gate + s.chunk * gate_row),
        v_bytes(s.chunk * v_row),
        raw_bytes(s.stages * stage_bytes + s.v_slots() * v_bytes),
        q_operand(raw_bytes),
        k_operand(0),
        v_operand(0),
        scores(0),
        out(0),
        q_plane(s.group_tile * s.chunk * operand_row),
        v_plane(s.element_is_bf16 ? 0 : s.chunk * v_part_row),
        score_plane(s.chunk * score_row),
        out_plane(s.chunk * out_row),
        before(0),
        after(0),
        decay(0),
        partial(0),
        cumulative(0),
        total(0) {
    const int vector = 4 * s.padded_k();
    const int out_bytes = s.warps_k * out_plane;
    v = s.stages * stage_bytes;
    k_operand = q_operand + s.operand_parts() * q_plane;
    const int chunk_bytes = s.k_parts(s.chunk) * k_plane(s.chunk);
    const int sub_chunk_bytes = s.k_parts(kSubChunk) * k_plane(kSubChunk);
    v_operand = k_operand + (chunk_bytes > sub_chunk_bytes ? chunk_bytes : sub_chunk_bytes);
    // When the only query head stages its outputs, the operands are spent; with several they must outlive them.
    const bool out_on_operands = s.group_tile == 1;
    if (out_on_operands && v_operand < q_operand + out_bytes) v_operand = q_operand + out_bytes;
    scores = v_operand + s.v_parts() * v_plane;
    const int scores_end = scores + s.state_parts * score_plane;
    out = out_on_operands ? q_operand : scores_end;
    cumulative = out_on_operands ? scores_end : scores_end + out_bytes;
    before = cumulative + (s.gate_bytes ? kSubChunk * vector : 0);
    after = before + vector;
    decay = after + vector;
    partial = decay + vector;
    total = partial + (s.gate_bytes ? 3 * s.token_groups(s.chunk) * vector : 0);
  }
};

}  // namespace gla
