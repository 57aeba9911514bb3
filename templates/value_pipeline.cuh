// The walk over value channels of chunk_backward by producers and warpgroups (sm_90a): chunk_pipeline.cuh, backwards.
#pragma once

#include "backward_args.h"
#include "chunk_pipeline.cuh"
#include "turned_args.h"

namespace gla {

/// dv, and the gradient of the initial state.
template <class Config, Pass kPass>
GLA_DEVICE void value_pipeline(const BackwardTensorArgs& args) {
  const KernelArgs back = turned(args);
  ChunkPipeline<PassConfig<Config, kPass>, kPass>(back, args.maps).run();
}

}  // namespace gla
