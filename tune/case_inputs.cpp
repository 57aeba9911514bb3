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
  const Problem& problem = spec.problem;
  const std::int64_t heads = spec.heads, query_heads = heads * problem.group;
  const auto make = [&](CaseTensor& tensor, std::int64_t count, int channels, DType dtype,
                        const FillArgs& fill) {
    return inputs.make_tensor(tools, tensor, count, channels, dtype, fill);
  };
  GLA_RETURN_IF_ERROR(
      make(inputs.q_, query_heads, problem.head_dim_k, problem.dtype, normal_fill(kFirstCaseSeed)));
  GLA_RETURN_IF_ERROR(
      make(inputs.k_, heads, problem.head_dim_k, problem.dtype, normal_fill(kFirstCaseSeed + 1)));
  GLA_RETURN_IF_ERROR(
      make(inputs.v_, heads, problem.head_dim_v, problem.dtype, normal_fill(kFirstCaseSeed + 2)));
  if (problem.gate_k)
    GLA_RETURN_IF_ERROR(make(inputs.gk_, heads, problem.head_dim_k, problem.gate_dtype,
                             gate_fill(spec.gates, kFirstCaseSeed + 3)));
  if (problem.gate_v)
    GLA_RETURN_IF_ERROR(make(inputs.gv_, heads, problem.head_dim_v, problem.gate_dtype,
                             gate_fill(spec.gates, kFirstCaseSeed + 4)));
  GLA_RETURN_IF_ERROR(make(inputs.o_, query_heads, problem.head_dim_v, problem.dtype,
                           {.fill = static_cast<int>(Fill::poison)}));
  GLA_RETURN_IF_ERROR(inputs.make_states(tools));
  GLA_RETURN_IF_ERROR(inputs.make_cu_seqlens());
  GLA_RETURN_IF_ERROR(inputs.make_reference(tools));
  return inputs;
}

