// Variants for problems that are small enough for the emulator, named by what is special about them.
#pragma once

#include <stdexcept>
#include <string>

#include "generator/problems.h"
#include "gla/generator/space.h"

namespace gla::test {

/// `text` is the line of a variant that is legal for the problem; anything else throws.
inline Variant legal(const Problem& problem, const std::string& text) {
  const Variant parsed = variant(text);
  if (const Status status = check(problem, architecture("sm_90a"), parsed); !status.ok())
    throw std::invalid_argument(to_string(problem) + ", " + text + ": " + status.message());
  return parsed;
}

inline std::string field(const char* name, int value) {
  return std::string(" ") + name + "=" + std::to_string(value);
}

struct ChunkChoice {
  std::string family = "fused";
  int chunk = 32, tile_v = 32, warps_v = 2, warps_k = 2, group_tile = 1, stages = 2;
  int score_parts = 2, state_parts = 1, async_copy = 1, producers = 0, cluster = 1;
};

inline Variant chunk_variant(const Problem& problem, const ChunkChoice& c) {
  return legal(problem, c.family + field("chunk", c.chunk) + field("tile_v", c.tile_v) +
                            field("warps_v", c.warps_v) + field("warps_k", c.warps_k) +
                            field("group_tile", c.group_tile) + field("stages", c.stages) +
                            field("score_parts", c.score_parts) + field("state_parts", c.state_parts) +
                            field("async_copy", c.async_copy) + field("producers", c.producers) +
                            field("cluster", c.cluster) + field("min_blocks", 1));
}

struct WalksChoice {
  int segments = 1, chunk = 32, tile_k = 32, tile_v = 32, warps = 4, stages = 2;
  int score_parts = 2, state_parts = 2, async_copy = 1, producers = 0, tile_k_back = 0;
};

inline Variant walks_variant(const Problem& problem, const WalksChoice& c) {
  return legal(problem, "walks" + field("segments", c.segments) + field("chunk", c.chunk) +
                            field("tile_k", c.tile_k) + field("tile_k_back", c.tile_k_back) +
                            field("tile_v", c.tile_v) + field("warps", c.warps) + field("stages", c.stages) +
                            field("score_parts", c.score_parts) + field("state_parts", c.state_parts) +
                            field("async_copy", c.async_copy) + field("producers", c.producers));
}

struct LinesChoice {
  int lanes = 4, rows = 2, warps = 2, chunk = 4;
};

inline Variant lines_variant(const Problem& problem, const LinesChoice& c) {
  return legal(problem, "lines" + field("lanes", c.lanes) + field("rows", c.rows) + field("warps", c.warps) +
                            field("chunk", c.chunk));
}

/// Those of forward operations.
inline constexpr Family kForwardFamilies[] = {Family::fused, Family::overlapped, Family::segmented,
                                              Family::decode};

/// K = 32, V = 48 (a tile and a half), served by one_variant(); the gates have the dtype of q.
inline Problem small_problem(Family family, DType dtype, bool state_v_first = false) {
  const bool decode = family == Family::decode;
  Problem problem =
      problem_of(decode ? Operation::recurrent_forward : Operation::chunk_forward, 32, 48, dtype);
  problem.state_v_first = state_v_first;
  return problem;
}

inline constexpr int kSmallChunk = 32;

/// A variant of standard accuracy for a small problem, of any group. Its chunks are kSmallChunk tokens long.
inline Variant one_variant(const Problem& problem, Family family) {
  if (family == Family::decode) {
    return legal(problem, "decode lanes_k=4 rows_v=2 warps=2 stages=2 min_blocks=1");
  }
  ChunkChoice choice{.chunk = kSmallChunk, .group_tile = problem.group};
  if (family != Family::fused) choice.family = std::string(to_string(family)) + field("segments", 2);
  if (problem.dtype == DType::fp16) choice.state_parts = 2;
  if (problem.dtype == DType::fp32) choice.score_parts = choice.state_parts = 3;
  return chunk_variant(problem, choice);
}

}  // namespace gla::test
