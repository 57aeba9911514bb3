// A chunk variant's sizes, as its kernels have them.
#pragma once

#include <string>

#include "chunk_layout.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla {

inline ChunkShape shape_of(const Problem& problem, const Variant& variant) {
  return {.head_dim_k = problem.head_dim_k,
          .head_dim_v = problem.head_dim_v,
          .chunk = variant[Parameter::chunk],
          .tile_v = variant[Parameter::tile_v],
          .warps_v = variant[Parameter::warps_v],
          .warps_k = variant[Parameter::warps_k],
          .group_tile = variant[Parameter::group_tile],
          .stages = variant[Parameter::stages],
          .score_parts = variant[Parameter::score_parts],
          .state_parts = variant[Parameter::state_parts],
          .element_bytes = static_cast<int>(size_of(problem.dtype)),
          .element_is_bf16 = problem.dtype == DType::bf16,
          .gate_bytes = problem.gate_k ? static_cast<int>(size_of(problem.gate_dtype)) : 0,
          .async_copy = variant[Parameter::async_copy] != 0,
          .producers = variant[Parameter::producers],
          .cluster = variant[Parameter::cluster]};
}

inline int blocks_v(const ChunkShape& shape) {
  return shape.tile_v / (16 * shape.warps_v);
}
inline int tiles_v(const ChunkShape& shape) {
  return (shape.head_dim_v + shape.tile_v - 1) / shape.tile_v;
}
/// Blocks that hold the state of a head.
inline int state_blocks(const ChunkShape& shape) {
  return tiles_v(shape) * shape.cluster;
}

/// As the template's Config has it. `value_gradients`: of chunk_backward's walk over value channels.
std::string shape_text(const ChunkShape& shape, bool value_gradients);

}  // namespace gla
