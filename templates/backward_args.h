// Arguments of the backward kernels, for the host and the device like args.h.
#pragma once

#include "args.h"

namespace gla {

/// Of KernelArgs, o and final_state are absent. A gradient whose `data` is null is not wanted, and of chunk_backward dgk of 16
/// bits wants dk: what the first walk leaves of dgk for the second takes the memory of both (key_walk.cuh). Family `lines` keeps
/// states in segment_states as line_walk.cuh says.
struct BackwardArgs : KernelArgs {
  Tensor d_o;                            ///< [B, T, HQ, V], the gradient of o
  Tensor dq, dk, dv;                     ///< the shapes and dtypes of q, k and v, written
  Tensor dgk, dgv;                       ///< the shapes of gk and gv, their dtype or fp32, written
  const float* d_final_state = nullptr;  ///< the layout of initial_state, fp32; null: zero
  float* d_initial_state = nullptr;      ///< the same; null: not wanted
  float* flows =
      nullptr;  ///< [N + slots, H, K]: sum over V of S (.) dS behind a walk, over a sequence, or behind those over a segment

  // Of segments (KernelArgs): their own gradients of the state before them, then that of the state behind them.
  float* segment_gradients = nullptr;        ///< [slots, H, K, V]
  float* segment_gradient_decays = nullptr;  ///< [slots, H, K]: log2 of a segment's total decay

  Relay value_relay, key_relay;  ///< of the walks for dv and for dk
  /// Whether the walk for dv runs on another stream, so that the one for dk is next behind that for dq.
  int values_aside = 0;
};

/// Maps of what BackwardArgs has besides the tensors of turned(), as TensorMaps has them.
struct GradientMaps {
  TensorMap v, dq, dk, dgk;
};

/// Arguments of backward kernels that copy tensors by their maps.
struct BackwardTensorArgs : BackwardArgs {
  TensorMaps maps;  ///< of turned()'s tensors: v is dO, and o dv
  GradientMaps gradient_maps;
};

}  // namespace gla
