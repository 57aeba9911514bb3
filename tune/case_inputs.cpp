#include "case_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "case_fill.h"
#include "element.h"

namespace gla {
namespace {

constexpr std::int64_t kGuardTokens = 130;    // more than the longest chunk reads ahead
constexpr std::int64_t kPaddingChannels = 8;  // keeps rows 16-byte aligned in every dtype

}  // namespace

Result<CaseInputs> CaseInputs::make(const Gpu& gpu, const Tools& tools, const VerificationCase& spec) {
  CaseInputs inputs(gpu, spec);
  GLA_RETURN_IF_ERROR(inputs.make_inputs(tools));
  GLA_RETURN_IF_ERROR(inputs.make_outputs());
  auto reference = DeviceReference::make(gpu, tools, spec.problem, inputs.inputs());
  if (!reference.ok()) return reference.status();
  inputs.reference_ = *std::move(reference);
  return inputs;
}

Status CaseInputs::make_inputs(const Tools& tools) {
  const Problem& problem = spec_.problem;
  const std::int64_t heads = spec_.heads, query_heads = heads * problem.group;
  const std::int64_t dim_k = problem.head_dim_k, dim_v = problem.head_dim_v;
  const auto normal = [](int i) { return normal_fill(kFirstCaseSeed + static_cast<unsigned>(i)); };
  const auto gate = [&](int i) { return gate_fill(spec_.gates, kFirstCaseSeed + static_cast<unsigned>(i)); };
  GLA_RETURN_IF_ERROR(make_tensor(tools, q_, query_heads, dim_k, problem.dtype, normal(0)));
  GLA_RETURN_IF_ERROR(make_tensor(tools, k_, heads, dim_k, problem.dtype, normal(1)));
  GLA_RETURN_IF_ERROR(make_tensor(tools, v_, heads, dim_v, problem.dtype, normal(2)));
  if (problem.gate_k) GLA_RETURN_IF_ERROR(make_tensor(tools, gk_, heads, dim_k, problem.gate_dtype, gate(3)));
  if (problem.gate_v) GLA_RETURN_IF_ERROR(make_tensor(tools, gv_, heads, dim_v, problem.gate_dtype, gate(4)));
  if (spec_.initial_state) GLA_RETURN_IF_ERROR(make_state(tools, initial_state_, kFirstCaseSeed + 5));
  if (is_backward(problem.operation)) {
    GLA_RETURN_IF_ERROR(make_tensor(tools, d_o_, query_heads, dim_v, problem.dtype, normal(6)));
    if (spec_.final_state) GLA_RETURN_IF_ERROR(make_state(tools, d_final_state_, kFirstCaseSeed + 7));
  }
  return make_cu_seqlens();
}

Tensor CaseInputs::view_of(std::int64_t heads, std::int64_t channels) const {
  const std::int64_t padding = spec_.padded ? kPaddingChannels : 0;
  Tensor view;
  view.stride_head = channels + padding;
  view.stride_token = heads * view.stride_head + padding;
  view.stride_batch = spec_.tokens * view.stride_token;
  return view;
}

std::size_t CaseInputs::elements_of(const Tensor& view) const {
  return static_cast<std::size_t>((spec_.batch * spec_.tokens + kGuardTokens) * view.stride_token);
}

Status CaseInputs::make_tensor(const Tools& tools, CaseTensor& tensor, std::int64_t heads,
                               std::int64_t channels, DType dtype, const FillArgs& fill) {
  tensor.view = view_of(heads, channels);
  const std::size_t element = size_of(dtype);
  const auto rows = static_cast<std::size_t>(spec_.batch * spec_.tokens);

  // Drawn dense on the GPU, spread out on the host between NaNs.
  const std::size_t row_bytes = static_cast<std::size_t>(channels) * element;
  std::vector<std::byte> dense(rows * static_cast<std::size_t>(heads) * row_bytes);
  auto drawn = DeviceBuffer::allocate(*gpu_, dense.size());
  if (!drawn.ok()) return drawn.status();
  FillArgs args = fill;
  args.data = drawn->data();
  args.count = static_cast<Index>(dense.size() / element);
  args.dtype = static_cast<int>(dtype);
  GLA_RETURN_IF_ERROR(tools.fill(args));
  GLA_RETURN_IF_ERROR(drawn->download(dense.data(), dense.size()));

  std::vector<std::byte> spread = encode(dtype, std::vector<float>(elements_of(tensor.view), std::nanf("")));
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t head = 0; head < static_cast<std::size_t>(heads); ++head) {
      const std::size_t to = row * static_cast<std::size_t>(tensor.view.stride_token) +
                             head * static_cast<std::size_t>(tensor.view.stride_head);
      const std::size_t from = (row * static_cast<std::size_t>(heads) + head) * row_bytes;
      std::memcpy(spread.data() + to * element, dense.data() + from, row_bytes);
    }
  }
  if (spec_.nan_gate && &tensor == &gk_) {
    const std::int64_t first = spec_.cu_seqlens.empty()
                                   ? spec_.nan_sequence() * spec_.tokens
                                   : spec_.cu_seqlens[static_cast<std::size_t>(spec_.nan_sequence())];
    const auto nan = encode(dtype, std::vector<float>{std::nanf("")});
    std::memcpy(spread.data() + static_cast<std::size_t>(first * tensor.view.stride_token) * element,
                nan.data(), element);
  }
  auto buffer = uploaded(*gpu_, spread);
  if (!buffer.ok()) return buffer.status();
  tensor.buffer = *std::move(buffer);
  tensor.view.data = tensor.buffer.data();
  return {};
}

