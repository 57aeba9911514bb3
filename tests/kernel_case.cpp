#define GLA_EMULATOR
#include "kernel_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <span>

#include "element.h"
#include "gla/generator/render.h"
#include "guarded_memory.h"
#include "program.h"
#include "verification.cuh"

namespace gla {
namespace {

using emulator::GuardedMemory;

constexpr std::size_t kTensorAlignment = 16;

struct GateFill {
  float scale = 1;
  float reset_probability = 0;
  float growth_probability = 0;
};

GateFill fill_of(Gates gates) {
  switch (gates) {
    case Gates::sixteenth:
      return {1.0f / 16};
    case Gates::one:
      return {1};
    case Gates::ten:
      return {10};
    case Gates::hundred:
      return {100};
    case Gates::resets:
      return {1, 0.02f, 0};
    case Gates::growth:
      return {1.0f / 16, 0, 0.02f};
  }
  return {};
}

/// `count` values of a distribution, rounded to a type.
std::vector<float> values(std::int64_t count, DType dtype, std::uint64_t seed, Fill fill,
                          const GateFill& gate = {}) {
  FillArgs args;
  args.seed = seed;
  args.fill = static_cast<int>(fill);
  args.scale = gate.scale;
  args.reset_probability = gate.reset_probability;
  args.growth_probability = gate.growth_probability;
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = round_to(dtype, fill_value(args, static_cast<Index>(i)));
  return result;
}

/// How a [B, T, heads, channels] tensor lies in memory.
struct Layout {
  std::int64_t batch, tokens, heads, channels;
  bool head_major;

  Tensor tensor(const GuardedMemory& memory) const {
    return {memory.data(), tokens * heads * channels, head_major ? channels : heads * channels,
            head_major ? tokens * channels : channels};
  }

  /// Calls copy(first byte of a row in [B, T, heads, channels] order, its first byte in memory, bytes) for all rows.
  template <class Copy>
  void each_row(std::size_t element_bytes, Copy copy) const {
    const std::size_t row_bytes = static_cast<std::size_t>(channels) * element_bytes;
    std::size_t dense = 0;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t h = 0; h < heads; ++h) {
          const std::int64_t row = head_major ? (b * heads + h) * tokens + t : (b * tokens + t) * heads + h;
          copy(dense, static_cast<std::size_t>(row) * row_bytes, row_bytes);
          dense += row_bytes;
        }
      }
    }
  }
};

/// Memory that ends where the values end.
GuardedMemory guarded(std::span<const float> floats, DType dtype) {
  const std::vector<std::byte> bytes = encode(dtype, floats);
  GuardedMemory memory(bytes.size(), kTensorAlignment);
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(memory.data()));
  return memory;
}

