// The C ABI over gla.hpp. Nothing here throws; the message of a failure is kept per thread.
#include "gla/gla.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <string_view>

#include "call.h"
#include "gla/generator/variant.h"
#include "gla/gla.hpp"

struct gla_context {
  std::unique_ptr<gla::Context> context;
};

namespace {

using gla::Status;
using gla::StatusCode;

thread_local std::string last_error;

/// More than any version will have: a struct_size beyond this was not set.
constexpr std::size_t kLargestStruct = 4096;

gla_status report(const Status& status) {
  if (!status.ok()) last_error = status.message();
  return static_cast<gla_status>(status.code());
}

/// Runs a body that returns a Status; what the standard library throws (memory) becomes one too.
template <class Body>
gla_status guarded(Body body) noexcept {
  try {
    return report(body());
  } catch (const std::exception& error) {
    try {
      return report({StatusCode::internal, error.what()});
    } catch (...) {
      return GLA_INTERNAL;
    }
  } catch (...) {
    return GLA_INTERNAL;
  }
}

/// Reads a caller's struct of another size: a smaller one is from before version 1; in a larger one, what
/// this version does not know must be 0, so that no request is ignored silently.
template <class Struct>
Status read_struct(const Struct* given, std::string_view name, Struct& out) {
  if (given == nullptr) return gla::invalid_argument(fmt::format("{} is NULL", name));
  const std::size_t size = given->struct_size;
  if (size < sizeof(Struct) || size > kLargestStruct) {
    return gla::invalid_argument(
        fmt::format("{}->struct_size is {}; it must be sizeof(*{}) = {}", name, size, name, sizeof(Struct)));
  }
  const char* bytes = reinterpret_cast<const char*>(given);
  if (std::any_of(bytes + sizeof(Struct), bytes + size, [](char byte) { return byte != 0; })) {
    return gla::invalid_argument(
        fmt::format("{} sets fields that libgla {} does not know (struct_size {}, known {})", name,
                    gla::version(), size, sizeof(Struct)));
  }
  out = *given;
  return {};
}

/// A C enumeration may hold any int; the C++ one has a byte.
template <class Enum>
Status convert(std::string_view name, int value, int last, Enum& out) {
  if (value < 0 || value > last)
    return gla::invalid_argument(fmt::format("{} is {}; accepted: 0 to {}", name, value, last));
  out = static_cast<Enum>(value);
  return {};
}

gla::TensorView convert(const gla_tensor& tensor) {
  return {tensor.data, tensor.stride_batch, tensor.stride_token, tensor.stride_head};
}

Status convert(gla_operation operation, gla::Operation& out) {
  return convert("operation", operation, GLA_RECURRENT_BACKWARD, out);
}

/// `name`: what the caller knows the struct by.
Status convert(const gla_forward_call* given, std::string_view name, gla::ForwardCall& forward) {
  gla_forward_call call{};
  Status status = read_struct(given, name, call);
  if (status.ok()) status = convert("dtype", call.dtype, GLA_FP32, forward.dtype);
  if (status.ok()) status = convert("gate_dtype", call.gate_dtype, GLA_FP32, forward.gate_dtype);
  if (status.ok()) status = convert("state_dtype", call.state_dtype, GLA_FP32, forward.state_dtype);
  if (status.ok()) status = convert("accuracy", call.accuracy, GLA_ACCURACY_FAST, forward.accuracy);
  if (!status.ok()) return status;
  forward.q = convert(call.q);
  forward.k = convert(call.k);
  forward.v = convert(call.v);
  forward.gk = convert(call.gk);
  forward.gv = convert(call.gv);
  forward.o = convert(call.o);
  forward.initial_state = call.initial_state;
  forward.final_state = call.final_state;
  forward.cu_seqlens = call.cu_seqlens;
  forward.cu_seqlens_host = call.cu_seqlens_host;
  forward.cu_seqlens_is_int64 = call.cu_seqlens_is_int64 != 0;
  forward.fp32_gate_gradients = call.fp32_gate_gradients != 0;
  forward.batch = call.batch;
  forward.sequences = call.sequences;
  forward.tokens = call.tokens;
  forward.query_heads = call.query_heads;
  forward.heads = call.heads;
  forward.head_dim_k = call.head_dim_k;
  forward.head_dim_v = call.head_dim_v;
  forward.reverse = call.reverse != 0;
  forward.state_v_first = call.state_v_first != 0;
  if (call.has_scale != 0) forward.scale = call.scale;
  return {};
}

Status convert(const gla_backward_call* given, gla::BackwardCall& backward) {
  gla_backward_call call{};
  Status status = read_struct(given, "call", call);
  if (status.ok()) status = convert(call.forward, "call->forward", backward.forward);
  if (!status.ok()) return status;
  backward.d_o = convert(call.d_o);
  backward.dq = convert(call.dq);
  backward.dk = convert(call.dk);
  backward.dv = convert(call.dv);
  backward.dgk = convert(call.dgk);
  backward.dgv = convert(call.dgv);
  backward.d_final_state = call.d_final_state;
  backward.d_initial_state = call.d_initial_state;
  return {};
}

struct Call {
  gla::Operation operation = gla::Operation::chunk_forward;
  gla::ForwardCall forward;
};

Status check_context(const gla_context* context) {
  return context != nullptr ? Status{} : gla::invalid_argument("context is NULL");
}

/// The checks that every call on a context begins with.
Status open_call(const gla_context* context, gla_operation operation, const gla_forward_call* given,
                 Call& out) {
  Status status = check_context(context);
  if (status.ok()) status = convert(given, "call", out.forward);
  return status.ok() ? convert(operation, out.operation) : status;
}

/// The same, as far as a problem and a workload.
Status open_shapes(const gla_context* context, gla_operation operation, const gla_forward_call* given,
                   Call& out) {
  if (Status status = open_call(context, operation, given, out); !status.ok()) return status;
  return gla::check_shapes(out.operation, out.forward);
}

Status create(const gla_context_options* given, gla_context** out) {
  if (out == nullptr) return gla::invalid_argument("context is NULL");
  *out = nullptr;
  gla_context_options options{};
  if (Status status = read_struct(given, "options", options); !status.ok()) return status;
  gla::ContextOptions converted;
  converted.device = options.device;
  if (options.table != nullptr) converted.table = options.table;
  if (options.cache_dir != nullptr) converted.cache_dir = options.cache_dir;
  converted.max_multiprocessors = options.max_multiprocessors;
  if (options.log != nullptr) {
    converted.log = [callback = options.log, user = options.log_user](gla::LogLevel level,
                                                                      const std::string& message) {
      callback(user, static_cast<gla_log_level>(level), message.c_str());
    };
  }
  gla::Result<std::unique_ptr<gla::Context>> context = gla::Context::create(converted);
  if (!context.ok()) return context.status();
  *out = new gla_context{*std::move(context)};
  return {};
}

}  // namespace

