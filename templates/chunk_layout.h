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
  bool wgmma;  ///< products of whole chunks by warpgroups (device/warpgroup.cuh)
  int producers;  ///< warps besides those that multiply, which load and make operands a chunk ahead; 0: all do all

  GLA_HOST_DEVICE constexpr int padded_k() const { return (head_dim_k + 15) / 16 * 16; }
  GLA_HOST_DEVICE constexpr int warps() const { return warps_v * warps_k; }  ///< that multiply
  GLA_HOST_DEVICE constexpr int threads() const { return 32 * (warps() + producers); }
  GLA_HOST_DEVICE constexpr int operand_warps() const { return producers ? producers : warps(); }
  GLA_HOST_DEVICE constexpr int v_slots() const { return producers ? stages : stages + 1; }
  GLA_HOST_DEVICE constexpr int operand_parts() const {
    return score_parts > state_parts ? score_parts : state_parts;
  }
  /// Parts of k^ when `tokens` of them share a pivot. A sub-chunk has two at the least: under the steep gates that lead
  /// to it the last few tokens are most of the state, and one part would round them alone.
  GLA_HOST_DEVICE constexpr int k_parts(int tokens) const {
    return tokens == kSubChunk && operand_parts() < 2 ? 2 : operand_parts();
  }
  GLA_HOST_DEVICE constexpr int v_parts() const { return element_is_bf16 ? 1 : state_parts; }
};

/// Byte offsets into the block's dynamic shared memory. Tiles that ldmatrix reads have rows an odd multiple of 16 bytes
/// apart, so that its eight rows lie in different banks; those that wgmma reads are panels of 64 columns, 128 bytes a row,
/// at multiples of 1024 bytes.
struct ChunkLayout {
  int q_row, k_row, gate_row, v_row;  ///< bytes per row of the raw tiles
  int operand_row, v_part_row, score_row,
      out_row;     ///< bytes per row of the operands and of the staged output
  int q, k, gate;  ///< raw tiles in a ring of `stages` slots, stage_bytes apart
  int v;  ///< raw tiles in a ring of `v_slots` slots, v_bytes apart: v is in use after its slot's q, k, gate
  int stage_bytes, v_bytes;
  int raw_bytes;  ///< of all slots; they come first
  int q_operand, k_operand, v_operand, scores, out;
  int v_plane, score_plane, out_plane;  ///< bytes per part (out: per warp along K)
  int cumulative;                       ///< fp32 [kSubChunk][K], behind the q operands of a sub-chunk
  int before, after, last, decay;  ///< fp32 vectors over K; of the first three as many sets as are in use
  int scaling_bytes;               ///< per set
  int total;

  /// Bytes of an operand [tokens][K], of one query head and part.
  GLA_HOST_DEVICE constexpr int operand_plane(int tokens) const { return tokens * operand_row; }

  GLA_HOST_DEVICE static constexpr int odd_16(int bytes) { return (bytes / 16 | 1) * 16; }
  GLA_HOST_DEVICE static constexpr int panel_row(int columns) { return (columns + 63) / 64 * 128; }
  GLA_HOST_DEVICE static constexpr int most_of(int a, int b) { return a > b ? a : b; }

  GLA_HOST_DEVICE explicit constexpr ChunkLayout(const ChunkShape& s)
      : q_row(odd_16(s.padded_k() * s.element_bytes)),
        k_row(q_row),
        gate_row(s.gate_bytes ? odd_16(s.padded_k() * s.gate_bytes) : 0),
        v_row(s.wgmma ? panel_row(s.tile_v) : odd_16(s.tile_v * s.element_bytes)),
        operand_row(s.wgmma ? panel_row(s.padded_k()) : odd_16(2 * s.padded_k())),
        v_part_row(odd_16(2 * s.tile_v)),
        score_row(s.wgmma ? panel_row(s.chunk) : odd_16(2 * s.chunk)),
        out_row(s.wgmma                                  ? panel_row(s.tile_v)
                : s.warps_k == 1 && s.element_bytes == 2 ? odd_16(2 * s.tile_v)
                                                         : 4 * s.tile_v + 16),
        q(0),
        k(q + s.group_tile * s.chunk * q_row),
        gate(k + s.chunk * k_row),
        v(0),
        stage_bytes(gate + s.chunk * gate_row),
        v_bytes(s.chunk * v_row),
        raw_bytes(0),
        q_operand(0),
        k_operand(0),
        v_operand(0),
        scores(0),
        out(0),
        v_plane(s.element_is_bf16 ? 0 : s.chunk * v_part_row),
        score_plane(s.chunk * score_row),
        out_plane(s.chunk * out_row),
        cumulative(0),
        before(0),
        after(0),
        last(0),
        decay(0),
        scaling_bytes(3 * 4 * s.padded_k()),
        total(0) {
    const int align = s.wgmma ? 1024 : 16;
    const int vector = 4 * s.padded_k();
    const int out_bytes = s.warps_k * out_plane;
    v = (s.stages * stage_bytes + align - 1) / align * align;
    raw_bytes = v + s.v_slots() * v_bytes;
    q_operand = raw_bytes;
    const int q_planes = s.operand_parts() * s.group_tile;
    // The heads' planes of a sub-chunk lie as far apart as those of a chunk; the sums follow the last one.
    cumulative = q_operand + (q_planes - 1) * operand_plane(s.chunk) + operand_plane(kSubChunk);
    const int cumulative_end = cumulative + (s.gate_bytes ? kSubChunk * vector : 0);
    k_operand = most_of(q_operand + q_planes * operand_plane(s.chunk), cumulative_end);
    k_operand = q_operand + (k_operand - q_operand + align - 1) / align * align;
    // Outputs may be staged while the other warpgroup's update still reads k^.
    if (s.wgmma && s.group_tile == 1 && s.producers == 0) k_operand = most_of(k_operand, q_operand + out_bytes);
    v_operand = k_operand + most_of(s.k_parts(s.chunk) * operand_plane(s.chunk),
                                    s.k_parts(kSubChunk) * operand_plane(kSubChunk));
    // When the only query head stages its outputs, the operands are spent; with several they must outlive them, and
    // producers put the next ones there.
    const bool out_on_operands = s.group_tile == 1 && s.producers == 0;
    if (out_on_operands) v_operand = most_of(v_operand, q_operand + out_bytes);
    scores = v_operand + s.v_parts() * v_plane;
    const int scores_end = scores + s.state_parts * score_plane;
    out = out_on_operands ? q_operand : scores_end;
    before = out_on_operands ? scores_end : scores_end + out_bytes;
    after = before + vector;
    last = after + vector;
    decay = before + (s.producers ? 2 : 1) * scaling_bytes;
    total = decay + vector;
  }
};

}  // namespace gla
