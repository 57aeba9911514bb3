#include "workload_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "case_fill.h"
#include "outputs.h"

namespace gla {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr double kL2Multiple = 4.2;
constexpr std::size_t kMostSets = 512;
constexpr unsigned long long kSeed = 7;

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

/// One tensor of a set, and how it is filled.
struct Part {
  std::size_t elements = 0;
  DType dtype = DType::fp32;
  FillArgs fill;
  std::size_t offset = 0;  ///< in the arena; the tensors of one kind lie together, set by set

  std::size_t bytes() const { return aligned(elements * size_of(dtype)); }
};

}  // namespace

Result<WorkloadInputs> WorkloadInputs::make(const Gpu& gpu, const Tools& tools, const Problem& problem,
                                            const Workload& workload, Gates gates, bool states) {
  const std::int64_t batch = workload.packed ? 1 : workload.sequences;
  const std::int64_t rows = batch * workload.tokens * workload.heads;
  const auto elements = [&](std::int64_t count, std::int64_t channels) {
    return static_cast<std::size_t>(count * channels);
  };
  const std::int64_t dim_k = problem.head_dim_k, dim_v = problem.head_dim_v;
  const std::size_t state = states ? elements(workload.sequences * workload.heads * dim_k, dim_v) : 0;
  enum Kind { kQ, kK, kV, kGk, kGv, kInitial, kDO, kDFinal, kFirstOutput };
  const FillArgs normal = normal_fill(0), gate = gate_fill(gates, 0);  // seeds follow
  const bool backward = is_backward(problem.operation);
  std::vector<Part> parts = {{elements(rows * problem.group, dim_k), problem.dtype, normal},
                             {elements(rows, dim_k), problem.dtype, normal},
                             {elements(rows, dim_v), problem.dtype, normal},
                             {problem.gate_k ? elements(rows, dim_k) : 0, problem.gate_dtype, gate},
                             {problem.gate_v ? elements(rows, dim_v) : 0, problem.gate_dtype, gate},
                             {state, problem.state_dtype, normal},
                             {backward ? elements(rows * problem.group, dim_v) : 0, problem.dtype, normal},
                             {backward ? state : 0, problem.state_dtype, normal}};
  const std::vector<Output> outputs = outputs_of(problem);
  for (const Output output : outputs) {
    const Extent extent = extent_of(problem, output, {}, workload.heads);
    const std::size_t count =
        is_state(output) ? state : elements(batch * workload.tokens * extent.heads, extent.channels);
    parts.push_back({count, dtype_of(problem, output), normal});
  }
  WorkloadInputs inputs;
  for (const Part& part : parts) inputs.set_bytes_ += part.bytes();
  const double l2 = static_cast<double>(gpu.architecture().l2_bytes) * kL2Multiple;
  const std::size_t affordable = gpu.free_memory() * 9 / 10 / inputs.set_bytes_;
  if (affordable == 0)
    return Status{StatusCode::unsupported,
                  fmt::format("{} of {} needs {} bytes of device memory, {} are free", to_string(workload),
                              to_string(problem), inputs.set_bytes_, gpu.free_memory())};
  const auto wanted = static_cast<std::size_t>(std::ceil(l2 / static_cast<double>(inputs.set_bytes_)));
  const std::size_t sets = std::clamp<std::size_t>(wanted, 1, std::min(affordable, kMostSets));

  auto arena = DeviceBuffer::allocate(gpu, inputs.set_bytes_ * sets);
  if (!arena.ok()) return arena.status();
  inputs.arena_ = *std::move(arena);
  auto* base = static_cast<std::byte*>(inputs.arena_.data());
  std::size_t offset = 0;
  for (Part& part : parts) {
    part.offset = offset;
    offset += part.bytes() * sets;
    if (part.elements == 0) continue;
    FillArgs fill = part.fill;
    fill.data = base + part.offset;
    fill.count = static_cast<Index>(part.bytes() * sets / size_of(part.dtype));
    fill.seed = kSeed + static_cast<unsigned long long>(&part - parts.data());
    fill.dtype = static_cast<int>(part.dtype);
    GLA_RETURN_IF_ERROR(tools.fill(fill));
  }
  if (workload.packed) {
    // Equal lengths, as near as they go.
    std::vector<std::int32_t> ends;
    for (std::int64_t n = 0; n <= workload.sequences; ++n)
      ends.push_back(static_cast<std::int32_t>(workload.tokens * n / workload.sequences));
    auto buffer = uploaded(gpu, ends);
    if (!buffer.ok()) return buffer.status();
    inputs.cu_seqlens_ = *std::move(buffer);
  }

  for (std::size_t set = 0; set < sets; ++set) {
    const auto data = [&](std::size_t kind) -> void* {
      return parts[kind].elements == 0 ? nullptr : base + parts[kind].offset + set * parts[kind].bytes();
    };
    const auto view = [&](std::size_t kind, std::int64_t heads, std::int64_t channels) {
      return Tensor{.data = data(kind),
                    .stride_batch = workload.tokens * heads * channels,
                    .stride_token = heads * channels,
                    .stride_head = channels};
    };
    BackwardArgs args;
    args.q = view(kQ, workload.heads * problem.group, dim_k);
    args.k = view(kK, workload.heads, dim_k);
    args.v = view(kV, workload.heads, dim_v);
    if (problem.gate_k) args.gk = view(kGk, workload.heads, dim_k);
    if (problem.gate_v) args.gv = view(kGv, workload.heads, dim_v);
    args.initial_state = data(kInitial);
    if (backward) args.d_o = view(kDO, workload.heads * problem.group, dim_v);
    args.d_final_state = static_cast<const float*>(data(kDFinal));
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const Extent extent = extent_of(problem, outputs[i], {}, workload.heads);
      set_output(args, outputs[i], view(kFirstOutput + i, extent.heads, extent.channels));
    }
    args.cu_seqlens = inputs.cu_seqlens_.data();
    args.sequences = workload.sequences;
    args.tokens = workload.tokens;
    args.heads = static_cast<int>(workload.heads);
    args.scale = 1.0f / std::sqrt(static_cast<float>(dim_k));
    inputs.sets_.push_back(args);
  }
  GLA_RETURN_IF_ERROR(gpu.synchronize());
  return inputs;
}

}  // namespace gla
