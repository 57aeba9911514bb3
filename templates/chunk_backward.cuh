// chunk_backward: the gradients of chunk_forward's inputs, from nothing but those inputs and the gradients of its outputs. Three
// walks over the chunks, each with the whole of its state on chip: dq and dk by key channels (key_walk.cuh), dv and the
// gradient of the initial state by value channels (chunk_forward.cuh, backwards). The same inputs give the same bits.
#pragma once

#include "backward_args.h"
#include "chunk_forward.cuh"
#include "key_walk.cuh"

namespace gla {

/// dq, and for the next one what it knows of the gates' gradients.
template <class Config>
GLA_DEVICE void query_gradients(const BackwardArgs& args) {
  KeyWalk<Config, true>(args).run();
}

/// dk and the gates' gradients.
template <class Config>
GLA_DEVICE void key_gradients(const BackwardArgs& args) {
  KeyWalk<Config, false>(args).run();
}

/// dv, and the gradient of the initial state.
template <class Config>
GLA_DEVICE void value_gradients(const BackwardArgs& args) {
  KernelArgs back = args;
  back.v = args.d_o;
  back.o = args.dv;
  back.initial_state = args.d_final_state;
  back.final_state = args.d_initial_state;
  back.path_counts = nullptr;
  ChunkForward<Config, Pass::whole>(back).run();
}

}  // namespace gla
