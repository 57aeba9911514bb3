// Walks forward in time and back.
#pragma once

#include "backward_args.h"
#include "device/platform.cuh"

namespace gla {

/// The arguments with which what goes forward in time elsewhere goes back, from the gradient of the final state to that of the
/// initial one: dO for v, and dv for o.
GLA_DEVICE KernelArgs turned(const BackwardArgs& args) {
  KernelArgs back = args;
  back.v = args.d_o;
  back.o = args.dv;
  back.initial_state = args.d_final_state;
  back.final_state = args.d_initial_state;
  back.segment_states = args.segment_gradients;
  back.segment_decays = args.segment_gradient_decays;
  back.relay = args.value_relay;
  back.path_counts = nullptr;
  return back;
}

/// Whether there are walks forward, which those back that run beside them have ahead of them.
GLA_DEVICE bool walks_forward(const BackwardArgs& args) {
  return args.dq.data != nullptr || args.dgk.data != nullptr;
}

}  // namespace gla
