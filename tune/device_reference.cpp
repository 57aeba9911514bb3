#include "device_reference.h"

namespace gla {

Result<DeviceReference> DeviceReference::make(const Gpu& gpu, const Tools& tools, const Problem& problem,
                                              const BackwardArgs& call) {
  DeviceReference reference(problem, call);
  BackwardArgs args = call;
  for (const Output output : outputs_of(problem)) {
    const std::int64_t blocks = is_state(output) ? call.sequences : reference.batch();
    Tensor tensor = reference.dense(output);
    auto buffer =
        DeviceBuffer::allocate(gpu, static_cast<std::size_t>(blocks * tensor.stride_batch) * sizeof(float));
    if (!buffer.ok()) return buffer.status();
    DeviceBuffer& answer = reference.answers_[output] = *std::move(buffer);
    tensor.data = answer.data();
    set_output(args, output, tensor);
  }
  // Scratch of the gradients' reference (templates/verification.cuh).
  DeviceBuffer flows;
  if (is_backward(problem.operation)) {
    const std::int64_t rows = reference.batch() * call.tokens * call.heads;
    const std::int64_t channels = problem.head_dim_k + problem.head_dim_v;
    auto buffer = DeviceBuffer::allocate(gpu, static_cast<std::size_t>(rows * channels) * sizeof(double));
    if (!buffer.ok()) return buffer.status();
    flows = *std::move(buffer);
    args.flows = static_cast<float*>(flows.data());
  }
  GLA_RETURN_IF_ERROR(tools.naive(args));
  GLA_RETURN_IF_ERROR(gpu.synchronize());
  return reference;
}

Tensor DeviceReference::dense(Output output) const {
  const Extent extent = extent_of(problem_, output, {1}, call_.heads);
  if (is_state(output)) {
    const std::int64_t head = extent.lengths.front() * extent.channels;
    return {.stride_batch = head * extent.heads, .stride_token = extent.channels, .stride_head = head};
  }
  const std::int64_t token = extent.heads * extent.channels;
  return {.stride_batch = call_.tokens * token, .stride_token = token, .stride_head = extent.channels};
}

Result<std::vector<CompareSums>> DeviceReference::compare(const Tools& tools, Output output,
                                                          Tensor value) const {
  const Extent extent = extent_of(problem_, output, {1}, call_.heads);
  CompareArgs args;
  args.reference = dense(output);
  if (is_state(output)) {
    void* const state = value.data;
    value = args.reference;
    value.data = state;
    args.tokens = extent.lengths.front();
  } else {
    args.cu_seqlens = call_.cu_seqlens;
    args.cu_seqlens_is_int64 = call_.cu_seqlens_is_int64;
    args.tokens = call_.tokens;
  }
  args.reference.data = answers_[output].data();
  args.value = value;
  args.sequences = call_.sequences;
  args.heads = static_cast<int>(extent.heads);
  args.channels = static_cast<int>(extent.channels);
  args.dtype = static_cast<int>(dtype_of(problem_, output));
  return tools.compare(args);
}

}  // namespace gla
