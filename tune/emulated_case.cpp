#define GLA_EMULATOR
#include "emulated_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>

#include "case_fill.h"
#include "element.h"
#include "gla/generator/render.h"
#include "guarded_memory.h"
#include "kernel.h"
#include "tensor_map.h"
#include "tensor_maps.h"
#include "verification.cuh"

namespace gla {
namespace {

using emulator::GuardedMemory;

constexpr std::size_t kTensorAlignment = 16;
constexpr std::int64_t kPaddingChannels = 8;  // keeps rows 16-byte aligned in every dtype

/// `count` values of a distribution, rounded to a type.
std::vector<float> values(std::int64_t count, DType dtype, const FillArgs& fill) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = round_to(dtype, fill_value(fill, static_cast<Index>(i)));
  return result;
}

/// How a [B, T, heads, channels] tensor lies in memory.
class Layout {
 public:
  Layout(const ReferenceInput& in, const KernelCase& c, std::int64_t heads, std::int64_t channels)
      : batch_(in.batch), tokens_(in.tokens), heads_(heads), channels_(channels) {
    const std::int64_t padding = c.padded ? kPaddingChannels : 0;
    const std::int64_t inner = channels + padding;
    stride_head_ = c.head_major ? tokens_ * inner + padding : inner;
    stride_token_ = c.head_major ? inner : heads_ * inner + padding;
    stride_batch_ = c.head_major ? heads_ * stride_head_ : tokens_ * stride_token_;
  }

  Tensor tensor(const GuardedMemory& memory) const {
    return {memory.data(), stride_batch_, stride_token_, stride_head_};
  }

  /// Up to the end of the last row.
  std::size_t bytes(std::size_t element_bytes) const {
    if (batch_ * tokens_ * heads_ == 0) return 0;
    const std::int64_t last_row =
        (batch_ - 1) * stride_batch_ + (tokens_ - 1) * stride_token_ + (heads_ - 1) * stride_head_;
    return static_cast<std::size_t>(last_row + channels_) * element_bytes;
  }

  /// Calls copy(first byte of a row in [B, T, heads, channels] order, its first byte in memory, bytes) for all rows.
  template <class Copy>
  void each_row(std::size_t element_bytes, Copy copy) const {
    const std::size_t row_bytes = static_cast<std::size_t>(channels_) * element_bytes;
    std::size_t dense = 0;
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t t = 0; t < tokens_; ++t) {
        for (std::int64_t h = 0; h < heads_; ++h) {
          const std::int64_t first = b * stride_batch_ + t * stride_token_ + h * stride_head_;
          copy(dense, static_cast<std::size_t>(first) * element_bytes, row_bytes);
          dense += row_bytes;
        }
      }
    }
  }

 private:
  std::int64_t batch_, tokens_, heads_, channels_;
  std::int64_t stride_batch_, stride_token_, stride_head_;
};

/// Memory that ends where the values end.
GuardedMemory guarded(std::span<const float> floats, DType dtype) {
  const std::vector<std::byte> bytes = encode(dtype, floats);
  GuardedMemory memory(bytes.size(), kTensorAlignment);
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(memory.data()));
  return memory;
}

/// The same in a layout, NaN between the rows. An absent tensor has no values.
GuardedMemory guarded(std::span<const float> floats, DType dtype, const Layout& layout) {
  if (floats.empty()) return {0, kTensorAlignment};
  const std::vector<std::byte> bytes = encode(dtype, floats);
  GuardedMemory memory(layout.bytes(size_of(dtype)), kTensorAlignment);
  layout.each_row(size_of(dtype), [&](std::size_t dense, std::size_t place, std::size_t count) {
    std::memcpy(memory.data() + place, bytes.data() + dense, count);
  });
  return memory;
}

std::vector<std::byte> bytes_of(const GuardedMemory& memory) {
  const auto* first = reinterpret_cast<const std::byte*>(memory.data());
  return {first, first + memory.size()};
}

