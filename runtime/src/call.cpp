#include "call.h"

#include <cmath>

namespace gla {
namespace {

Tensor tensor(const TensorView& view) {
  return {view.data, view.stride_batch, view.stride_token, view.stride_head};
}

}  // namespace

TensorView dense(void* data, std::int64_t tokens, std::int64_t heads, std::int64_t channels) {
  return {data, tokens * heads * channels, heads * channels, channels};
}

Problem problem_of(Operation operation, const ForwardCall& call) {
  Problem problem;
  problem.operation = operation;
  problem.dtype = call.dtype;
  problem.gate_k = call.gk.data != nullptr;
  problem.gate_v = call.gv.data != nullptr;
  // Without a gate its type says nothing; one problem, one kernel.
  problem.gate_dtype = problem.gate_k || problem.gate_v ? call.gate_dtype : call.dtype;
  problem.state_dtype = call.state_dtype;
  problem.head_dim_k = static_cast<std::int16_t>(call.head_dim_k);
  problem.head_dim_v = static_cast<std::int16_t>(call.head_dim_v);
  problem.group = static_cast<std::int16_t>(call.query_heads / call.heads);
  problem.reverse = call.reverse;
  problem.state_v_first = call.state_v_first;
  problem.fp32_gate_gradients = call.fp32_gate_gradients && takes_fp32_gate_gradients(problem);
  return problem;
}

Workload workload_of(const ForwardCall& call) {
  const bool packed = call.cu_seqlens != nullptr;
  return {packed ? call.sequences : call.batch, call.heads, call.tokens, packed};
}

KernelArgs kernel_args(const ForwardCall& call) {
  const Workload workload = workload_of(call);
  KernelArgs args;
  args.q = tensor(call.q);
  args.k = tensor(call.k);
  args.v = tensor(call.v);
  args.gk = tensor(call.gk);
  args.gv = tensor(call.gv);
  args.o = tensor(call.o);
  args.initial_state = call.initial_state;
  args.final_state = call.final_state;
  args.cu_seqlens = call.cu_seqlens;
  args.cu_seqlens_is_int64 = call.cu_seqlens_is_int64 ? 1 : 0;
  args.sequences = workload.sequences;
  args.tokens = workload.tokens;
  args.heads = call.heads;
  args.scale = call.scale ? *call.scale : 1.0f / std::sqrt(static_cast<float>(call.head_dim_k));
  return args;
}

BackwardArgs backward_args(const BackwardCall& call) {
  BackwardArgs args;
  static_cast<KernelArgs&>(args) = kernel_args(call.forward);
  args.o = {};
  args.final_state = nullptr;
  args.d_o = tensor(call.d_o);
  args.dq = tensor(call.dq);
  args.dk = tensor(call.dk);
  args.dv = tensor(call.dv);
  args.dgk = tensor(call.dgk);
  args.dgv = tensor(call.dgv);
  args.d_final_state = static_cast<const float*>(call.d_final_state);
  args.d_initial_state = static_cast<float*>(call.d_initial_state);
  return args;
}

}  // namespace gla