Status CaseInputs::make_tensor(const Tools& tools, CaseTensor& tensor, std::int64_t heads,
                               std::int64_t channels, DType dtype, const FillArgs& fill) {
  const std::int64_t padding = spec_.padded ? kPaddingChannels : 0;
  tensor.view.stride_head = channels + padding;
  tensor.view.stride_token = heads * tensor.view.stride_head + padding;
  tensor.view.stride_batch = spec_.tokens * tensor.view.stride_token;
  const std::size_t element = size_of(dtype);
  const auto rows = static_cast<std::size_t>(spec_.batch * spec_.tokens);
  const auto guard = static_cast<std::size_t>(kGuardTokens * tensor.view.stride_token);
  tensor.bytes = (rows * static_cast<std::size_t>(tensor.view.stride_token) + guard) * element;

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

  std::vector<std::byte> spread = encode(dtype, std::vector<float>(tensor.bytes / element, std::nanf("")));
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

Status CaseInputs::make_states(const Tools& tools) {
  const Problem& problem = spec_.problem;
  state_elements_ =
      static_cast<std::size_t>(spec_.sequences() * spec_.heads * problem.head_dim_k * problem.head_dim_v);
  const std::size_t bytes = state_elements_ * size_of(problem.state_dtype);
  for (DeviceBuffer* state : {&initial_state_, &final_state_}) {
    auto buffer = DeviceBuffer::allocate(*gpu_, bytes);
    if (!buffer.ok()) return buffer.status();
    *state = *std::move(buffer);
  }
  FillArgs fill = normal_fill(kFirstCaseSeed + 5);
  fill.data = initial_state_.data();
  fill.count = static_cast<Index>(state_elements_);
  fill.dtype = static_cast<int>(problem.state_dtype);
  return tools.fill(fill);
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

Status CaseInputs::make_reference(const Tools& tools) {
  const Problem& problem = spec_.problem;
  const std::int64_t query_heads = spec_.heads * problem.group;
  reference_view_.stride_head = problem.head_dim_v;
  reference_view_.stride_token = query_heads * problem.head_dim_v;
  reference_view_.stride_batch = spec_.tokens * reference_view_.stride_token;
  const auto elements = static_cast<std::size_t>(spec_.batch * reference_view_.stride_batch);
  auto o = DeviceBuffer::allocate(*gpu_, elements * sizeof(float));
  if (!o.ok()) return o.status();
  auto state = DeviceBuffer::allocate(*gpu_, state_elements_ * sizeof(float));
  if (!state.ok()) return state.status();
  reference_o_ = *std::move(o);
  reference_state_ = *std::move(state);
  reference_view_.data = reference_o_.data();

  auto args = poisoned_arguments();
  if (!args.ok()) return args.status();
  if (args->initial_state != nullptr) args->initial_state = initial_state_.data();
  args->o = reference_view_;
  args->final_state = reference_state_.data();
  GLA_RETURN_IF_ERROR(tools.naive(*args));
  return gpu_->synchronize();
}

Result<KernelArgs> CaseInputs::poisoned_arguments() {
  // All bits set is NaN in every dtype.
  const auto& api = gpu_->api();
  GLA_RETURN_IF_ERROR(
      gpu_->check(api.cuMemsetD8Async(o_.buffer.address(), 0xff, o_.bytes, gpu_->stream()), "poisoning o"));
  GLA_RETURN_IF_ERROR(
      gpu_->check(api.cuMemsetD8Async(final_state_.address(), 0xff, final_state_.size(), gpu_->stream()),
                  "poisoning final_state"));
  KernelArgs args;
  args.q = q_.view;
  args.k = k_.view;
  args.v = v_.view;
  args.gk = gk_.view;
  args.gv = gv_.view;
  args.o = o_.view;
  if (spec_.initial_state) args.initial_state = initial_state_.data();
  if (spec_.final_state) args.final_state = final_state_.data();
  if (spec_.in_place) {
    GLA_RETURN_IF_ERROR(gpu_->check(api.cuMemcpyDtoDAsync(final_state_.address(), initial_state_.address(),
                                                          initial_state_.size(), gpu_->stream()),
                                    "copying the initial state"));
    args.initial_state = final_state_.data();
  }
  args.cu_seqlens = cu_seqlens_.data();
  args.cu_seqlens_is_int64 = spec_.cu_seqlens_is_int64 ? 1 : 0;
  args.sequences = spec_.sequences();
  args.tokens = spec_.tokens;
  args.heads = static_cast<int>(spec_.heads);
  args.scale =
      spec_.scale != 0 ? spec_.scale : 1.0f / std::sqrt(static_cast<float>(spec_.problem.head_dim_k));
  return args;
}

Result<CaseErrors> CaseInputs::errors(const Tools& tools) const {
  const Problem& problem = spec_.problem;
  CaseErrors errors;
  CompareArgs compare;
  compare.value = o_.view;
  compare.reference = reference_view_;
  compare.cu_seqlens = cu_seqlens_.data();
  compare.cu_seqlens_is_int64 = spec_.cu_seqlens_is_int64 ? 1 : 0;
  compare.sequences = spec_.sequences();
  compare.tokens = spec_.tokens;
  compare.heads = static_cast<int>(spec_.heads) * problem.group;
  compare.channels = problem.head_dim_v;
  compare.dtype = static_cast<int>(problem.dtype);
  const auto sums = tools.compare(compare);
  if (!sums.ok()) return sums.status();
  errors.o = summarize(*sums, spec_.extent_of(Output::o));

  if (spec_.final_state) {
    const Extent extent = spec_.extent_of(Output::final_state);
    CompareArgs state;
    state.reference.stride_token = extent.channels;
    state.reference.stride_head = extent.channels * extent.lengths.front();
    state.reference.stride_batch = state.reference.stride_head * extent.heads;
    state.value = state.reference;
    state.value.data = final_state_.data();
    state.reference.data = reference_state_.data();
    state.sequences = spec_.sequences();
    state.tokens = extent.lengths.front();
    state.heads = static_cast<int>(extent.heads);
    state.channels = static_cast<int>(extent.channels);
    state.dtype = static_cast<int>(problem.state_dtype);
    auto state_sums = tools.compare(state);
    if (!state_sums.ok()) return state_sums.status();
    // How far a NaN gate reaches into its own state is not promised; that it stays there is.
    if (spec_.nan_gate) (*state_sums)[static_cast<std::size_t>(spec_.nan_sequence() * spec_.heads)] = {};
    errors.final_state = summarize(*state_sums, extent);
  }
  if (!spec_.padded) return errors;
  auto stray = stray_writes();
  if (!stray.ok()) return stray.status();
  errors.stray = *std::move(stray);
  return errors;
}

Result<std::string> CaseInputs::stray_writes() const {
  std::vector<std::byte> bytes(o_.bytes);
  GLA_RETURN_IF_ERROR(o_.buffer.download(bytes.data(), bytes.size()));
  const std::size_t element = size_of(spec_.problem.dtype);
  const auto stride = static_cast<std::size_t>(o_.view.stride_token),
             head_stride = static_cast<std::size_t>(o_.view.stride_head);
  const auto rows = static_cast<std::size_t>(spec_.batch * spec_.tokens);
  const auto heads = static_cast<std::size_t>(spec_.heads * spec_.problem.group);
  const auto channels = static_cast<std::size_t>(spec_.problem.head_dim_v);
  std::string stray;
  const auto check_range = [&](std::size_t first, std::size_t last) {  // of elements
    const auto end = bytes.begin() + static_cast<std::ptrdiff_t>(last * element);
    const auto found = std::find_if(bytes.begin() + static_cast<std::ptrdiff_t>(first * element), end,
                                    [](std::byte byte) { return byte != std::byte{0xff}; });
    if (found == end || !stray.empty()) return;
    const std::size_t i = static_cast<std::size_t>(found - bytes.begin()) / element;
    stray = fmt::format("o was written outside at row {}, element {}", i / stride, i % stride);
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
