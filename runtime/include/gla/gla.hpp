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
/// must be 16-byte aligned and every stride a multiple of gcd(16 bytes, channels * element size).
struct TensorView {
  void* data = nullptr;
  std::int64_t stride_batch = 0;
  std::int64_t stride_token = 0;
  std::int64_t stride_head = 0;
};

/// The strides of a dense [B, T, heads, channels] tensor.
TensorView dense(void* data, std::int64_t tokens, std::int64_t heads, std::int64_t channels);

/// One forward call. All pointers are device pointers of the context's device; null where optional and
/// absent.
struct ForwardCall {
  TensorView q;                         ///< [B, T, HQ, K], HQ = G*H
  TensorView k;                         ///< [B, T, H, K]
  TensorView v;                         ///< [B, T, H, V]
  TensorView gk;                        ///< [B, T, H, K], natural-log decay; optional: no decay
  TensorView gv;                        ///< [B, T, H, V]; optional; recurrent_forward only
  TensorView o;                         ///< [B, T, HQ, V], written
  const void* initial_state = nullptr;  ///< [N, H, K, V], or [N, H, V, K] when state_v_first; optional: zero
  void* final_state = nullptr;       ///< the same shape, written; optional; may be initial_state (in place)
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
  std::optional<float> scale;  ///< default K^-0.5
  Accuracy accuracy = Accuracy::standard;
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
  std::string
      table;  ///< path of a dispatch table; empty: GLA_TABLE, the user's configuration folder, shipped, model
  std::string cache_dir;  ///< cubin cache; empty: GLA_CACHE_DIR, XDG_CACHE_HOME/gla-tune, ~/.cache/gla-tune
  int max_multiprocessors = 0;  ///< 0: all; otherwise the model and the dispatch assume this many
  LogCallback log;              ///< called from any thread; may be empty
};

/// Everything for one device: table, loaded kernels, cache. All members are thread-safe.
class Context {
 public:
  static Result<std::unique_ptr<Context>> create(const ContextOptions& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Bytes of workspace that the call needs with the variant that it will get. 0 is common.
  Result<std::size_t> workspace_bytes(Operation operation, const ForwardCall& call);

  /// Enqueues the kernels of the call on `stream`. The first call of a problem compiles or loads its variant
  /// (never while the stream is captured: not_prepared). After that: no allocation, compilation or
  /// synchronisation.
  Status forward(Operation operation, const ForwardCall& call, void* workspace, std::size_t workspace_size,
                 Stream stream);
  Status chunk_forward(const ForwardCall& call, void* workspace, std::size_t workspace_size, Stream stream);
  Status recurrent_forward(const ForwardCall& call, void* workspace, std::size_t workspace_size,
                           Stream stream);

  /// Compiles and loads what these problems need for these workloads, on all cores.
  Status prepare(std::span<const Problem> problems, std::span<const Workload> workloads,
                 Accuracy accuracy = Accuracy::standard);

  /// Which variant a call of this problem and workload gets, and why.
  Result<Choice> choose(const Problem& problem, const Workload& workload, Accuracy accuracy) const;

  /// Uses `variant` for every call of `problem` until unpinned.
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
