// Of segmented chunk kernels: between the walk over the segments for their own states and that for the outputs.
#pragma once

#include "args.h"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "segment_layout.h"
#include "sequence.cuh"

namespace gla {

/// Chains the segments of each sequence: slot s held segment s's own state L_s and receives the state before it,
/// S_0 = initial_state, S_{s+1} = exp2(decay_s) (.) S_s + L_s; `kBack`, from the last segment to the first. What some segments have
/// is under way before the first of them is stored.
template <class Config, int Threads, bool kBack = false>
GLA_DEVICE void segment_scan(const KernelArgs& args) {
  constexpr int kK = Config::shape.head_dim_k, kV = Config::shape.head_dim_v, kWidth = scan_width(kV);
  constexpr Index kElements = Index{kK} * kV;
  constexpr Index kBlocks = (kElements / kWidth + Threads - 1) / Threads;
  constexpr int kAtOnce = 16;
  using Elements = Vector<float, kWidth>;
  const Index element = (block_index() % kBlocks * Threads + thread_index()) * kWidth;
  const Index head = block_index() / kBlocks % args.heads;
  const Index place = block_index() / kBlocks / args.heads;
  if (element >= kElements) return;
  const Piece piece =
      args.cu_seqlens != nullptr ? args.schedule.cut[place] : piece_of<false, false>(args, place);
  if (piece.n < 0) return;
  const int segments = piece.pieces;
  const Index k = element / kV, v = element % kV;
  const auto slot = [&](int step) {
    return (Index{piece.first_slot} + (kBack ? segments - 1 - step : step)) * args.heads + head;
  };
  const auto state = [&](int step) {
    return reinterpret_cast<Elements*>(args.segment_states + slot(step) * kElements + element);
  };
  Elements value{};
  if (args.initial_state != nullptr) {
    const StateStrides strides = state_strides(kK, kV, Config::state_v_first);
    const float* const from = static_cast<const float*>(args.initial_state) +
                              (Index{piece.n} * args.heads + head) * kElements + k * strides.k +
                              v * strides.v;
    GLA_UNROLL
    for (int e = 0; e < kWidth; ++e) value.item[e] = from[e * strides.v];
  }
  for (int first = 0; first < segments; first += kAtOnce) {
    Elements own[kAtOnce] = {};
    float decay[kAtOnce] = {};
    GLA_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i + 1 >= segments) break;  // the last one's own state is for nobody
      own[i] = *state(first + i);
      decay[i] = args.segment_decays[slot(first + i) * kK + k];
    }
    GLA_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= segments) break;
      *state(first + i) = value;
      const float factor = exp2_fast(decay[i]);
      GLA_UNROLL
      for (int e = 0; e < kWidth; ++e) value.item[e] = factor * value.item[e] + own[i].item[e];
    }
  }
}

}  // namespace gla
