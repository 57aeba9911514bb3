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

/// The first of sequence n's slots for states of segments: the next sequence's lies behind all segments that it has.
template <class Args>
GLA_DEVICE Index first_segment_slot(const Args& args, Index n) {
  if (args.cu_seqlens == nullptr) return n * args.segments;
  return cumulative_length(args.cu_seqlens, args.cu_seqlens_is_int64, n) / args.segment_tokens + n;
}

/// A segment of a sequence.
struct Segment {
  int n = 0, index = 0;
};

/// The segment of a block, in some order. Of packed sequences it is that of a slot, so that a long one gets as many blocks as
/// it has segments and a short one no more; its owner is the last n whose first slot is not behind it. Every thread looks for
/// itself: what lanes do together is not uniform to the compiler, and would take registers of the walk.
template <class Args>
GLA_DEVICE Segment segment_of(const Args& args, Index slot) {
  if (args.cu_seqlens == nullptr)
    return {static_cast<int>(slot % args.sequences), static_cast<int>(slot / args.sequences)};
  int n = 0;
  for (int end = static_cast<int>(args.sequences); end - n > 1;) {
    const int middle = n + (end - n) / 2;
    if (first_segment_slot(args, middle) <= slot) {
      n = middle;
    } else {
      end = middle;
    }
  }
  return {n, static_cast<int>(slot - first_segment_slot(args, n))};
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