extern "C" {

int gla_abi_version(void) {
  return GLA_ABI_VERSION;
}

const char* gla_version(void) {
  return GLA_VERSION;
}

const char* gla_last_error(void) {
  return last_error.c_str();
}

const char* gla_status_name(gla_status status) {
  switch (status) {
    case GLA_OK:
      return "GLA_OK";
    case GLA_INVALID_ARGUMENT:
      return "GLA_INVALID_ARGUMENT";
    case GLA_UNSUPPORTED:
      return "GLA_UNSUPPORTED";
    case GLA_NOT_PREPARED:
      return "GLA_NOT_PREPARED";
    case GLA_WORKSPACE:
      return "GLA_WORKSPACE";
    case GLA_CUDA:
      return "GLA_CUDA";
    case GLA_COMPILE:
      return "GLA_COMPILE";
    case GLA_IO:
      return "GLA_IO";
    case GLA_FORMAT:
      return "GLA_FORMAT";
    case GLA_INTERNAL:
      return "GLA_INTERNAL";
  }
  return "unknown status";
}

gla_status gla_context_create(const gla_context_options* options, gla_context** context) {
  return guarded([&] { return create(options, context); });
}

void gla_context_destroy(gla_context* context) {
  delete context;
}

gla_status gla_workspace_bytes(gla_context* context, gla_operation operation, const gla_forward_call* call,
                               size_t* bytes) {
  return guarded([&]() -> Status {
    if (bytes == nullptr) return gla::invalid_argument("bytes is NULL");
    Call converted;
    if (Status status = open_call(context, operation, call, converted); !status.ok()) return status;
    const auto needed = context->context->workspace_bytes(converted.operation, converted.forward);
    if (needed.ok()) *bytes = *needed;
    return needed.status();
  });
}

gla_status gla_forward(gla_context* context, gla_operation operation, const gla_forward_call* call,
                       void* workspace, size_t workspace_size, void* stream) {
  return guarded([&]() -> Status {
    Call converted;
    if (Status status = open_call(context, operation, call, converted); !status.ok()) return status;
    return context->context->forward(converted.operation, converted.forward, workspace, workspace_size,
                                     stream);
  });
}

gla_status gla_backward(gla_context* context, gla_operation operation, const gla_backward_call* call,
                        void* workspace, size_t workspace_size, void* stream) {
  return guarded([&]() -> Status {
    gla::Operation converted_operation{};
    gla::BackwardCall converted;
    Status status = check_context(context);
    if (status.ok()) status = convert(call, converted);
    if (status.ok()) status = convert(operation, converted_operation);
    if (!status.ok()) return status;
    return context->context->backward(converted_operation, converted, workspace, workspace_size, stream);
  });
}

gla_status gla_prepare(gla_context* context, gla_operation operation, const gla_forward_call* call) {
  return guarded([&]() -> Status {
    Call converted;
    if (Status status = open_shapes(context, operation, call, converted); !status.ok()) return status;
    const gla::Problem problem = gla::problem_of(converted.operation, converted.forward);
    const gla::Workload workload = gla::workload_of(converted.forward);
    return context->context->prepare({&problem, 1}, {&workload, 1}, converted.forward.accuracy);
  });
}

gla_status gla_pin(gla_context* context, gla_operation operation, const gla_forward_call* call,
                   const char* variant) {
  return guarded([&]() -> Status {
    Call converted;
    if (Status status = open_shapes(context, operation, call, converted); !status.ok()) return status;
    const gla::Problem problem = gla::problem_of(converted.operation, converted.forward);
    if (variant == nullptr) {
      context->context->unpin(problem);
      return {};
    }
    const gla::Result<gla::Variant> parsed = gla::parse_variant(variant);
    if (!parsed.ok()) return parsed.status();
    return context->context->pin(problem, *parsed);
  });
}

gla_status gla_describe(gla_context* context, gla_operation operation, const gla_forward_call* call,
                        char* text, size_t size) {
  return guarded([&]() -> Status {
    if (text == nullptr || size == 0) return gla::invalid_argument("text is NULL or size is 0");
    Call converted;
    if (Status status = open_shapes(context, operation, call, converted); !status.ok()) return status;
    const auto choice =
        context->context->choose(gla::problem_of(converted.operation, converted.forward),
                                 gla::workload_of(converted.forward), converted.forward.accuracy);
    if (!choice.ok()) return choice.status();
    const std::string line = fmt::format("{}; {}; {}", gla::to_string(choice->variant),
                                         gla::to_string(choice->match), choice->reason);
    const std::size_t length = std::min(line.size(), size - 1);
    std::memcpy(text, line.data(), length);
    text[length] = '\0';
    return {};
  });
}

}  // extern "C"
