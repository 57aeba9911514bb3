#include "gla/generator/problem.h"

#include "names.h"

namespace gla {
namespace {

constexpr std::array<std::string_view, 4> kOperationNames = {"chunk_forward", "recurrent_forward",
                                                             "chunk_backward", "recurrent_backward"};
constexpr std::array<std::string_view, 3> kDTypes = {"fp16", "bf16", "fp32"};
constexpr std::array<std::string_view, 2> kAccuracies = {"default", "fast"};

Status check_range(std::string_view name, int value, int most) {
  if (value >= 1 && value <= most) return {};
  return invalid_argument(fmt::format("{} is {}; accepted: 1 to {}", name, value, most));
}

}  // namespace

std::string_view to_string(Operation operation) {
  return name_of(kOperationNames, operation);
}
std::string_view to_string(DType dtype) {
  return name_of(kDTypes, dtype);
}
std::string_view to_string(Accuracy accuracy) {
  return name_of(kAccuracies, accuracy);
}

Result<Operation> parse_operation(std::string_view text) {
  return value_of<Operation>(kOperationNames, "operation", text);
}
Result<DType> parse_dtype(std::string_view text) {
  return value_of<DType>(kDTypes, "dtype", text);
}
Result<Accuracy> parse_accuracy(std::string_view text) {
  return value_of<Accuracy>(kAccuracies, "accuracy", text);
}

std::size_t size_of(DType dtype) {
  return dtype == DType::fp32 ? 4 : 2;
}

std::string to_string(const Problem& problem) {
  std::string gates;
  if (problem.gate_k) gates += fmt::format(" gk:{}", to_string(problem.gate_dtype));
  if (problem.gate_v) gates += fmt::format(" gv:{}", to_string(problem.gate_dtype));
  if (problem.fp32_gate_gradients) gates += " dg:fp32";
  if (!problem.gate_k && !problem.gate_v) gates = fmt::format(" ungated:{}", to_string(problem.gate_dtype));
  return fmt::format("{} {} K{} V{} G{}{} state:{}{}{}", to_string(problem.operation),
                     to_string(problem.dtype), problem.head_dim_k, problem.head_dim_v, problem.group, gates,
                     to_string(problem.state_dtype), problem.state_v_first ? " state_v_first" : "",
                     problem.reverse ? " reverse" : "");
}

std::string to_string(const Workload& workload) {
  return fmt::format("N{} H{} T{}{}", workload.sequences, workload.heads, workload.tokens,
                     workload.packed ? " packed" : "");
}

Status check(const Problem& problem) {
  if (Status status = check_range("head_dim_k", problem.head_dim_k, kMaxHeadDim); !status.ok()) return status;
  if (Status status = check_range("head_dim_v", problem.head_dim_v, kMaxHeadDim); !status.ok()) return status;
  if (Status status = check_range("group (query heads / heads)", problem.group, kMaxGroup); !status.ok())
    return status;
  if (problem.gate_dtype != problem.dtype && problem.gate_dtype != DType::fp32) {
    return invalid_argument(fmt::format("gate_dtype is {}; accepted: fp32 or the dtype of q ({})",
                                        to_string(problem.gate_dtype), to_string(problem.dtype)));
  }
  if (problem.fp32_gate_gradients && !takes_fp32_gate_gradients(problem)) {
    return invalid_argument(
        "fp32_gate_gradients is true; accepted of backward operations with gates of 16 bits only");
  }
  const std::string_view name = to_string(problem.operation);
  if (!is_recurrent(problem.operation)) {
    const std::string_view recurrent = to_string(
        is_backward(problem.operation) ? Operation::recurrent_backward : Operation::recurrent_forward);
    if (problem.gate_v)
      return invalid_argument(fmt::format("gv is given; {} accepts gk only, {} takes both", name, recurrent));
    if (problem.reverse) {
      return invalid_argument(
          fmt::format("reverse is true; {} accepts false only, {} takes both", name, recurrent));
    }
  }
  if (problem.operation != Operation::recurrent_forward) {
    if (problem.state_dtype != DType::fp32) {
      return invalid_argument(
          fmt::format("state_dtype is {}; {} accepts fp32 only", to_string(problem.state_dtype), name));
    }
  } else if (problem.state_dtype == DType::fp16) {
    return invalid_argument("state_dtype is fp16; accepted: fp32, bf16");
  }
  return {};
}

Problem tuning_key(const Problem& problem) {
  Problem key = problem;
  key.reverse = false;
  key.state_v_first = false;
  key.state_dtype = DType::fp32;
  key.fp32_gate_gradients = false;
  if (!key.gate_k && !key.gate_v) key.gate_dtype = key.dtype;
  return key;
}

}  // namespace gla
