// Sizes of recurrent_backward's walks over lines, for the kernels and the host. Plain C++: NVRTC reads this file too.
#pragma once

#include "device/platform.cuh"

namespace gla {

/// Slots that a sequence of up to `tokens` tokens has for the states before the chunks of a segment, all but its first.
GLA_HOST_DEVICE constexpr long long line_walk_chunk_slots(long long tokens, long long segment_tokens,
                                                          int chunk) {
  const long long chunks = (tokens + chunk - 1) / chunk, most = segment_tokens / chunk;
  return chunks == 0 ? 0 : (chunks < most ? chunks : most) - 1;
}

/// Chunks of a segment whose states shared memory has, a part of each warp's; those of longer ones are in the workspace.
inline constexpr int kLineSharedChunks = 8;

/// Slots that all sequences ahead of one have for the states before their segments but the first: ahead of sequence `n` of
/// `tokens` tokens each, or packed, ahead of token `tokens`.
GLA_HOST_DEVICE constexpr long long line_walk_segment_slots(long long n, long long tokens, bool packed,
                                                            long long segment_tokens) {
  if (packed) return tokens / segment_tokens;
  return tokens == 0 ? 0 : n * ((tokens - 1) / segment_tokens);
}

/// Slots for the states before chunks of all of `sequences` sequences; `tokens` of each, or packed of all.
GLA_HOST_DEVICE constexpr long long line_walk_all_chunk_slots(long long sequences, long long tokens,
                                                              long long segment_tokens, int chunk) {
  if (segment_tokens <= kLineSharedChunks * chunk) return 0;
  return sequences * line_walk_chunk_slots(tokens, segment_tokens, chunk);
}

/// Slots in the workspace, of a walk over rows or over columns.
GLA_HOST_DEVICE constexpr long long line_walk_slots(long long sequences, long long tokens, bool packed,
                                                    long long segment_tokens, int chunk) {
  return line_walk_all_chunk_slots(sequences, tokens, segment_tokens, chunk) +
         line_walk_segment_slots(sequences, tokens, packed, segment_tokens);
}

/// Of the states' lines (rows of K, or columns of V) those of one warp: `lanes` lanes share a line of `across` channels, and each
/// has `rows` of them.
struct LineWalkShape {
  int lines = 0, across = 0;
  int lanes = 1, rows = 1;
  int unit = 1;  // tokens whose inputs shared memory has at once, besides as many that are coming
  int element_bytes = 2;
  int line_gate_bytes = 0, across_gate_bytes = 0;  // 0 without
  bool one_query = true;                           // of a group, the queries' side is read where it is used
  bool reads_lines = true;                         // what k or v has along the lines

  GLA_HOST_DEVICE constexpr int warp_lines() const { return 32 / lanes * rows; }
  /// Warps that share a state.
  GLA_HOST_DEVICE constexpr int tiles() const { return (lines + warp_lines() - 1) / warp_lines(); }
  /// Groups of 4 channels that a lane has of a line.
  GLA_HOST_DEVICE constexpr int quads() const { return (across + 4 * lanes - 1) / (4 * lanes); }
  /// Elements of a lane's part of a state, padded.
  GLA_HOST_DEVICE constexpr int lane_floats() const { return 4 * quads() * rows; }
  /// The same of a warp, and of all of a state.
  GLA_HOST_DEVICE constexpr int warp_floats() const { return 32 * lane_floats(); }
  GLA_HOST_DEVICE constexpr int state_floats() const { return tiles() * warp_floats(); }

  // Of a token's inputs in shared memory: rows of whole 16 bytes.
  GLA_HOST_DEVICE constexpr int across_row_bytes(int element) const {
    return round_up_16(4 * lanes * quads() * element);
  }
  GLA_HOST_DEVICE constexpr int line_row_bytes(int element) const {
    return round_up_16(warp_lines() * element);
  }
  GLA_HOST_DEVICE constexpr int token_bytes() const {
    return (one_query ? 2 : 1) * across_row_bytes(element_bytes) +
           (one_query + reads_lines) * line_row_bytes(element_bytes) + across_row_bytes(across_gate_bytes) +
           line_row_bytes(line_gate_bytes);
  }
  GLA_HOST_DEVICE constexpr int unit_bytes() const { return unit * token_bytes(); }

 private:
  GLA_HOST_DEVICE static constexpr int round_up_16(int bytes) { return (bytes + 15) / 16 * 16; }
};

}  // namespace gla
