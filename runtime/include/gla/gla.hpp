// libgla, the C++ API: launch the best gated-linear-attention kernel for a call. Operator, shapes and words:
// problem.h of the generator; Yang et al., arXiv 2312.06635.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gla/generator/problem.h"
#include "gla/generator/status.h"
#include "gla/generator/variant.h"

namespace gla {

/// A stream of the CUDA driver or runtime API (CUstream, cudaStream_t); null is the legacy default stream.
using Stream = void*;

/// A device tensor [batch, token, head, channel]. Channels are contiguous; strides count elements. Addresses
/// must be 16-byte aligned and every stride a multiple of gcd(16 bytes, channels * element size). A stride
/// that is never stepped over (one batch row, one token, one head) may be anything; a stride of 0 repeats an
/// input; those of an output are at least its channels.
struct TensorView {
  void* data = nullptr;
  std::int64_t stride_batch = 0;
  std::int64_t stride_token = 0;
  std::int64_t stride_head = 0;
};

/// The strides of a dense [B, T, heads, channels] tensor.
TensorView dense(void* data, std::int64_t tokens, std::int64_t heads, std::int64_t channels);

/// One forward call. All pointers are device pointers of the context's device; null where optional and
/// absent. o may not overlap an input or a state, final_state nothing but the whole of initial_state. Limits:
/// K, V up to 512, HQ / H up to 64, N * HQ under 2^31, T up to 2^40 (2^31 - 1 with int32 cu_seqlens);
/// sequences without tokens are legal, and so are N = 0 and T = 0 (q, k, v and o may then be null). A variant
/// whose grid for the call would exceed CUDA's 2^31 - 1 blocks is `unsupported`: split the batch.
struct ForwardCall {
  TensorView q;                         ///< [B, T, HQ, K], HQ = G*H
  TensorView k;                         ///< [B, T, H, K]
  TensorView v;                         ///< [B, T, H, V]
  TensorView gk;                        ///< [B, T, H, K], natural-log decay; optional: no decay
  TensorView gv;                        ///< [B, T, H, V]; optional; recurrent operations only
  TensorView o;                         ///< [B, T, HQ, V], written
  const void* initial_state = nullptr;  ///< [N, H, K, V], or [N, H, V, K] when state_v_first; optional: zero
  void* final_state =
      nullptr;  ///< the same shape, written; optional; may be initial_state (docs/runtime.md: the cost)
  const void* cu_seqlens = nullptr;  ///< [N+1] on the device, ascending from 0 to T; optional; then B = 1
  /// The same values on the host, optional: checked if given (ascending, first 0, last T), never needed.
  const void* cu_seqlens_host = nullptr;
  bool cu_seqlens_is_int64 = false;