/// What lies in a layout, in the order [B, T, heads, channels].
std::vector<float> values_in(const GuardedMemory& memory, DType dtype, const Layout& layout) {
  std::vector<std::byte> bytes;
  layout.each_row(size_of(dtype), [&](std::size_t, std::size_t place, std::size_t count) {
    const auto* first = reinterpret_cast<const std::byte*>(memory.data()) + place;
    bytes.insert(bytes.end(), first, first + count);
  });
  return decode(dtype, bytes);
}

/// Whether everything is poison still except the first `written` rows.
bool untouched_behind(std::int64_t written, const GuardedMemory& memory, DType dtype, const Layout& layout) {
  constexpr std::byte kPoison{0xff};
  std::vector<std::byte> bytes = bytes_of(memory);
  layout.each_row(size_of(dtype), [&](std::size_t, std::size_t place, std::size_t count) {
    if (written-- > 0) std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(place), count, kPoison);
  });
  return memory.end_intact() &&
         std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == kPoison; });
}

GuardedMemory cumulative_lengths(const std::vector<std::int64_t>& lengths, bool as_int64) {
  GuardedMemory memory(lengths.size() * (as_int64 ? 8 : 4), kTensorAlignment);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (as_int64) {
      reinterpret_cast<long long*>(memory.data())[i] = lengths[i];
    } else {
      reinterpret_cast<int*>(memory.data())[i] = static_cast<int>(lengths[i]);
    }
  }
  return memory;
}

/// A call's tensor maps in the emulator's encoding.
TensorMaps emulated_maps(const TensorBoxes& boxes, const KernelArgs& args) {
  TensorMaps maps{};
  for (const MappedTensor& each : mapped_tensors(boxes, args)) {
    if (!each.geometry) continue;
    const auto& [data, sizes, stride_bytes, box, element_bytes] = *each.geometry;
    emulator::encode_tensor_map(
        &(maps.*each.map), {data, sizes, stride_bytes, box, element_bytes, emulator::Swizzle::bytes_128});
  }
  return maps;
}

/// Tokens that belong to a sequence.
std::int64_t used_tokens(const ReferenceInput& in) {
  return in.cu_seqlens.empty() ? in.batch * in.tokens : in.cu_seqlens.back();
}

std::vector<std::int64_t> lengths_of(const ReferenceInput& in) {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(in.sequences()), in.tokens);
  for (std::size_t n = 0; n + 1 < in.cu_seqlens.size(); ++n) {
    lengths[n] = in.cu_seqlens[n + 1] - in.cu_seqlens[n];
  }
  return lengths;
}

/// The first token of each sequence among all tokens.
std::vector<std::int64_t> first_tokens_of(const ReferenceInput& in) {
  std::vector<std::int64_t> first;
  for (std::int64_t n = 0; n < in.sequences(); ++n)
    first.push_back(in.cu_seqlens.empty() ? n * in.tokens : in.cu_seqlens[static_cast<std::size_t>(n)]);
  return first;
}

bool has_nan_gate(const ReferenceInput& in, std::int64_t first_token, std::int64_t tokens,
                  std::int64_t head) {
  if (in.gk.empty()) return false;
  const std::int64_t channels = in.problem.head_dim_k;
  for (std::int64_t t = first_token; t < first_token + tokens; ++t) {
    const auto row = in.gk.begin() + (t * in.heads + head) * channels;
    if (std::any_of(row, row + channels, [](float gate) { return std::isnan(gate); })) return true;
  }
  return false;
}

}  // namespace

std::int64_t KernelCase::sequences() const {
  return cu_seqlens.empty() ? batch : static_cast<std::int64_t>(cu_seqlens.size()) - 1;
}

ReferenceInput make_inputs(const Problem& problem, const KernelCase& c) {
  return make_inputs(problem, c, 10 * c.seed);
}

