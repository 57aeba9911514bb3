// Kernel arguments: plain structs that NVRTC, the host and the emulator compile from this one file.
// One struct is a kernel's only parameter, passed by value.
#pragma once

#include "device/tensor_map.h"

namespace gla {

using Index = long long;

/// A [batch, token, head, channel] tensor: channels are contiguous, the other strides count elements.
/// Packed sequences have one batch row. A null `data` means the tensor is absent.
struct Tensor {
  void* data = nullptr;
  Index stride_batch = 0;
  Index stride_token = 0;
  Index stride_head = 0;
};

inline constexpr int kPathCounters = 2;

/// Walks over whole sequences in legs: each is a block of its own, which takes over the state from the one ahead of it in time, or
/// going back behind it. Blocks take legs in the order in which they start, all sequences' first ones first.
struct Relay {
  Index legs = 0;           ///< of each sequence, none of them empty; 0: walks are not cut
  Index leg_tokens = 0;     ///< a multiple of the chunk
  float* states = nullptr;  ///< [N, H, K, V], each of the walk's last leg that is done
  float* flows = nullptr;   ///< [N, H, K], of key_relay the same of what flows through each gate
  /// Zero at first: blocks that have started, and for each block of a launch without legs the warps that have handed on a state.
  unsigned int* counters = nullptr;
};

/// What a block of a segmented walk works on: one of the segments of a sequence, or all of it.
struct alignas(16) Piece {
  int n = -1;     ///< the sequence; negative: there is nothing for the block
  int index = 0;  ///< of the segment
  int first_slot =
      -1;          ///< of the sequence's slots for states of segments; negative: it has none, and is not cut
  int pieces = 1;  ///< that the sequence is cut into
};

/// What the blocks of a call with packed sequences work on, by schedule.cuh.
struct Schedule {
  Piece* walks =
      nullptr;  ///< [N + segments]: all there is, what has most tokens first; null: sequences as they come, not cut
  Piece* states = nullptr;  ///< [segments]: those that have another one behind them
  Piece* cut = nullptr;     ///< [segments / 2]: the first one of each sequence that is cut
  Index segments = 0;  ///< the most that all sequences have together, beside the last of each that is cut
  Index share = 0;     ///< of all tokens, what each block that there is room for has to walk; 0: not known
};

/// Arguments of every forward kernel. q, o: HQ = G*H heads; query head h*G + i belongs to key/value head h.
struct KernelArgs {
  Tensor q, k, v, gk, gv, o;
  const void* initial_state = nullptr;  ///< [N, H, K, V] or [N, H, V, K], contiguous; null: zero
  void* final_state = nullptr;          ///< the same shape; null: not wanted; may be initial_state itself
  const void* cu_seqlens = nullptr;     ///< [N+1], ascending from 0; null: sequence n is batch row n
  Index sequences = 0;                  ///< N
  Index tokens = 0;                     ///< T of every sequence, or with cu_seqlens the packed total
  int heads = 0;                        ///< H
  int cu_seqlens_is_int64 = 0;
  float scale = 1.0f;

  Index segments = 0;  ///< that each sequence is cut into; of packed ones for overlapping segments only
  // Of segments that have states in memory (segmented, walks, lines). Sequence n of a batch owns the slots from n * segments on, and
  // a packed one those from its pieces' first_slot on; those of lines are line_walk_layout.h's.
  Index segment_tokens =
      0;  ///< tokens per segment, a multiple of the chunk; packed sequences of up to twice as many are not cut
  float* segment_states =
      nullptr;  ///< [slots, H, K, V]: a segment's own state; a scan makes it the state before it
  float* segment_decays = nullptr;  ///< [slots, H, K]: log2 of a segment's total decay
  int segments_chain = 0;  ///< no scan: each finds the state before it from the own states of all before it

  Schedule schedule;
  Relay relay;  ///< of a backward operation, of the walk for dq

  /// Null, or kPathCounters counters: chunks with one pivot, and blocks of 16 tokens of those without.
  unsigned long long* path_counts = nullptr;
};

/// Maps of KernelArgs' tensors, one for all tokens: dimensions as tensor_load takes them, channel, token, head, batch. A box
/// is LaunchPlan's boxes.rows tokens of 128 bytes of channels, swizzled as warpgroup.cuh's panels. What is absent or
/// empty has no map.
struct TensorMaps {
  TensorMap q, k, v, gk, o;
};

/// Arguments of forward kernels that copy tensors by their maps.
struct TensorArgs : KernelArgs {
  TensorMaps maps;
};

/// What a random input is for; it decides the distribution.
enum class Fill : int {
  normal = 0,    ///< standard normal * scale
  log_gate = 1,  ///< logsigmoid(normal) * scale
  poison = 2,    ///< the dtype's quiet NaN
};

/// Arguments of the tool "fill": element i of a flat buffer becomes a function of (seed, i).
struct FillArgs {
  void* data = nullptr;
  Index count = 0;
  unsigned long long seed = 0;
  int dtype = 0;  ///< DType: 0 fp16, 1 bf16, 2 fp32
  int fill = 0;   ///< Fill
  float scale = 1.0f;
  float reset_probability = 0.0f;  ///< log_gate: an element becomes -inf with this probability
  float growth_probability =
      0.0f;  ///< log_gate: an element becomes -value/4 (a gate above 0) with this probability
};

/// Sums over one (sequence, head) of an output.
struct CompareSums {
  double squared_error = 0;
  double squared_reference = 0;
  Index nan_mismatches = 0;  ///< NaN or inf in one and not in the other
};

/// Arguments of the tool "compare": block (n * outer + h) sums over tokens and channels of sequence n, head
/// h.
struct CompareArgs {
  Tensor value;      ///< dtype below
  Tensor reference;  ///< fp32
  const void* cu_seqlens = nullptr;
  Index sequences = 0;
  Index tokens = 0;
  int heads = 0;  ///< heads of the tensor (HQ for o; for a state: H, tokens = rows, channels = columns)
  int channels = 0;
  int cu_seqlens_is_int64 = 0;
  int dtype = 0;
  CompareSums* sums = nullptr;  ///< [N, heads]
};

}  // namespace gla
