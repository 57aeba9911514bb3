#include "outputs.h"

#include <utility>

namespace gla {
namespace {

/// The argument of an output that is no state.
Tensor BackwardArgs::*tensor_of(Output output) {
  switch (output) {
    case Output::dq:
      return &BackwardArgs::dq;
    case Output::dk:
      return &BackwardArgs::dk;
    case Output::dv:
      return &BackwardArgs::dv;
    case Output::dgk:
      return &BackwardArgs::dgk;
    case Output::dgv:
      return &BackwardArgs::dgv;
    default:
      return &BackwardArgs::o;
  }
}

}  // namespace

std::string_view to_string(Output output) {
  constexpr std::string_view kNames[] = {"o",  "final_state", "dq",  "dk",
                                         "dv", "dgk",         "dgv", "d_initial_state"};
  return kNames[static_cast<std::size_t>(output)];
}

std::string_view key_of(Output output) {
  return output == Output::final_state ? "state" : to_string(output);
}

Problem forward_of(const Problem& problem) {
  Problem forward = problem;
  forward.fp32_gate_gradients = false;
  if (is_backward(problem.operation))
    forward.operation =
        is_recurrent(problem.operation) ? Operation::recurrent_forward : Operation::chunk_forward;
  return forward;
}

std::vector<Output> outputs_of(const Problem& problem) {
  if (!is_backward(problem.operation)) return {Output::o, Output::final_state};
  std::vector<Output> outputs{Output::dq, Output::dk, Output::dv};
  if (problem.gate_k) outputs.push_back(Output::dgk);
  if (problem.gate_v) outputs.push_back(Output::dgv);
  outputs.push_back(Output::d_initial_state);
  return outputs;
}

bool is_wanted(Output output, bool final_state, unsigned gradients) {
  switch (output) {
    case Output::o:
      return true;
    case Output::final_state:
      return final_state;
    case Output::dq:
      return (gradients & kGradientQ) != 0;
    case Output::dk:
      return (gradients & kGradientK) != 0;
    case Output::dv:
      return (gradients & kGradientV) != 0;
    case Output::dgk:
      return (gradients & kGradientGk) != 0;
    case Output::dgv:
      return (gradients & kGradientGv) != 0;
    case Output::d_initial_state:
      return (gradients & kGradientState) != 0;
  }
  return false;
}

DType dtype_of(const Problem& problem, Output output) {
  if (is_state(output)) return problem.state_dtype;
  return output == Output::dgk || output == Output::dgv ? gate_gradient_dtype(problem) : problem.dtype;
}

Extent extent_of(const Problem& problem, Output output, std::vector<std::int64_t> lengths,
                 std::int64_t heads) {
  std::int64_t rows = problem.head_dim_k, channels = problem.head_dim_v;
  if (is_state(output)) {
    if (problem.state_v_first) std::swap(rows, channels);
    return {std::vector<std::int64_t>(lengths.size(), rows), heads, channels, true};
  }
  const bool of_queries = output == Output::o || output == Output::dq;
  const bool of_values = output == Output::o || output == Output::dv || output == Output::dgv;
  return {std::move(lengths), of_queries ? heads * problem.group : heads, of_values ? channels : rows, false};
}

Tensor output_of(const BackwardArgs& args, Output output) {
  if (output == Output::final_state) return {.data = args.final_state};
  if (output == Output::d_initial_state) return {.data = args.d_initial_state};
  return args.*tensor_of(output);
}

void set_output(BackwardArgs& args, Output output, const Tensor& memory) {
  if (output == Output::final_state)
    args.final_state = memory.data;
  else if (output == Output::d_initial_state)
    args.d_initial_state = static_cast<float*>(memory.data);
  else
    args.*tensor_of(output) = memory;
}

}  // namespace gla
