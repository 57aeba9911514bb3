#define GLA_EMULATOR
#include "emulated_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <list>
#include <memory>
#include <optional>

#include "case_fill.h"
#include "element.h"
#include "emulated_tensor.h"
#include "guarded_memory.h"
#include "kernel.h"
#include "stream.h"
#include "tensor_map.h"
#include "tensor_maps.h"
#include "verification.cuh"

namespace gla {
namespace {

using emulator::GuardedMemory;

/// `count` values of a distribution, rounded to a type.
std::vector<float> values(std::int64_t count, DType dtype, const FillArgs& fill) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i)
    result[i] = round_to(dtype, fill_value(fill, static_cast<Index>(i)));
  return result;
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

/// The arguments with the maps of a call's tensors in the emulator's encoding.
template <class Args, class CallArgs>
Args with_maps(const TensorBoxes& boxes, const CallArgs& call) {
  Args args{};
  static_cast<CallArgs&>(args) = call;
  for (const MappedTensor& each : mapped_tensors(boxes, args)) {
    if (!each.geometry) continue;
    const auto& [data, sizes, stride_bytes, box, element_bytes] = *each.geometry;
    emulator::encode_tensor_map(
        each.map, {data, sizes, stride_bytes, box, element_bytes, emulator::Swizzle::bytes_128});
  }
  return args;
}

/// Tokens that belong to a sequence.
std::int64_t used_tokens(const ReferenceInput& in) {
  return in.cu_seqlens.empty() ? in.batch * in.tokens : in.cu_seqlens.back();
}

/// NaN for the tokens of no sequence of a [B, T, heads, channels] tensor.
void hide_unused(std::vector<float>& tensor, const ReferenceInput& in) {
  const auto used = static_cast<std::int64_t>(tensor.size()) / (in.batch * in.tokens) * used_tokens(in);
  std::fill(tensor.begin() + used, tensor.end(), std::numeric_limits<float>::quiet_NaN());
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

std::int64_t state_elements(const ReferenceInput& in) {
  return in.sequences() * in.heads * in.problem.head_dim_k * in.problem.head_dim_v;
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

template <class Args>
void run_launches(const emulator::Program& program, const std::vector<std::string>& entries,
                  const LaunchPlan& plan, const Args& args, emulator::Options options) {
  emulator::Stream stream;
  options.stream = &stream;
  for (const Launch& one : plan.launches) {
    if (!one.is_for(needed_by(args))) continue;
    const emulator::Shape shape{one.grid, one.threads, one.shared_bytes, one.cluster};
    program.run(entries[static_cast<std::size_t>(one.entry)], shape, args, options);
  }
}

/// With the maps, where the plan has boxes.
template <class WithMaps, class Args>
void run_call(const emulator::Program& program, const std::vector<std::string>& entries,
              const LaunchPlan& plan, const Args& args, const emulator::Options& options) {
  if (plan.boxes.rows > 0)
    run_launches(program, entries, plan, with_maps<WithMaps>(plan.boxes, args), options);
  else
    run_launches(program, entries, plan, args, options);
}

/// An output of a call.
struct OutputMemory {
  Output output;
  DType dtype;
  std::optional<Layout> layout;  ///< a state has none: it is contiguous
  GuardedMemory memory;

  Tensor tensor() const { return layout ? layout->tensor(memory) : Tensor{.data = memory.data()}; }
  std::vector<float> values() const {
    return layout ? values_in(memory, dtype, *layout) : values_in(memory, dtype);
  }
  bool untouched_behind(std::int64_t rows) const {
    return layout ? gla::untouched_behind(rows, memory, dtype, *layout) : memory.end_intact();
  }
};

/// What the case asks for, poisoned.
std::list<OutputMemory> outputs_for(const ReferenceInput& in, const KernelCase& c) {
  std::list<OutputMemory> outputs;
  for (const Output output : outputs_of(in.problem)) {
    if (!is_wanted(output, c.final_state, c.gradients)) continue;
    const DType dtype = dtype_of(in.problem, output);
    std::optional<Layout> layout;
    auto bytes = static_cast<std::size_t>(state_elements(in)) * size_of(dtype);
    if (!is_state(output)) {
      const Extent extent = extent_of(in.problem, output, {}, in.heads);
      layout.emplace(in.batch, in.tokens, extent.heads, extent.channels, c.layout());
      bytes = layout->bytes(size_of(dtype));
    }
    outputs.push_back({output, dtype, layout, GuardedMemory(bytes, kTensorAlignment)});
  }
  return outputs;
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
  in.q = values(rows * c.heads * problem.group * dim_k, problem.dtype, normal_fill(seed));
  in.k = values(rows * c.heads * dim_k, problem.dtype, normal_fill(seed + 1));
  in.v = values(rows * c.heads * dim_v, problem.dtype, normal_fill(seed + 2));
  if (problem.gate_k)
    in.gk = values(rows * c.heads * dim_k, problem.gate_dtype, gate_fill(c.gates, seed + 3));
  if (problem.gate_v)
    in.gv = values(rows * c.heads * dim_v, problem.gate_dtype, gate_fill(c.gates, seed + 4));
  if (c.initial_state)
    in.initial_state = values(state_elements(in), problem.state_dtype, normal_fill(seed + 5));
  for (std::vector<float>* each : {&in.q, &in.k, &in.v, &in.gk, &in.gv}) hide_unused(*each, in);
  if (c.nan_gate) {
    const std::int64_t first = first_tokens_of(in).back() * in.heads * dim_k;
    in.gk.at(static_cast<std::size_t>(first)) = std::numeric_limits<float>::quiet_NaN();
  }
  return in;
}

ReferenceLoss make_loss(const ReferenceInput& in, const KernelCase& c) {
  return make_loss(in, c, 10 * c.seed);
}

ReferenceLoss make_loss(const ReferenceInput& in, const KernelCase& c, std::uint64_t seed) {
  if (!is_backward(in.problem.operation)) return {};
  const Problem& problem = in.problem;
  const std::int64_t rows = in.batch * in.tokens * in.heads * problem.group;
  ReferenceLoss loss{values(rows * problem.head_dim_v, problem.dtype, normal_fill(seed + 6)), {}};
  if (c.final_state)
    loss.final_state = values(state_elements(in), problem.state_dtype, normal_fill(seed + 7));
  hide_unused(loss.o, in);
  return loss;
}

ExpectedOutputs expected_outputs(const ReferenceInput& in, const ReferenceLoss& loss) {
  ExpectedOutputs expected;
  if (is_backward(in.problem.operation)) {
    ReferenceGradients gradients = naive_backward(in, loss);
    expected.dq = std::move(gradients.q);
    expected.dk = std::move(gradients.k);
    expected.dv = std::move(gradients.v);
    expected.dgk = std::move(gradients.gk);
    expected.dgv = std::move(gradients.gv);
    expected.d_initial_state = std::move(gradients.initial_state);
  } else {
    ReferenceOutput output = naive(in);
    expected.o = std::move(output.o);
    expected.final_state = std::move(output.final_state);
  }
  return expected;
}

KernelResult run_kernel(const ReferenceInput& in, const KernelCase& c, const LaunchKernel& launch,
                        const ReferenceLoss& loss) {
  const Problem& problem = in.problem;
  const std::int64_t query_heads = in.heads * problem.group;
  const std::int64_t dim_k = problem.head_dim_k;
  const std::int64_t dim_v = problem.head_dim_v;
  const auto layout_of = [&](std::int64_t heads, std::int64_t channels) {
    return Layout(in.batch, in.tokens, heads, channels, c.layout());
  };
  const Layout q_layout = layout_of(query_heads, dim_k), o_layout = layout_of(query_heads, dim_v);
  const Layout k_layout = layout_of(in.heads, dim_k), v_layout = layout_of(in.heads, dim_v);
  const GuardedMemory q = guarded(in.q, problem.dtype, q_layout);
  const GuardedMemory k = guarded(in.k, problem.dtype, k_layout);
  const GuardedMemory v = guarded(in.v, problem.dtype, v_layout);
  const GuardedMemory gk = guarded(in.gk, problem.gate_dtype, k_layout);
  const GuardedMemory gv = guarded(in.gv, problem.gate_dtype, v_layout);
  const GuardedMemory initial_state = guarded(in.initial_state, problem.state_dtype);
  const GuardedMemory d_o = guarded(loss.o, problem.dtype, o_layout);
  const GuardedMemory d_final_state = guarded(loss.final_state, problem.state_dtype);
  const GuardedMemory cu_seqlens = cumulative_lengths(in.cu_seqlens, c.cu_seqlens_is_int64);
  const std::list<OutputMemory> outputs = outputs_for(in, c);
  unsigned long long paths[kPathCounters] = {};

  BackwardArgs args;
  args.q = q_layout.tensor(q);
  args.k = k_layout.tensor(k);
  args.v = v_layout.tensor(v);
  if (problem.gate_k) args.gk = k_layout.tensor(gk);
  if (problem.gate_v) args.gv = v_layout.tensor(gv);
  if (!in.initial_state.empty()) args.initial_state = initial_state.data();
  if (!loss.o.empty()) args.d_o = o_layout.tensor(d_o);
  if (!loss.final_state.empty()) args.d_final_state = reinterpret_cast<const float*>(d_final_state.data());
  for (const OutputMemory& each : outputs) set_output(args, each.output, each.tensor());
  if (c.in_place) {
    // What lies in the final state's memory is the initial state.
    std::copy_n(initial_state.data(), initial_state.size(), static_cast<unsigned char*>(args.final_state));
    args.initial_state = args.final_state;
  }
  if (!in.cu_seqlens.empty()) args.cu_seqlens = cu_seqlens.data();
  args.cu_seqlens_is_int64 = c.cu_seqlens_is_int64 ? 1 : 0;
  args.sequences = in.sequences();
  args.tokens = in.tokens;
  args.heads = static_cast<int>(in.heads);
  args.scale = in.scale.value_or(1.0f / std::sqrt(static_cast<float>(dim_k)));
  args.path_counts = paths;
  launch(args, {in.sequences(), in.heads, in.tokens, !in.cu_seqlens.empty()}, {{.legs = c.legs}, c.options});

  KernelResult result;
  for (const OutputMemory& each : outputs) {
    result[each.output] = each.values();
    const std::int64_t rows = used_tokens(in) * extent_of(problem, each.output, {}, in.heads).heads;
    result.untouched = result.untouched && each.untouched_behind(rows);
  }
  std::copy(std::begin(paths), std::end(paths), result.paths);
  return result;
}

KernelOutcome judge(const ReferenceInput& in, const ExpectedOutputs& expected, const KernelResult& result) {
  const std::vector<std::int64_t> lengths = lengths_of(in);
  const std::vector<std::int64_t> first = first_tokens_of(in);
  KernelOutcome outcome;
  for (const Output output : outputs_of(in.problem)) {
    if (result[output].empty()) continue;
    const Extent extent = extent_of(in.problem, output, lengths, in.heads);
    std::vector<CompareSums> sums = compare(result[output], expected[output], extent);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const std::size_t sequence = i / static_cast<std::size_t>(extent.heads);
      const std::int64_t head = static_cast<std::int64_t>(i) % extent.heads / (extent.heads / in.heads);
      if (output != Output::o && has_nan_gate(in, first[sequence], lengths[sequence], head)) sums[i] = {};
    }
    outcome[output] = summarize(sums, extent);
  }
  outcome.untouched = result.untouched;
  std::copy(std::begin(result.paths), std::end(result.paths), outcome.paths);
  return outcome;
}

KernelOutcome judge(const ReferenceInput& in, const KernelResult& result, const ReferenceLoss& loss) {
  return judge(in, expected_outputs(in, loss), result);
}

KernelOutcome run_case(const Problem& problem, const KernelCase& c, const LaunchKernel& launch) {
  const ReferenceInput in = make_inputs(problem, c);
  const ReferenceLoss loss = make_loss(in, c);
  return judge(in, run_kernel(in, c, launch, loss), loss);
}

void run_plan(const emulator::Program& program, const std::vector<std::string>& entries,
              const LaunchPlan& plan, const KernelArgs& args, const emulator::Options& options) {
  run_call<TensorArgs>(program, entries, plan, args, options);
}

void run_plan(const emulator::Program& program, const std::vector<std::string>& entries,
              const LaunchPlan& plan, const BackwardArgs& args, const emulator::Options& options) {
  run_call<BackwardTensorArgs>(program, entries, plan, args, options);
}

LaunchKernel kernel_of(const Problem& problem, const Variant& variant, const emulator::Toolchain& toolchain) {
  const Source source = render(problem, variant);
  const auto program =
      std::make_shared<emulator::Program>(emulator::Program::build(source.name, source.text, toolchain));
  return [=](BackwardArgs args, const Workload& workload, const RunOptions& options) {
    const LaunchPlan launches = plan(problem, variant, workload, options.relaying);
    const GuardedMemory workspace(launches.workspace_bytes, 256);
    if (launches.counters_bytes > 0)
      std::memset(workspace.data() + launches.counters_offset, 0, launches.counters_bytes);
    place_workspace(args, launches, workspace.data());
    if (is_backward(problem.operation))
      run_plan(*program, source.entries, launches, args, options.emulator);
    else
      run_plan(*program, source.entries, launches, static_cast<const KernelArgs&>(args), options.emulator);
  };
}

std::string complaint(const KernelOutcome& outcome, const Bar& bar) {
  std::string text;
  for (const Output output : kOutputs) {
    const std::string name(to_string(output));
    const ErrorReport& error = outcome[output];
    const double limit = bar[output];
    if (error.nan_mismatches != 0) text += name + ": " + std::to_string(error.nan_mismatches) + " NaN; ";
    if (!(error.overall <= limit)) {
      text += name + ": error " + std::to_string(error.overall) + " above " + std::to_string(limit) + "; ";
    }
    if (!(error.worst <= limit * kSingleHeadAllowance)) {
      text += name + ": error " + std::to_string(error.worst) + " in sequence " +
              std::to_string(error.worst_sequence) + ", head " + std::to_string(error.worst_head) + "; ";
    }
  }
  if (!outcome.untouched) text += "something between the rows or behind the last sequence was written; ";
  return text;
}

}  // namespace gla
