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
#include "kernel.h"
#include "program.h"
#include "reference.h"
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

/// Memory that ends where the values end.
GuardedMemory guarded(std::span<const float> floats, DType dtype) {
  const std::vector<std::byte> bytes = encode(dtype, floats);
  GuardedMemory memory(bytes.size(), kTensorAlignment);
  std::memcpy(memory.data(), bytes.data(), bytes.size());
  return memory;
}

std::vector<float> floats_of(const GuardedMemory& memory, DType dtype) {
  return decode(dtype, {reinterpret_cast<const std::byte*>(memory.data()), memory.size()});
}

Tensor tensor(const GuardedMemory& memory, std::int64_t tokens, std::int64_t heads, std::int64_t channels) {
  return {memory.data(), tokens * heads * channels, heads * channels, channels};
}

GuardedMemory cumulative_lengths(const KernelCase& c) {
  GuardedMemory memory(c.cu_seqlens.size() * (c.cu_seqlens_is_int64 ? 8 : 4), kTensorAlignment);
  for (std::size_t i = 0; i < c.cu_seqlens.size(); ++i) {
    if (c.cu_seqlens_is_int64) {
      reinterpret_cast<long long*>(memory.data())[i] = c.cu_seqlens[i];
    } else {
      reinterpret_cast<int*>(memory.data())[i] = static_cast<int>(c.cu_seqlens[i]);
    }
  }
  return memory;
}

/// Tokens that belong to a sequence.
std::int64_t used_tokens(const KernelCase& c) {
  return c.cu_seqlens.empty() ? c.batch * c.tokens : c.cu_seqlens.back();
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
  in.q = values(rows * c.heads * problem.group * dim_k, problem.dtype, seed, Fill::normal);
  in.k = values(rows * c.heads * dim_k, problem.dtype, seed + 1, Fill::normal);
  in.v = values(rows * c.heads * dim_v, problem.dtype, seed + 2, Fill::normal);
  const GateFill gate = fill_of(c.gates);
  if (problem.gate_k)
    in.gk = values(rows * c.heads * dim_k, problem.gate_dtype, seed + 3, Fill::log_gate, gate);
  if (problem.gate_v)
    in.gv = values(rows * c.heads * dim_v, problem.gate_dtype, seed + 4, Fill::log_gate, gate);
  if (c.initial_state) {
    in.initial_state =
        values(c.sequences() * c.heads * dim_k * dim_v, problem.state_dtype, seed + 5, Fill::normal);
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (std::vector<float>* each : {&in.q, &in.k, &in.v, &in.gk, &in.gv}) {
    const std::size_t used =
        each->size() / static_cast<std::size_t>(rows) * static_cast<std::size_t>(used_tokens(c));
    std::fill(each->begin() + static_cast<std::ptrdiff_t>(used), each->end(), nan);
  }
  if (c.nan_token >= 0) in.k[static_cast<std::size_t>(c.nan_token * c.heads * dim_k)] = nan;
  return in;
}

std::vector<std::int64_t> lengths_of(const KernelCase& c) {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(c.sequences()), c.tokens);
  for (std::size_t n = 0; n + 1 < c.cu_seqlens.size(); ++n)
    lengths[n] = c.cu_seqlens[n + 1] - c.cu_seqlens[n];
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

KernelOutcome run_case(const Problem& problem, const KernelCase& c, const LaunchKernel& launch) {
  const ReferenceInput in = make_inputs(problem, c);
  const ReferenceOutput expected = naive(in);
  const std::int64_t query_heads = c.heads * problem.group;
  const std::int64_t dim_k = problem.head_dim_k;
  const std::int64_t dim_v = problem.head_dim_v;

  const GuardedMemory q = guarded(in.q, problem.dtype);
  const GuardedMemory k = guarded(in.k, problem.dtype);
  const GuardedMemory v = guarded(in.v, problem.dtype);
  const GuardedMemory gk = guarded(in.gk, problem.gate_dtype);
  const GuardedMemory gv = guarded(in.gv, problem.gate_dtype);
  const GuardedMemory o(expected.o.size() * size_of(problem.dtype), kTensorAlignment);
  const GuardedMemory initial_state = guarded(in.initial_state, problem.state_dtype);
  const GuardedMemory separate_state(expected.final_state.size() * size_of(problem.state_dtype),
                                     kTensorAlignment);
  const GuardedMemory& final_state = c.in_place ? initial_state : separate_state;
  const GuardedMemory cu_seqlens = cumulative_lengths(c);
  unsigned long long paths[3] = {};

  KernelArgs args;
  args.q = tensor(q, c.tokens, query_heads, dim_k);
  args.k = tensor(k, c.tokens, c.heads, dim_k);
  args.v = tensor(v, c.tokens, c.heads, dim_v);
  if (problem.gate_k) args.gk = tensor(gk, c.tokens, c.heads, dim_k);
  if (problem.gate_v) args.gv = tensor(gv, c.tokens, c.heads, dim_v);
  args.o = tensor(o, c.tokens, query_heads, dim_v);
  if (c.initial_state) args.initial_state = initial_state.data();
  if (c.final_state) args.final_state = final_state.data();
  if (!c.cu_seqlens.empty()) args.cu_seqlens = cu_seqlens.data();
  args.cu_seqlens_is_int64 = c.cu_seqlens_is_int64 ? 1 : 0;
  args.sequences = c.sequences();
  args.tokens = c.tokens;
  args.heads = static_cast<int>(c.heads);
  args.scale = c.scale.value_or(1.0f / std::sqrt(static_cast<float>(dim_k)));
  args.path_counts = paths;
  launch(args, {c.sequences(), c.heads, c.tokens, !c.cu_seqlens.empty()}, c.options);

  KernelOutcome outcome;
  const std::vector<std::int64_t> lengths = lengths_of(c);
  outcome.o = report(floats_of(o, problem.dtype), expected.o, {lengths, query_heads, dim_v, false});
  if (c.final_state) {
    const std::int64_t rows = problem.state_v_first ? dim_v : dim_k;
    const std::int64_t columns = problem.state_v_first ? dim_k : dim_v;
    outcome.final_state = report(floats_of(final_state, problem.state_dtype), expected.final_state,
                                 {std::vector(lengths.size(), rows), c.heads, columns, true});
  }
  const std::size_t used =
      size_of(problem.dtype) * static_cast<std::size_t>(used_tokens(c) * query_heads * dim_v);
  outcome.untouched =
      std::all_of(o.data() + used, o.data() + o.size(), [](unsigned char b) { return b == 0xff; });
  for (const GuardedMemory* each : {&o, &final_state}) outcome.untouched &= each->end_intact();
  std::copy(std::begin(paths), std::end(paths), outcome.paths);
  return outcome;
}

LaunchKernel kernel_of(const Problem& problem, const Variant& variant) {
  const Source source = render(problem, variant);
  const auto program =
      std::make_shared<emulator::Program>(emulator::Program::build(source.name, source.text));
  return [=](KernelArgs args, const Workload& workload, const emulator::Options& options) {
    const LaunchPlan launches = plan(problem, variant, workload);
    const GuardedMemory workspace(launches.workspace_bytes, 256);
    place_workspace(args, problem, launches, workload, workspace.data());
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
