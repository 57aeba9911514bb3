// The walk over value channels of chunk_backward by producers and warpgroups (sm_90a): chunk_pipeline.cuh, backwards.
#pragma once

#include "backward_args.h"
#include "chunk_pipeline.cuh"
#include "turned_args.cuh"

namespace gla {

/// Tensor maps have boxes for all walks.
template <class Config, Pass kPass>
struct BackConfig : PassConfig<Config, kPass> {
  static constexpr int box_rows = Config::box_rows;
};

/// dv, and the gradient of the initial state, beside dq.
template <class Config, Pass kPass>
GLA_DEVICE void value_pipeline(const BackwardTensorArgs& args) {
  const KernelArgs back = turned(args);
  ChunkPipeline<BackConfig<Config, kPass>, kPass>(back, args.maps).run_beside(walks_forward(args));
}

}  // namespace gla
