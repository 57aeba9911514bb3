#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
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
  Status status = check_enum("operation", operation, Operation::recurrent_backward);
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

Status check_lengths_given(Operation operation, const ForwardCall& call) {
  const bool packed = call.cu_seqlens != nullptr;
  const std::int64_t most =
      operation == Operation::recurrent_backward ? kMostRecurrentBackwardTokens : kMostTokens;
  if (call.tokens < 0 || call.tokens > most) return out_of_range("tokens", call.tokens, 0, most);
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
  if (operation == Operation::recurrent_forward) {
    if (call.state_dtype != DType::fp16) return {};
    return invalid_argument("state_dtype is fp16; accepted: fp32, bf16");
  }
  if (call.gv.data != nullptr && !is_recurrent(operation)) {
    return invalid_argument(fmt::format("gv.data is not null; {} takes no gv, only recurrent operations do",
                                        to_string(operation)));
  }
  if (call.reverse && !is_recurrent(operation))
    return invalid_argument(fmt::format("reverse is true; {} accepts false only", to_string(operation)));
  if (call.state_dtype != DType::fp32) {
    return invalid_argument(fmt::format("state_dtype is {}; {} accepts fp32 only",
                                        to_string(call.state_dtype), to_string(operation)));
  }
  return {};
}

struct NamedPointer {
  std::string_view name;
  const void* pointer;
};

/// `output` is none of the others, or null.
Status check_own_memory(const NamedPointer& output, std::span<const NamedPointer> others) {
  if (output.pointer == nullptr) return {};
  for (const NamedPointer& other : others) {
    if (output.pointer == other.pointer) {
      return invalid_argument(
          fmt::format("{} is {}; it must have memory of its own", output.name, other.name));
    }
  }
  return {};
}

Extents extents_of(const ForwardCall& call, int heads, int channels, DType dtype) {
  return {call.batch, call.tokens, heads, channels, static_cast<std::int64_t>(size_of(dtype))};
}

// Of a tensor and of its gradient, which may have different types if they are of gates.
Extents extents_of_q(const ForwardCall& call) {
  return extents_of(call, call.query_heads, call.head_dim_k, call.dtype);
}
Extents extents_of_k(const ForwardCall& call) {
  return extents_of(call, call.heads, call.head_dim_k, call.dtype);
}
Extents extents_of_v(const ForwardCall& call) {
  return extents_of(call, call.heads, call.head_dim_v, call.dtype);
}
Extents extents_of_gk(const ForwardCall& call, DType dtype) {
  return extents_of(call, call.heads, call.head_dim_k, dtype);
}
Extents extents_of_gv(const ForwardCall& call, DType dtype) {
  return extents_of(call, call.heads, call.head_dim_v, dtype);
}
Extents extents_of_o(const ForwardCall& call) {
  return extents_of(call, call.query_heads, call.head_dim_v, call.dtype);
}

/// What both directions read.
Status check_inputs(const ForwardCall& call) {
  Status status = check_tensor("q", call.q, extents_of_q(call));
  if (status.ok()) status = check_tensor("k", call.k, extents_of_k(call));
  if (status.ok()) status = check_tensor("v", call.v, extents_of_v(call));
  if (status.ok() && call.gk.data != nullptr)
    status = check_tensor("gk", call.gk, extents_of_gk(call, call.gate_dtype));
  if (status.ok() && call.gv.data != nullptr)
    status = check_tensor("gv", call.gv, extents_of_gv(call, call.gate_dtype));
  if (!status.ok()) return status;
  if (!aligned(call.initial_state, kVectorBytes))
    return unaligned("initial_state", call.initial_state, kVectorBytes);
  return check_cu_seqlens(call);
}

