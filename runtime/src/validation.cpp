#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string_view>

#include "call.h"
#include "call_limits.h"

namespace gla {
namespace {

constexpr std::int64_t kVectorBytes = 16;

Status out_of_range(std::string_view name, std::int64_t value, std::int64_t least, std::int64_t most) {
  return invalid_argument(fmt::format("{} is {}; accepted: {} to {}", name, value, least, most));
}

bool aligned(const void* pointer, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

Status unaligned(std::string_view name, const void* pointer, std::uintptr_t bytes) {
  return invalid_argument(fmt::format("{} is {}; it must be {}-byte aligned", name, pointer, bytes));
}

/// The extents that a tensor's strides step over.
struct Extents {
  std::int64_t batch, tokens, heads, channels;
  std::int64_t element_bytes;
};

/// The bytes from the first to past the last element cannot be counted.
bool spans_too_much(const TensorView& view, const Extents& extents) {
  std::int64_t total = extents.channels;
  const auto add = [&](std::int64_t extent, std::int64_t stride) {
    std::int64_t step = 0;
    return !__builtin_mul_overflow(extent - 1, stride, &step) && !__builtin_add_overflow(total, step, &total);
  };
  return !add(extents.batch, view.stride_batch) || !add(extents.tokens, view.stride_token) ||
         !add(extents.heads, view.stride_head) ||
         total > std::numeric_limits<std::int64_t>::max() / extents.element_bytes;
}

Status check_stride(std::string_view tensor, std::string_view which, std::int64_t stride, std::int64_t extent,
                    const Extents& extents, bool written) {
  if (extent <= 1) return {};  // never stepped over
  // Rows of an output may not overlap.
  if (stride < 0 || (written && stride < extents.channels)) {
    return invalid_argument(fmt::format("{}.stride_{} is {}; accepted: {} and up", tensor, which, stride,
                                        written ? extents.channels : 0));
  }
  const std::int64_t elements =
      std::gcd(kVectorBytes, extents.channels * extents.element_bytes) / extents.element_bytes;
  if (stride % elements != 0) {
    return invalid_argument(fmt::format("{}.stride_{} is {} elements; it must be a multiple of {}", tensor,
                                        which, stride, elements));
  }
  return {};
}

Status check_tensor(std::string_view name, const TensorView& view, const Extents& extents,
                    bool written = false) {
  if (extents.batch == 0 || extents.tokens == 0) return {};  // nothing is read: a null pointer is usual
  if (view.data == nullptr) return invalid_argument(fmt::format("{}.data is null; it is required", name));
  if (!aligned(view.data, kVectorBytes))
    return unaligned(fmt::format("{}.data", name), view.data, kVectorBytes);
  Status status = check_stride(name, "batch", view.stride_batch, extents.batch, extents, written);
  if (status.ok()) status = check_stride(name, "token", view.stride_token, extents.tokens, extents, written);
  if (status.ok()) status = check_stride(name, "head", view.stride_head, extents.heads, extents, written);
  if (status.ok() && spans_too_much(view, extents))
    return invalid_argument(fmt::format("{} spans more than 2^63 bytes by its strides", name));
  return status;
}

/// Ascending, first 0, last T.
template <class Int>
Status check_lengths(const Int* values, std::int64_t sequences, std::int64_t tokens) {
  if (values[0] != 0) return invalid_argument(fmt::format("cu_seqlens[0] is {}; it must be 0", values[0]));
  for (std::int64_t i = 0; i < sequences; ++i) {
    if (values[i + 1] < values[i]) {
      return invalid_argument(
          fmt::format("cu_seqlens[{}] is {}, less than cu_seqlens[{}] = {}; it must ascend", i + 1,
                      values[i + 1], i, values[i]));
    }
  }
  if (values[sequences] != tokens) {
    return invalid_argument(fmt::format("cu_seqlens[{}] is {}; its last value must be tokens = {}", sequences,
                                        values[sequences], tokens));
  }
  return {};
}

Status check_cu_seqlens(const ForwardCall& call) {
  const std::uintptr_t bytes = call.cu_seqlens_is_int64 ? 8 : 4;
  if (call.cu_seqlens == nullptr) {
    if (call.cu_seqlens_host != nullptr)
      return invalid_argument("cu_seqlens_host is given but cu_seqlens, the values on the device, is null");
    return {};
  }
  if (!aligned(call.cu_seqlens, bytes)) return unaligned("cu_seqlens", call.cu_seqlens, bytes);
  if (call.cu_seqlens_host == nullptr) return {};
  if (!aligned(call.cu_seqlens_host, bytes)) return unaligned("cu_seqlens_host", call.cu_seqlens_host, bytes);
  return call.cu_seqlens_is_int64 ? check_lengths(static_cast<const std::int64_t*>(call.cu_seqlens_host),
                                                  call.sequences, call.tokens)
                                  : check_lengths(static_cast<const std::int32_t*>(call.cu_seqlens_host),
                                                  call.sequences, call.tokens);
}

template <class Enum>
Status check_enum(std::string_view name, Enum value, Enum last) {
  if (value <= last) return {};
  return out_of_range(name, static_cast<int>(value), 0, static_cast<int>(last));
}

Status check_enums(Operation operation, const ForwardCall& call) {
  Status status = check_enum("operation", operation, Operation::recurrent_forward);
  if (status.ok()) status = check_enum("dtype", call.dtype, DType::fp32);
  if (status.ok()) status = check_enum("gate_dtype", call.gate_dtype, DType::fp32);
  if (status.ok()) status = check_enum("state_dtype", call.state_dtype, DType::fp32);
  if (status.ok()) status = check_enum("accuracy", call.accuracy, Accuracy::fast);
  return status;
}

Status check_heads(const ForwardCall& call) {
  if (call.heads < 1) return out_of_range("heads", call.heads, 1, kMostCount);
  if (call.query_heads < 1 || call.query_heads % call.heads != 0) {
    return invalid_argument(fmt::format("query_heads is {}; accepted: a positive multiple of heads = {}",
                                        call.query_heads, call.heads));
  }
  if (const int group = call.query_heads / call.heads; group > kMaxGroup) {
    return invalid_argument(fmt::format("query_heads / heads is {}; accepted: 1 to {}", group, kMaxGroup));
  }
  if (call.head_dim_k < 1 || call.head_dim_k > kMaxHeadDim)
    return out_of_range("head_dim_k", call.head_dim_k, 1, kMaxHeadDim);
  if (call.head_dim_v < 1 || call.head_dim_v > kMaxHeadDim)
    return out_of_range("head_dim_v", call.head_dim_v, 1, kMaxHeadDim);
  return {};
}

Status check_lengths_given(const ForwardCall& call) {
  const bool packed = call.cu_seqlens != nullptr;
  if (call.tokens < 0 || call.tokens > kMostTokens)
    return out_of_range("tokens", call.tokens, 0, kMostTokens);
  if (call.batch < 0 || call.batch > kMostCount) return out_of_range("batch", call.batch, 0, kMostCount);
  if (packed && call.batch != 1)
    return invalid_argument(fmt::format("batch is {}; with cu_seqlens it must be 1", call.batch));
  if (packed && (call.sequences < 0 || call.sequences > kMostCount))
    return out_of_range("sequences", call.sequences, 0, kMostCount);
  if (packed && call.sequences == 0 && call.tokens > 0)
    return invalid_argument(
        fmt::format("sequences is 0; with cu_seqlens it is their number, and tokens is {}", call.tokens));
  if (packed && !call.cu_seqlens_is_int64 && call.tokens > kMostCount) {
    return invalid_argument(
        fmt::format("tokens is {}; with int32 cu_seqlens up to {} are accepted (cu_seqlens_is_int64)",
                    call.tokens, kMostCount));
  }
  if (!packed && call.sequences != 0 && call.sequences != call.batch) {
    return invalid_argument(fmt::format("sequences is {}; without cu_seqlens it must be 0 or batch = {}",
                                        call.sequences, call.batch));
  }
  const std::int64_t sequences = packed ? call.sequences : call.batch;
  if (sequences * call.query_heads > kMostCount) {
    return invalid_argument(fmt::format("sequences * query_heads is {}; accepted: up to {}",
                                        sequences * call.query_heads, kMostCount));
  }
  return {};
}

/// What an operation does not offer, by the names of the call's fields.
Status check_features(Operation operation, const ForwardCall& call) {
  const bool gated = call.gk.data != nullptr || call.gv.data != nullptr;
  if (gated && call.gate_dtype != call.dtype && call.gate_dtype != DType::fp32) {
    return invalid_argument(fmt::format("gate_dtype is {}; accepted: fp32 or dtype = {}",
                                        to_string(call.gate_dtype), to_string(call.dtype)));
  }
  if (call.scale && !std::isfinite(*call.scale))
    return invalid_argument(fmt::format("scale is {}; it must be finite", *call.scale));
  if (operation == Operation::chunk_forward) {
    if (call.gv.data != nullptr)
      return invalid_argument("gv.data is not null; chunk_forward takes no gv, recurrent_forward does");
    if (call.reverse) return invalid_argument("reverse is true; chunk_forward accepts false only");
    if (call.state_dtype != DType::fp32) {
      return invalid_argument(
          fmt::format("state_dtype is {}; chunk_forward accepts fp32 only", to_string(call.state_dtype)));
    }
    // Chunk kernels count a state's elements in 32 bits.
    const std::int64_t sequences = call.cu_seqlens != nullptr ? call.sequences : call.batch;
    const std::int64_t elements = sequences * call.heads * call.head_dim_k * call.head_dim_v;
    if ((call.initial_state != nullptr || call.final_state != nullptr) && elements > kMostCount) {
      return {
          StatusCode::unsupported,
          fmt::format("{} has {} elements; chunk_forward accepts up to {}. Split the batch",
                      call.initial_state != nullptr ? "initial_state" : "final_state", elements, kMostCount)};
    }
  } else if (call.state_dtype == DType::fp16) {
    return invalid_argument("state_dtype is fp16; accepted: fp32, bf16");
  }
  return {};
}

}  // namespace

Status check_shapes(Operation operation, const ForwardCall& call) {
  Status status = check_enums(operation, call);
  if (status.ok()) status = check_heads(call);
  if (status.ok()) status = check_lengths_given(call);
  if (status.ok()) status = check_features(operation, call);
  return status;
}

Status check_tensors(const ForwardCall& call) {
  const auto bytes = [](DType dtype) { return static_cast<std::int64_t>(size_of(dtype)); };
  const auto extents = [&](int heads, int channels, DType dtype) {
    return Extents{call.batch, call.tokens, heads, channels, bytes(dtype)};
  };
  const Extents keys = extents(call.heads, call.head_dim_k, call.dtype);
  const Extents values = extents(call.heads, call.head_dim_v, call.dtype);
  Status status = check_tensor("q", call.q, extents(call.query_heads, call.head_dim_k, call.dtype));
  if (status.ok()) status = check_tensor("k", call.k, keys);
  if (status.ok()) status = check_tensor("v", call.v, values);
  if (status.ok() && call.gk.data != nullptr)
    status = check_tensor("gk", call.gk, extents(call.heads, call.head_dim_k, call.gate_dtype));
  if (status.ok() && call.gv.data != nullptr)
    status = check_tensor("gv", call.gv, extents(call.heads, call.head_dim_v, call.gate_dtype));
  if (status.ok())
    status = check_tensor("o", call.o, extents(call.query_heads, call.head_dim_v, call.dtype), true);
  if (!status.ok()) return status;

  // Blocks of other value channels read the inputs after o has been written.
  const void* o = call.o.data;
  if (o != nullptr &&
      (o == call.q.data || o == call.k.data || o == call.v.data || o == call.gk.data || o == call.gv.data))
    return invalid_argument("o.data is one of the inputs; o must have memory of its own");
  if (o != nullptr && o == call.initial_state)
    return invalid_argument("o.data is initial_state; o must have memory of its own");
  if (o != nullptr && o == call.final_state)
    return invalid_argument("final_state is o.data; each output must have memory of its own");
  if (!aligned(call.initial_state, kVectorBytes))
    return unaligned("initial_state", call.initial_state, kVectorBytes);
  if (!aligned(call.final_state, kVectorBytes))
    return unaligned("final_state", call.final_state, kVectorBytes);
  return check_cu_seqlens(call);
}

}  // namespace gla
