// Which rows of which tensors a block works on: dense batches and packed sequences look the same from here on.
#pragma once

#include "args.h"
#include "device/platform.cuh"

namespace gla {

/// The tokens of one sequence: rows [begin, begin + length) of batch row `batch`.
struct Sequence {
  Index batch = 0;
  Index begin = 0;
  Index length = 0;
};

/// cu_seqlens[i], int32 or int64.
GLA_DEVICE Index cumulative_length(const void* cu_seqlens, int is_int64, Index i) {
  return is_int64 ? static_cast<const long long*>(cu_seqlens)[i] : static_cast<const int*>(cu_seqlens)[i];
}

/// Works on every argument struct that names its fields as KernelArgs does.
template <class Args>
GLA_DEVICE Sequence sequence_of(const Args& args, Index n) {
  if (args.cu_seqlens == nullptr) return {n, 0, args.tokens};
  const Index begin = cumulative_length(args.cu_seqlens, args.cu_seqlens_is_int64, n);
  return {0, begin, cumulative_length(args.cu_seqlens, args.cu_seqlens_is_int64, n + 1) - begin};
}

GLA_DEVICE bool has_slots(const Piece& piece) {
  return piece.first_slot >= 0;
}
GLA_DEVICE bool is_last(const Piece& piece) {
  return piece.index + 1 == piece.pieces;
}

/// The piece of a block of a segmented walk. Of those for states alone (`kStates`) packed sequences have none for a segment that
/// nothing follows in the walk, forward or `kBack`.
template <bool kStates, bool kBack, class Args>
GLA_DEVICE Piece piece_of(const Args& args, Index block) {
  if (args.cu_seqlens == nullptr) {
    const int segments = static_cast<int>(args.segments), n = static_cast<int>(block % args.sequences);
    return {n, static_cast<int>(block / args.sequences), n * segments, segments};
  }
  if (args.schedule.walks == nullptr) return {.n = static_cast<int>(block)};
  Piece piece = (kStates ? args.schedule.states : args.schedule.walks)[block];
  if (kStates && kBack) ++piece.index;
  return piece;
}

/// Address of the first channel of token `token` of a sequence.
template <class T>
GLA_DEVICE T* row_of(const Tensor& tensor, const Sequence& sequence, Index token, Index head) {
  return static_cast<T*>(tensor.data) + sequence.batch * tensor.stride_batch +
         (sequence.begin + token) * tensor.stride_token + head * tensor.stride_head;
}

/// Strides of one head's state in elements; the state of (sequence n, head h) starts at (n * H + h) * K * V.
struct StateStrides {
  Index k, v;
};
GLA_DEVICE StateStrides state_strides(int head_dim_k, int head_dim_v, bool v_first) {
  return v_first ? StateStrides{1, head_dim_k} : StateStrides{head_dim_v, 1};
}

}  // namespace gla