  std::int64_t batch = 1;      ///< B
  std::int64_t sequences = 0;  ///< N with cu_seqlens; otherwise 0 or B
  std::int64_t tokens = 0;     ///< T
  int query_heads = 0;         ///< HQ
  int heads = 0;               ///< H
  int head_dim_k = 0;          ///< K
  int head_dim_v = 0;          ///< V
  DType dtype = DType::bf16;
  DType gate_dtype = DType::bf16;
  DType state_dtype = DType::fp32;
  bool reverse = false;
  bool state_v_first = false;
  bool fp32_gate_gradients = false;  ///< of backward operations: dgk and dgv in fp32, whatever gk and gv are
  std::optional<float> scale;        ///< default K^-0.5
  Accuracy accuracy = Accuracy::standard;
};

/// The gradients of a forward call: of its inputs, from those of its outputs. All pointers are device pointers under
/// ForwardCall's rules. Outputs are optional, written whole where given (zero rows where there is no gradient), and what is
/// left out is not computed; none may overlap anything else. Each comes in its input's dtype, those of gates in fp32 on request
/// (forward.fp32_gate_gradients), those of states in fp32, which the states are too. chunk_backward is `unsupported` for head
/// dims whose kernels do not fit the GPU: all reach 256 in 16 bits and 128 in fp32. recurrent_backward has all that
/// recurrent_forward has but bf16 states, with T up to 2^30; it takes gradients of a chunk_forward call too, more slowly.
struct BackwardCall {
  ForwardCall forward;                  ///< the call itself; its o and final_state are not looked at
  TensorView d_o;                       ///< [B, T, HQ, V], of the dtype of o
  const void* d_final_state = nullptr;  ///< the layout of initial_state, fp32; optional: zero
  TensorView dq;                        ///< [B, T, HQ, K]
  TensorView dk;                        ///< [B, T, H, K]
  TensorView dv;                        ///< [B, T, H, V]
  TensorView dgk;  ///< [B, T, H, K]; goes with gk, and of 16 bits it wants dk too in chunk_backward
  TensorView dgv;  ///< [B, T, H, V]; goes with gv
  void* d_initial_state = nullptr;  ///< the layout of initial_state, fp32, whether that is given or not
};

/// How well the chosen variant fits the call, best first.
enum class Match {
  pinned,       ///< the caller chose it
  exact,        ///< a measured point of this GPU for this workload's bucket
  nearest,      ///< this GPU's table, nearest point
  similar_gpu,  ///< a table of another GPU of the same architecture
  model,        ///< no table fits: the cost model chose
};
std::string_view to_string(Match match);

/// What the runtime decided for a problem and workload, and why.
struct Choice {
  Variant variant;
  Match match = Match::model;
  std::string table;   ///< path of the table, empty for the model
  std::string reason;  ///< one sentence
};

enum class LogLevel { debug, info, warning };
using LogCallback = std::function<void(LogLevel, const std::string&)>;

struct ContextOptions {
  int device = 0;  ///< CUDA ordinal; its primary context is used
  /// Path of a dispatch table, or "none" for the model alone. Empty: GLA_TABLE (likewise), then
  /// XDG_CONFIG_HOME/gla-tune/tables or ~/.config/gla-tune/tables, then the tables that ship, then the model
  /// (docs/table.md).
  std::string table;
  std::string cache_dir;  ///< cubin cache; empty: GLA_CACHE_DIR, XDG_CACHE_HOME/gla-tune, ~/.cache/gla-tune
  int max_multiprocessors = 0;  ///< 0: all; otherwise the model and the dispatch assume this many
  /// Called from any thread, by prepare() from several at once; may be empty. It may call choose(), not what
  /// loads kernels.
  LogCallback log;
};

/// Everything for one device: table, loaded kernels, cache. All members are thread-safe. Destroy it when the
/// streams that it was used on are done: the kernels are unloaded.
class Context {
 public:
  /// `cuda` without a driver or GPU, `unsupported` for a GPU below compute capability 8.0, `io` or `format`
  /// if a table that was named cannot be read.
  static Result<std::unique_ptr<Context>> create(const ContextOptions& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Bytes of workspace that the call needs with the variant that it will get. 0 is common. Of the pointers
  /// only the presence of gk, gv and cu_seqlens matters, and whether final_state is initial_state: some variants
  /// then need a copy of that. The workspace must be 256-byte aligned; its content
  /// does not matter, and calls on one stream may share one.
  Result<std::size_t> workspace_bytes(Operation operation, const ForwardCall& call);

  /// Enqueues the kernels of the call on `stream`. The first call that needs a variant compiles or loads it
  /// (never while the stream is captured: not_prepared). After that: no allocation, compilation or
  /// synchronisation. An argument outside what is documented is refused before anything is enqueued, by name:
  /// `invalid_argument`, or `workspace` for one that is missing or too small. `compile` without NVRTC or where
  /// it fails, `cuda` where the driver does.
  Status forward(Operation operation, const ForwardCall& call, void* workspace, std::size_t workspace_size,
                 Stream stream);
  Status chunk_forward(const ForwardCall& call, void* workspace, std::size_t workspace_size, Stream stream);
  Status recurrent_forward(const ForwardCall& call, void* workspace, std::size_t workspace_size,
                           Stream stream);

  /// The same for a backward operation. workspace_bytes(operation, call.forward) is its workspace.
  Status backward(Operation operation, const BackwardCall& call, void* workspace, std::size_t workspace_size,
                  Stream stream);
  Status chunk_backward(const BackwardCall& call, void* workspace, std::size_t workspace_size, Stream stream);
  Status recurrent_backward(const BackwardCall& call, void* workspace, std::size_t workspace_size,
                            Stream stream);

  /// Compiles and loads what these problems need for these workloads, on all cores. Other workloads of the
  /// same buckets (docs/runtime.md) are then prepared too.
  Status prepare(std::span<const Problem> problems, std::span<const Workload> workloads,
                 Accuracy accuracy = Accuracy::standard);

  /// Which variant a call of this problem and workload gets, and why.
  Result<Choice> choose(const Problem& problem, const Workload& workload, Accuracy accuracy) const;

  /// Uses `variant` for every call of `problem` until unpinned. Loads nothing: the next call or prepare()
  /// does.
  Status pin(const Problem& problem, const Variant& variant);
  void unpin(const Problem& problem);

 private:
  struct Impl;
  explicit Context(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Library version "major.minor.patch".
std::string_view version();

}  // namespace gla
