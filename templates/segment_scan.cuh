// Of segmented chunk kernels: between the walk over the segments for their own states and that for the outputs.
#pragma once

#include "args.h"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "sequence.cuh"

namespace gla {

/// Chains the segments of each sequence: slot s held segment s's own state L_s and receives the state before it,
/// S_0 = initial_state, S_{s+1} = exp2(decay_s) (.) S_s + L_s; `kBack`, from the last segment to the first. One thread per
/// state element; what some segments have is under way before the first of them is stored.
template <class Config, int Threads, bool kBack = false>
GLA_DEVICE void segment_scan(const KernelArgs& args) {
  constexpr Index kK = Config::shape.head_dim_k, kV = Config::shape.head_dim_v;
  constexpr Index kBlocks = (kK * kV + Threads - 1) / Threads;
  constexpr int kAtOnce = 8;
  const Index element = block_index() % kBlocks * Threads + thread_index();
  const Index head = block_index() / kBlocks % args.heads;
  const Index n = block_index() / kBlocks / args.heads;
  if (element >= kK * kV) return;
  const Sequence sequence = sequence_of(args, n);
  const Index k = element / kV;
  const Index v = element % kV;
  const Index first_slot = first_segment_slot(args, n);
  const Index filled = (sequence.length + args.segment_tokens - 1) / args.segment_tokens;
  const Index segments = filled > 0 ? filled : 1;
  const auto slot = [&](Index step) {
    return (first_slot + (kBack ? segments - 1 - step : step)) * args.heads + head;
  };
  float value = 0;
  if (args.initial_state != nullptr) {
    const StateStrides strides = state_strides(kK, kV, Config::state_v_first);
    value = static_cast<const float*>(
        args.initial_state)[(n * args.heads + head) * kK * kV + k * strides.k + v * strides.v];
  }
  for (Index first = 0; first < segments; first += kAtOnce) {
    float own[kAtOnce] = {}, decay[kAtOnce] = {};
    GLA_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i + 1 >= segments) break;  // the last one's own state is for nobody
      own[i] = args.segment_states[slot(first + i) * kK * kV + element];
      decay[i] = args.segment_decays[slot(first + i) * kK + k];
    }
    GLA_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= segments) break;
      args.segment_states[slot(first + i) * kK * kV + element] = value;
      value = exp2_fast(decay[i]) * value + own[i];
    }
  }
}

}  // namespace gla