ReferenceInput make_inputs(const Problem& problem, const KernelCase& c, std::uint64_t seed) {
  ReferenceInput in;
  in.problem = problem;
  in.batch = c.batch;
  in.tokens = c.tokens;
  in.heads = c.heads;
  in.cu_seqlens = c.cu_seqlens;
  in.scale = c.scale;
  const std::int64_t rows = c.batch * c.tokens;
  const std::int64_t dim_k = problem.head_dim_k;
  const std::int64_t dim_v = problem.head_dim_v;
  const std::int64_t state_elements = c.sequences() * c.heads * dim_k * dim_v;
  in.q = values(rows * c.heads * problem.group * dim_k, problem.dtype, normal_fill(seed));
  in.k = values(rows * c.heads * dim_k, problem.dtype, normal_fill(seed + 1));
  in.v = values(rows * c.heads * dim_v, problem.dtype, normal_fill(seed + 2));
  if (problem.gate_k)
    in.gk = values(rows * c.heads * dim_k, problem.gate_dtype, gate_fill(c.gates, seed + 3));
  if (problem.gate_v)
    in.gv = values(rows * c.heads * dim_v, problem.gate_dtype, gate_fill(c.gates, seed + 4));
  if (c.initial_state) in.initial_state = values(state_elements, problem.state_dtype, normal_fill(seed + 5));
  for (std::vector<float>* each : {&in.q, &in.k, &in.v, &in.gk, &in.gv}) {
    const auto used = static_cast<std::int64_t>(each->size()) / rows * used_tokens(in);
    std::fill(each->begin() + used, each->end(), std::numeric_limits<float>::quiet_NaN());
  }
  if (c.nan_gate) {
    const std::int64_t first = first_tokens_of(in).back() * in.heads * dim_k;
    in.gk.at(static_cast<std::size_t>(first)) = std::numeric_limits<float>::quiet_NaN();
  }
  return in;
}

KernelResult run_kernel(const ReferenceInput& in, const KernelCase& c, const LaunchKernel& launch) {
  const Problem& problem = in.problem;
  const std::int64_t query_heads = in.heads * problem.group;
  const std::int64_t dim_k = problem.head_dim_k;
  const std::int64_t dim_v = problem.head_dim_v;
  const Layout q_layout(in, c, query_heads, dim_k);
  const Layout k_layout(in, c, in.heads, dim_k);
  const Layout v_layout(in, c, in.heads, dim_v);
  const Layout o_layout(in, c, query_heads, dim_v);
  const GuardedMemory q = guarded(in.q, problem.dtype, q_layout);
  const GuardedMemory k = guarded(in.k, problem.dtype, k_layout);
  const GuardedMemory v = guarded(in.v, problem.dtype, v_layout);
  const GuardedMemory gk = guarded(in.gk, problem.gate_dtype, k_layout);
  const GuardedMemory gv = guarded(in.gv, problem.gate_dtype, v_layout);
  const GuardedMemory o(o_layout.bytes(size_of(problem.dtype)), kTensorAlignment);
  const GuardedMemory initial_state = guarded(in.initial_state, problem.state_dtype);
  const auto state_elements = static_cast<std::size_t>(in.sequences() * in.heads * dim_k * dim_v);
  const GuardedMemory separate_state(state_elements * size_of(problem.state_dtype), kTensorAlignment);
  const GuardedMemory& final_state = c.in_place ? initial_state : separate_state;
  const GuardedMemory cu_seqlens = cumulative_lengths(in.cu_seqlens, c.cu_seqlens_is_int64);
  unsigned long long paths[3] = {};

  KernelArgs args;
  args.q = q_layout.tensor(q);
  args.k = k_layout.tensor(k);
  args.v = v_layout.tensor(v);
  if (problem.gate_k) args.gk = k_layout.tensor(gk);
  if (problem.gate_v) args.gv = v_layout.tensor(gv);
  args.o = o_layout.tensor(o);
  if (!in.initial_state.empty()) args.initial_state = initial_state.data();
  if (c.final_state) args.final_state = final_state.data();
  if (!in.cu_seqlens.empty()) args.cu_seqlens = cu_seqlens.data();
  args.cu_seqlens_is_int64 = c.cu_seqlens_is_int64 ? 1 : 0;
  args.sequences = in.sequences();
  args.tokens = in.tokens;
  args.heads = static_cast<int>(in.heads);
  args.scale = in.scale.value_or(1.0f / std::sqrt(static_cast<float>(dim_k)));
  args.path_counts = paths;
  launch(args, {in.sequences(), in.heads, in.tokens, !in.cu_seqlens.empty()}, c.options);

  KernelResult result;
  result.o = values_in(o, problem.dtype, o_layout);
  if (c.final_state) result.final_state = decode(problem.state_dtype, bytes_of(final_state));
  result.untouched =
      final_state.end_intact() && untouched_behind(used_tokens(in) * query_heads, o, problem.dtype, o_layout);
  std::copy(std::begin(paths), std::end(paths), result.paths);
  return result;
}