/// What dgk and dgv need besides their memory.
Status check_gate_gradients(Operation operation, const BackwardCall& call, DType dtype) {
  if (call.dgv.data != nullptr && call.forward.gv.data == nullptr)
    return invalid_argument("dgv.data is not null; it goes with gv, and gv.data is null");
  if (call.dgk.data == nullptr) return {};
  if (call.forward.gk.data == nullptr)
    return invalid_argument("dgk.data is not null; it goes with gk, and gk.data is null");
  if (is_recurrent(operation) || dtype == DType::fp32 || call.dk.data != nullptr) return {};
  return invalid_argument(fmt::format(
      "dk.data is null; dgk of {} needs it, for 16 bits cannot hold what one kernel leaves of dgk "
      "for the next: half of it lies in dk's memory; with fp32_gate_gradients it does not",
      to_string(dtype)));
}

}  // namespace

Status check_shapes(Operation operation, const ForwardCall& call) {
  Status status = check_enums(operation, call);
  if (status.ok()) status = check_heads(call);
  if (status.ok()) status = check_lengths_given(operation, call);
  if (status.ok()) status = check_features(operation, call);
  return status;
}

Status check_tensors(const ForwardCall& call) {
  Status status = check_inputs(call);
  if (status.ok()) status = check_tensor("o", call.o, extents_of_o(call), true);
  if (!status.ok()) return status;
  if (!aligned(call.final_state, kVectorBytes))
    return unaligned("final_state", call.final_state, kVectorBytes);

  // Blocks of other value channels read the inputs after o has been written.
  const NamedPointer others[] = {{"q.data", call.q.data},          {"k.data", call.k.data},
                                 {"v.data", call.v.data},          {"gk.data", call.gk.data},
                                 {"gv.data", call.gv.data},        {"initial_state", call.initial_state},
                                 {"final_state", call.final_state}};
  return check_own_memory({"o.data", call.o.data}, others);
}

Status check_tensors(Operation operation, const BackwardCall& call) {
  const ForwardCall& forward = call.forward;
  const DType of_gates = gate_gradient_dtype(problem_of(operation, forward));
  Status status = check_inputs(forward);
  if (status.ok()) status = check_tensor("d_o", call.d_o, extents_of_o(forward));
  if (status.ok()) status = check_gate_gradients(operation, call, of_gates);
  const auto check_wanted = [&](std::string_view name, const TensorView& view, const Extents& extents) {
    if (status.ok() && view.data != nullptr) status = check_tensor(name, view, extents, true);
  };
  check_wanted("dq", call.dq, extents_of_q(forward));
  check_wanted("dk", call.dk, extents_of_k(forward));
  check_wanted("dv", call.dv, extents_of_v(forward));
  check_wanted("dgk", call.dgk, extents_of_gk(forward, of_gates));
  check_wanted("dgv", call.dgv, extents_of_gv(forward, of_gates));
  if (!status.ok()) return status;
  const NamedPointer states[] = {{"d_final_state", call.d_final_state},
                                 {"d_initial_state", call.d_initial_state}};
  for (const auto& [name, state] : states) {
    if (!aligned(state, kVectorBytes)) return unaligned(name, state, kVectorBytes);
  }

  const NamedPointer all[] = {{"q.data", forward.q.data},
                              {"k.data", forward.k.data},
                              {"v.data", forward.v.data},
                              {"gk.data", forward.gk.data},
                              {"gv.data", forward.gv.data},
                              {"d_o.data", call.d_o.data},
                              {"initial_state", forward.initial_state},
                              {"d_final_state", call.d_final_state},
                              {"dq.data", call.dq.data},
                              {"dk.data", call.dk.data},
                              {"dv.data", call.dv.data},
                              {"dgk.data", call.dgk.data},
                              {"dgv.data", call.dgv.data},
                              {"d_initial_state", call.d_initial_state}};
  constexpr std::size_t kFirstOutput = 8;
  for (std::size_t i = kFirstOutput; status.ok() && i < std::size(all); ++i)
    status = check_own_memory(all[i], std::span(all).first(i));
  return status;
}

}  // namespace gla
