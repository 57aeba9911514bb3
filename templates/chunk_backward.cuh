// chunk_backward: the gradients of chunk_forward's inputs, from nothing but those inputs and the gradients of its outputs. Three
// walks over the chunks, each with the whole of its state on chip: dq and dk by key channels (key_walk.cuh), dv and the
// gradient of the initial state by value channels (chunk_forward.cuh, backwards). Segmented, the states between segments and
// their gradients come first, as in chunk_forward. The same inputs give the same bits.
#pragma once

#include "backward_args.h"
#include "chunk_forward.cuh"
#include "key_walk.cuh"
#include "segment_scan.cuh"
#include "turned_args.cuh"

namespace gla {

/// dq, and for the next one what it knows of the gates' gradients; or the states between segments.
template <class Config, Pass kPass>
GLA_DEVICE void query_gradients(const BackwardArgs& args) {
  KeyWalk<Config, true, kPass>(args).run();
}

/// dk and the gates' gradients; or the gradients of the states between segments.
template <class Config, Pass kPass>
GLA_DEVICE void key_gradients(const BackwardArgs& args) {
  KeyWalk<Config, false, kPass>(args).run();
}

/// dv, and the gradient of the initial state, by warps that all do the same.
template <class Config, Pass kPass>
GLA_DEVICE void value_gradients(const BackwardArgs& args) {
  const KernelArgs back = turned(args);
  ChunkForward<Config, kPass>(back).run();
}

/// The gradients of the states behind the segments from the segments' own.
template <class Config, int Threads>
GLA_DEVICE void segment_scan_back(const BackwardArgs& args) {
  segment_scan<Config, Threads, true>(turned(args));
}

}  // namespace gla