KernelOutcome judge(const ReferenceInput& in, const ReferenceOutput& expected, const KernelResult& result) {
  const Problem& problem = in.problem;
  const std::vector<std::int64_t> lengths = lengths_of(in);
  KernelOutcome outcome;
  const Extent o{lengths, in.heads * problem.group, problem.head_dim_v, false};
  outcome.o = summarize(compare(result.o, expected.o, o), o);
  if (!result.final_state.empty()) {
    const std::int64_t rows = problem.state_v_first ? problem.head_dim_v : problem.head_dim_k;
    const std::int64_t columns = problem.state_v_first ? problem.head_dim_k : problem.head_dim_v;
    const Extent state{std::vector(lengths.size(), rows), in.heads, columns, true};
    std::vector<CompareSums> sums = compare(result.final_state, expected.final_state, state);
    const std::vector<std::int64_t> first = first_tokens_of(in);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const std::size_t sequence = i / static_cast<std::size_t>(in.heads);
      const std::int64_t head = static_cast<std::int64_t>(i) % in.heads;
      if (has_nan_gate(in, first[sequence], lengths[sequence], head)) sums[i] = {};
    }
    outcome.final_state = summarize(sums, state);
  }
  outcome.untouched = result.untouched;
  std::copy(std::begin(result.paths), std::end(result.paths), outcome.paths);
  return outcome;
}

KernelOutcome judge(const ReferenceInput& in, const KernelResult& result) {
  return judge(in, naive(in), result);
}

KernelOutcome run_case(const Problem& problem, const KernelCase& c, const LaunchKernel& launch) {
  const ReferenceInput in = make_inputs(problem, c);
  return judge(in, run_kernel(in, c, launch));
}

void run_plan(const emulator::Program& program, const std::vector<std::string>& entries,
              const LaunchPlan& plan, const KernelArgs& args, const emulator::Options& options) {
  const auto run = [&](const auto& parameter) {
    for (const Launch& one : plan.launches) {
      const emulator::Shape shape{one.grid, one.threads, one.shared_bytes, one.cluster};
      program.run(entries[static_cast<std::size_t>(one.entry)], shape, parameter, options);
    }
  };
  if (plan.boxes.rows > 0)
    run(TensorArgs{args, emulated_maps(plan.boxes, args)});
  else
    run(args);
}

LaunchKernel kernel_of(const Problem& problem, const Variant& variant, const emulator::Toolchain& toolchain) {
  const Source source = render(problem, variant);
  const auto program =
      std::make_shared<emulator::Program>(emulator::Program::build(source.name, source.text, toolchain));
  return [=](KernelArgs args, const Workload& workload, const emulator::Options& options) {
    const LaunchPlan launches = plan(problem, variant, workload);
    const GuardedMemory workspace(launches.workspace_bytes, 256);
    place_workspace(args, launches, workspace.data());
    run_plan(*program, source.entries, launches, args, options);
  };
}

std::string complaint(const KernelOutcome& outcome, const Bar& bar) {
  std::string text;
  const auto judge = [&](const char* name, const ErrorReport& error, double limit) {
    if (error.nan_mismatches != 0)
      text += std::string(name) + ": " + std::to_string(error.nan_mismatches) + " NaN; ";
    if (!(error.overall <= limit)) {
      text += std::string(name) + ": error " + std::to_string(error.overall) + " above " +
              std::to_string(limit) + "; ";
    }
    if (!(error.worst <= limit * kSingleHeadAllowance)) {
      text += std::string(name) + ": error " + std::to_string(error.worst) + " in sequence " +
              std::to_string(error.worst_sequence) + ", head " + std::to_string(error.worst_head) + "; ";
    }
  };
  judge("o", outcome.o, bar.o);
  judge("final_state", outcome.final_state, bar.final_state);
  if (!outcome.untouched) text += "something between the rows or behind the last sequence was written; ";
  return text;
}

}  // namespace gla
