// Problems, variants and architectures in one line each.
#pragma once

#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla::test {

/// Gates have the dtype of q.
inline Problem problem_of(Operation operation, int head_dim_k, int head_dim_v, DType dtype = DType::bf16,
                          int group = 1) {
  Problem problem;
  problem.operation = operation;
  problem.dtype = dtype;
  problem.gate_dtype = dtype;
  problem.head_dim_k = static_cast<std::int16_t>(head_dim_k);
  problem.head_dim_v = static_cast<std::int16_t>(head_dim_v);
  problem.group = static_cast<std::int16_t>(group);
  return problem;
}

inline Problem chunk_of(int head_dim_k, int head_dim_v, DType dtype = DType::bf16, int group = 1) {
  return problem_of(Operation::chunk_forward, head_dim_k, head_dim_v, dtype, group);
}

inline Problem recurrent_of(int head_dim_k, int head_dim_v, DType dtype = DType::bf16, int group = 1) {
  return problem_of(Operation::recurrent_forward, head_dim_k, head_dim_v, dtype, group);
}

inline Problem backward_of(int head_dim_k, int head_dim_v, DType dtype = DType::bf16, int group = 1) {
  return problem_of(Operation::chunk_backward, head_dim_k, head_dim_v, dtype, group);
}

inline Problem recurrent_backward_of(int head_dim_k, int head_dim_v, DType dtype = DType::bf16,
                                     int group = 1) {
  return problem_of(Operation::recurrent_backward, head_dim_k, head_dim_v, dtype, group);
}

/// (K, V) that `gla-tune tune` takes by default.
inline constexpr std::pair<int, int> kDefaultHeadDims[] = {
    {64, 64}, {128, 128}, {256, 256}, {128, 256}, {256, 512}};

inline constexpr DType kDTypes[] = {DType::fp16, DType::bf16, DType::fp32};

/// `text` is an architecture's name; a wrong one throws.
inline Architecture architecture(std::string_view text) {
  Result<Architecture> parsed = parse_architecture(text);
  if (!parsed.ok()) throw std::invalid_argument(parsed.status().message());
  return *std::move(parsed);
}

/// `text` is a variant's line; a wrong one throws.
inline Variant variant(std::string_view text) {
  Result<Variant> parsed = parse_variant(text);
  if (!parsed.ok()) throw std::invalid_argument(parsed.status().message());
  return *std::move(parsed);
}

inline Variant with(Variant variant, Parameter parameter, int value) {
  variant.set(parameter, value);
  return variant;
}

/// A problem for each combination of operation, dtypes and flags, legal or not.
inline std::vector<Problem> flag_combinations(int head_dim_k = 64, int head_dim_v = 64) {
  std::vector<Problem> problems;
  for (const Operation operation : kOperations)
    for (const DType dtype : kDTypes)
      for (const DType gate_dtype : kDTypes)
        for (const DType state_dtype : kDTypes)
          for (int flags = 0; flags < 32; ++flags) {
            Problem problem = problem_of(operation, head_dim_k, head_dim_v, dtype);
            problem.gate_dtype = gate_dtype;
            problem.state_dtype = state_dtype;
            problem.gate_k = (flags & 1) != 0;
            problem.gate_v = (flags & 2) != 0;
            problem.reverse = (flags & 4) != 0;
            problem.state_v_first = (flags & 8) != 0;
            problem.fp32_gate_gradients = (flags & 16) != 0;
            problems.push_back(problem);
          }
  return problems;
}

/// Those of flag_combinations() that check() accepts.
inline std::vector<Problem> legal_problems() {
  std::vector<Problem> legal;
  for (const Problem& problem : flag_combinations())
    if (check(problem).ok()) legal.push_back(problem);
  return legal;
}

}  // namespace gla::test
