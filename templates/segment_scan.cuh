// Of the chunk family `segmented`: between the walk over the segments for their own states and that for the outputs.
#pragma once

#include "args.h"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "sequence.cuh"

namespace gla {

/// Chains the segments of each sequence: slot s held segment s's own state L_s and receives the state before it,
/// S_0 = initial_state, S_{s+1} = exp2(decay_s) (.) S_s + L_s. One thread per state element.
template <class Config, int Threads>
GLA_DEVICE void segment_scan(const KernelArgs& args) {
  constexpr Index kK = Config::shape.head_dim_k, kV = Config::shape.head_dim_v;
  constexpr Index kBlocks = (kK * kV + Threads - 1) / Threads;
  const Index element = block_index() % kBlocks * Threads + thread_index();
  const Index head = block_index() / kBlocks % args.heads;
  const Index n = block_index() / kBlocks / args.heads;
  if (element >= kK * kV) return;
  const Sequence sequence = sequence_of(args, n);
  const Index k = element / kV;
  const Index v = element % kV;
  const Index base = args.cu_seqlens ? sequence.begin / args.segment_tokens + n : n * args.segments;
  float value = 0;
  if (args.initial_state != nullptr) {
    const StateStrides strides = state_strides(kK, kV, Config::state_v_first);
    value = static_cast<const float*>(
        args.initial_state)[(n * args.heads + head) * kK * kV + k * strides.k + v * strides.v];
  }
  for (Index segment = 0; segment == 0 || segment * args.segment_tokens < sequence.length; ++segment) {
    const Index slot = (base + segment) * args.heads + head;
    float* state = args.segment_states + slot * kK * kV + element;
    const bool is_last = (segment + 1) * args.segment_tokens >= sequence.length;
    const float own = is_last ? 0.0f : *state;
    const float decay = is_last ? 0.0f : exp2_fast(args.segment_decays[slot * kK + k]);
    *state = value;
    value = decay * value + own;
  }
}

}  // namespace gla