std::size_t CaseInputs::state_elements() const {
  return static_cast<std::size_t>(spec_.sequences() * spec_.heads * spec_.problem.head_dim_k *
                                  spec_.problem.head_dim_v);
}

Status CaseInputs::make_state(const Tools& tools, DeviceBuffer& state, unsigned long long seed) const {
  auto buffer = DeviceBuffer::allocate(*gpu_, state_elements() * size_of(spec_.problem.state_dtype));
  if (!buffer.ok()) return buffer.status();
  state = *std::move(buffer);
  FillArgs fill = normal_fill(seed);
  fill.data = state.data();
  fill.count = static_cast<Index>(state_elements());
  fill.dtype = static_cast<int>(spec_.problem.state_dtype);
  return tools.fill(fill);
}

Status CaseInputs::make_outputs() {
  for (const Output output : outputs_of(spec_.problem)) {
    if (!spec_.wants(output)) continue;
    CaseTensor& tensor = outputs_[output];
    std::size_t elements = state_elements();
    if (!is_state(output)) {
      const Extent extent = spec_.extent_of(output);
      tensor.view = view_of(extent.heads, extent.channels);
      elements = elements_of(tensor.view);
    }
    auto buffer = DeviceBuffer::allocate(*gpu_, elements * size_of(dtype_of(spec_.problem, output)));
    if (!buffer.ok()) return buffer.status();
    tensor.buffer = *std::move(buffer);
    tensor.view.data = tensor.buffer.data();
  }
  return {};
}

Status CaseInputs::make_cu_seqlens() {
  if (spec_.cu_seqlens.empty()) return {};
  auto buffer =
      spec_.cu_seqlens_is_int64
          ? uploaded(*gpu_, spec_.cu_seqlens)
          : uploaded(*gpu_, std::vector<std::int32_t>(spec_.cu_seqlens.begin(), spec_.cu_seqlens.end()));
  if (!buffer.ok()) return buffer.status();
  cu_seqlens_ = *std::move(buffer);
  return {};
}

BackwardArgs CaseInputs::inputs() const {
  BackwardArgs args;
  args.q = q_.view;
  args.k = k_.view;
  args.v = v_.view;
  args.gk = gk_.view;
  args.gv = gv_.view;
  args.d_o = d_o_.view;
  args.initial_state = initial_state_.data();
  args.d_final_state = static_cast<const float*>(d_final_state_.data());
  args.cu_seqlens = cu_seqlens_.data();
  args.cu_seqlens_is_int64 = spec_.cu_seqlens_is_int64 ? 1 : 0;
  args.sequences = spec_.sequences();
  args.tokens = spec_.tokens;
  args.heads = static_cast<int>(spec_.heads);
  args.scale =
      spec_.scale != 0 ? spec_.scale : 1.0f / std::sqrt(static_cast<float>(spec_.problem.head_dim_k));
  return args;
}

