// Sizes of recurrent_backward's walks over lines, for the kernels and the host. Plain C++: NVRTC reads this file too.
#pragma once

#include "device/platform.cuh"

namespace gla {

/// Slots that a sequence of up to `tokens` tokens has for the states before the chunks of a segment. That before the first chunk
/// of all is the initial state, and takes none where there is no other.
GLA_HOST_DEVICE constexpr long long line_walk_chunk_slots(long long tokens, long long segment_tokens,
                                                          int chunk) {
  const long long chunks = (tokens + chunk - 1) / chunk, most = segment_tokens / chunk;
  return chunks <= 1 ? 0 : chunks < most ? chunks : most;
}

/// Of the states' lines (rows of K, or columns of V) those of one warp: `lanes` lanes share a line of `across` channels, and each
/// has `rows` of them.
struct LineWalkShape {
  int lines = 0, across = 0;
  int lanes = 1, rows = 1;

  GLA_HOST_DEVICE constexpr int warp_lines() const { return 32 / lanes * rows; }
  /// Warps that share a state.
  GLA_HOST_DEVICE constexpr int tiles() const { return (lines + warp_lines() - 1) / warp_lines(); }
  /// Groups of 4 channels that a lane has of a line.
  GLA_HOST_DEVICE constexpr int quads() const { return (across + 4 * lanes - 1) / (4 * lanes); }
  /// Elements of a warp's part of a state, padded.
  GLA_HOST_DEVICE constexpr int warp_floats() const { return 32 * 4 * quads() * rows; }
};

}  // namespace gla