/// The same in a layout. An absent tensor has no values.
GuardedMemory guarded(std::span<const float> floats, DType dtype, const Layout& layout) {
  const std::vector<std::byte> bytes = encode(dtype, floats);
  GuardedMemory memory(bytes.size(), kTensorAlignment);
  if (bytes.empty()) return memory;
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
std::vector<std::byte> bytes_of(const GuardedMemory& memory, DType dtype, const Layout& layout) {
  std::vector<std::byte> bytes(memory.size());
  layout.each_row(size_of(dtype), [&](std::size_t dense, std::size_t place, std::size_t count) {
    std::memcpy(bytes.data() + dense, memory.data() + place, count);
  });
  return bytes;
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

ErrorReport report(const std::vector<float>& value, const std::vector<double>& reference,
                   const Extent& extent) {
  return summarize(compare(value, reference, extent), extent);
}

}  // namespace

std::int64_t KernelCase::sequences() const {
  return cu_seqlens.empty() ? batch : static_cast<std::int64_t>(cu_seqlens.size()) - 1;
}

ReferenceInput make_inputs(const Problem& problem, const KernelCase& c) {
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
  const std::uint64_t seed = 10 * c.seed;
  const GateFill gate = fill_of(c.gates);
  in.q = values(rows * c.heads * problem.group * dim_k, problem.dtype, seed, Fill::normal);
  in.k = values(rows * c.heads * dim_k, problem.dtype, seed + 1, Fill::normal);
  in.v = values(rows * c.heads * dim_v, problem.dtype, seed + 2, Fill::normal);
  if (problem.gate_k)
    in.gk = values(rows * c.heads * dim_k, problem.gate_dtype, seed + 3, Fill::log_gate, gate);
  if (problem.gate_v)
    in.gv = values(rows * c.heads * dim_v, problem.gate_dtype, seed + 4, Fill::log_gate, gate);
  if (c.initial_state) {
    in.initial_state =
        values(c.sequences() * c.heads * dim_k * dim_v, problem.state_dtype, seed + 5, Fill::normal);
  }
  for (std::vector<float>* each : {&in.q, &in.k, &in.v, &in.gk, &in.gv}) {
    const auto used = static_cast<std::int64_t>(each->size()) / rows * used_tokens(in);
    std::fill(each->begin() + used, each->end(), std::numeric_limits<float>::quiet_NaN());
  }
  return in;
}

KernelResult run_kernel(const ReferenceInput& in, const KernelCase& c, const LaunchKernel& launch) {
  const Problem& problem = in.problem;
  const std::int64_t query_heads = in.heads * problem.group;
  const std::int64_t dim_k = problem.head_dim_k;
  const std::int64_t dim_v = problem.head_dim_v;
  const auto bytes = [](std::int64_t count, DType dtype) {
    return static_cast<std::size_t>(count) * size_of(dtype);
  };

  const auto layout = [&](std::int64_t heads, std::int64_t channels) {
    return Layout{in.batch, in.tokens, heads, channels, c.head_major};
  };
  const Layout q_layout = layout(query_heads, dim_k);
  const Layout k_layout = layout(in.heads, dim_k);
  const Layout v_layout = layout(in.heads, dim_v);
  const Layout o_layout = layout(query_heads, dim_v);
  const GuardedMemory q = guarded(in.q, problem.dtype, q_layout);
  const GuardedMemory k = guarded(in.k, problem.dtype, k_layout);
  const GuardedMemory v = guarded(in.v, problem.dtype, v_layout);
  const GuardedMemory gk = guarded(in.gk, problem.gate_dtype, k_layout);
  const GuardedMemory gv = guarded(in.gv, problem.gate_dtype, v_layout);
  const GuardedMemory o(bytes(in.batch * in.tokens * query_heads * dim_v, problem.dtype), kTensorAlignment);
  const GuardedMemory initial_state = guarded(in.initial_state, problem.state_dtype);
  const GuardedMemory separate_state(bytes(in.sequences() * in.heads * dim_k * dim_v, problem.state_dtype),
                                     kTensorAlignment);
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
  const std::vector<std::byte> o_bytes = bytes_of(o, problem.dtype, o_layout);
  result.o = decode(problem.dtype, o_bytes);
  if (c.final_state) result.final_state = decode(problem.state_dtype, bytes_of(final_state));
  const std::size_t used = bytes(used_tokens(in) * query_heads * dim_v, problem.dtype);
  result.untouched = o.end_intact() && final_state.end_intact() &&
                     std::all_of(o_bytes.begin() + static_cast<std::ptrdiff_t>(used), o_bytes.end(),
                                 [](std::byte byte) { return byte == std::byte{0xff}; });
  std::copy(std::begin(paths), std::end(paths), result.paths);
  return result;
}

KernelOutcome judge(const ReferenceInput& in, const KernelResult& result) {
  const Problem& problem = in.problem;
  const ReferenceOutput expected = naive(in);
  const std::vector<std::int64_t> lengths = lengths_of(in);
  KernelOutcome outcome;
  outcome.o = report(result.o, expected.o, {lengths, in.heads * problem.group, problem.head_dim_v, false});
  if (!result.final_state.empty()) {
    const std::int64_t rows = problem.state_v_first ? problem.head_dim_v : problem.head_dim_k;
    const std::int64_t columns = problem.state_v_first ? problem.head_dim_k : problem.head_dim_v;
    outcome.final_state = report(result.final_state, expected.final_state,
                                 {std::vector(lengths.size(), rows), in.heads, columns, true});
  }
  outcome.untouched = result.untouched;
  std::copy(std::begin(result.paths), std::end(result.paths), outcome.paths);
  return outcome;
}

KernelOutcome run_case(const Problem& problem, const KernelCase& c, const LaunchKernel& launch) {
  const ReferenceInput in = make_inputs(problem, c);
  return judge(in, run_kernel(in, c, launch));
}

LaunchKernel kernel_of(const Problem& problem, const Variant& variant) {
  const Source source = render(problem, variant);
  const auto program =
      std::make_shared<emulator::Program>(emulator::Program::build(source.name, source.text));
  return [=](KernelArgs args, const Workload& workload, const emulator::Options& options) {
    const LaunchPlan launches = plan(problem, variant, workload);
    const GuardedMemory workspace(launches.workspace_bytes, 256);
    args.segment_tokens = launches.segment_tokens;
    args.segments = launches.segments;
    args.segment_states = reinterpret_cast<float*>(workspace.data());
    args.segment_decays = reinterpret_cast<float*>(workspace.data() + launches.decays_offset);
    for (const Launch& one : launches.launches) {
      const emulator::Shape shape{one.grid, one.threads, one.shared_bytes};
      program->run(source.entries[static_cast<std::size_t>(one.entry)], shape, args, options);
    }
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
  if (!outcome.untouched) text += "something behind the last sequence was written; ";
  return text;
}

}  // namespace gla