Result<BackwardArgs> CaseInputs::poisoned_arguments() {
  const auto& api = gpu_->api();
  BackwardArgs args = inputs();
  for (const Output output : outputs_of(spec_.problem)) {
    const auto& [buffer, view] = outputs_[output];
    if (!buffer) continue;
    // All bits set is NaN in every dtype.
    GLA_RETURN_IF_ERROR(gpu_->check(
        api.cuMemsetD8Async(buffer.address(), 0xff, buffer.size(), gpu_->stream()), "poisoning an output"));
    set_output(args, output, view);
  }
  if (spec_.in_place) {
    GLA_RETURN_IF_ERROR(
        gpu_->check(api.cuMemcpyDtoDAsync(outputs_.final_state.buffer.address(), initial_state_.address(),
                                          initial_state_.size(), gpu_->stream()),
                    "copying the initial state"));
    args.initial_state = args.final_state;
  }
  return args;
}

Result<CaseErrors> CaseInputs::errors(const Tools& tools) const {
  CaseErrors errors;
  for (const Output output : outputs_of(spec_.problem)) {
    if (!outputs_[output].buffer) continue;
    auto sums = reference_->compare(tools, output, outputs_[output].view);
    if (!sums.ok()) return sums.status();
    const Extent extent = spec_.extent_of(output);
    if (spec_.nan_gate && output != Output::o) {
      // How far a NaN gate reaches within its own sequence and head is promised of o only; that it stays there, of all.
      const auto first = static_cast<std::size_t>(spec_.nan_sequence() * extent.heads);
      for (std::size_t i = 0; i < static_cast<std::size_t>(extent.heads / spec_.heads); ++i)
        (*sums)[first + i] = {};
    }
    errors[output] = summarize(*sums, extent);
    if (!spec_.padded || is_state(output) || !errors.stray.empty()) continue;
    auto stray = stray_writes(output);
    if (!stray.ok()) return stray.status();
    errors.stray = *std::move(stray);
  }
  return errors;
}

Result<std::string> CaseInputs::stray_writes(Output output) const {
  const auto& [buffer, view] = outputs_[output];
  std::vector<std::byte> bytes(buffer.size());
  GLA_RETURN_IF_ERROR(buffer.download(bytes.data(), bytes.size()));
  const Extent extent = spec_.extent_of(output);
  const std::size_t element = size_of(dtype_of(spec_.problem, output));
  const auto stride = static_cast<std::size_t>(view.stride_token),
             head_stride = static_cast<std::size_t>(view.stride_head);
  const auto rows = static_cast<std::size_t>(spec_.batch * spec_.tokens);
  const auto heads = static_cast<std::size_t>(extent.heads);
  const auto channels = static_cast<std::size_t>(extent.channels);
  std::string stray;
  const auto check_range = [&](std::size_t first, std::size_t last) {  // of elements
    const auto end = bytes.begin() + static_cast<std::ptrdiff_t>(last * element);
    const auto found = std::find_if(bytes.begin() + static_cast<std::ptrdiff_t>(first * element), end,
                                    [](std::byte byte) { return byte != std::byte{0xff}; });
    if (found == end || !stray.empty()) return;
    const std::size_t i = static_cast<std::size_t>(found - bytes.begin()) / element;
    stray = fmt::format("{} was written outside at row {}, element {}", to_string(output), i / stride,
                        i % stride);
  };
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t head = 0; head < heads; ++head)
      check_range(row * stride + head * head_stride + channels, row * stride + (head + 1) * head_stride);
    check_range(row * stride + heads * head_stride, (row + 1) * stride);
  }
  check_range(rows * stride, bytes.size() / element);
  return stray;
}

}  // namespace gla
