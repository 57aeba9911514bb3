#include "bench.h"

#include <algorithm>
#include <chrono>

#include "device_reference.h"
#include "gla/generator/model.h"

namespace gla {
namespace {

constexpr int kHostBatches = 25, kCallsPerHostBatch = 40;  // few enough that the driver's queue never fills

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TensorView view_of(const Tensor& tensor) {
  return {tensor.data, tensor.stride_batch, tensor.stride_token, tensor.stride_head};
}

/// A call of any operation: of forward ones only `forward` counts.
BackwardCall call_of(const Shape& shape, const BackwardArgs& args, Accuracy accuracy) {
  const Problem& problem = shape.problem;
  BackwardCall whole;
  whole.d_o = view_of(args.d_o);
  whole.d_final_state = args.d_final_state;
  whole.dq = view_of(args.dq);
  whole.dk = view_of(args.dk);
  whole.dv = view_of(args.dv);
  whole.dgk = view_of(args.dgk);
  whole.dgv = view_of(args.dgv);
  whole.d_initial_state = args.d_initial_state;
  ForwardCall& call = whole.forward;
  call.q = view_of(args.q);
  call.k = view_of(args.k);
  call.v = view_of(args.v);
  call.gk = view_of(args.gk);
  call.gv = view_of(args.gv);
  call.o = view_of(args.o);
  call.initial_state = args.initial_state;
  call.final_state = args.final_state;
  call.cu_seqlens = args.cu_seqlens;
  call.batch = shape.workload.packed ? 1 : shape.workload.sequences;
  call.sequences = shape.workload.packed ? shape.workload.sequences : 0;
  call.tokens = shape.workload.tokens;
  call.heads = static_cast<int>(shape.workload.heads);
  call.query_heads = call.heads * problem.group;
  call.head_dim_k = problem.head_dim_k;
  call.head_dim_v = problem.head_dim_v;
  call.dtype = problem.dtype;
  call.gate_dtype = problem.gate_dtype;
  call.state_dtype = problem.state_dtype;
  call.reverse = problem.reverse;
  call.state_v_first = problem.state_v_first;
  call.fp32_gate_gradients = problem.fp32_gate_gradients;
  call.accuracy = accuracy;
  return whole;
}

}  // namespace

Result<std::unique_ptr<Bench>> Bench::create(const Gpu& gpu, Context& context, CubinCache& cache) {
  auto timer = Timer::create(gpu);
  if (!timer.ok()) return timer.status();
  std::unique_ptr<Bench> bench(new Bench(gpu, context, cache, *std::move(timer)));
  const auto bandwidth = gla::copy_bandwidth(gpu, bench->timer_);
  if (!bandwidth.ok()) return bandwidth.status();
  bench->copy_bandwidth_ = *bandwidth;
  return bench;
}

Result<BenchResult> Bench::run(const Shape& shape, const BenchOptions& options) {
  const Problem& problem = shape.problem;
  const auto tools = Tools::load(*gpu_, *cache_, problem);
  if (!tools.ok()) return tools.status();
  auto guard = ClockGuard::create(*gpu_, timer_, *tools);
  if (!guard.ok()) return guard.status();
  const bool states = options.states || timed_with_states(problem.operation);
  const auto inputs = WorkloadInputs::make(*gpu_, *tools, problem, shape.workload, options.gates, states);
  if (!inputs.ok()) return inputs.status();

  BenchResult result;
  auto choice = context_->choose(problem, shape.workload, options.accuracy);
  if (!choice.ok()) return choice.status();
  result.choice = *std::move(choice);
  std::vector<BackwardCall> calls;
  for (int set = 0; set < inputs->sets(); ++set)
    calls.push_back(call_of(shape, inputs->arguments(set), options.accuracy));
  const auto bytes = context_->workspace_bytes(problem.operation, calls.front().forward);
  if (!bytes.ok()) return bytes.status();
  result.workspace_bytes = *bytes;
  auto workspace = DeviceBuffer::allocate(*gpu_, *bytes);
  if (!workspace.ok()) return workspace.status();
  const RotatingCall rotating{[&](int set) {
                                const BackwardCall& call = calls[static_cast<std::size_t>(set)];
                                if (is_backward(problem.operation))
                                  return context_->backward(problem.operation, call, workspace->data(),
                                                            workspace->size(), gpu_->stream());
                                return context_->forward(problem.operation, call.forward, workspace->data(),
                                                         workspace->size(), gpu_->stream());
                              },
                              inputs->sets()};

  const auto start = std::chrono::steady_clock::now();
  GLA_RETURN_IF_ERROR(rotating.enqueue(0));
  GLA_RETURN_IF_ERROR(gpu_->synchronize());
  result.first_seconds = seconds_since(start);
  if (options.check) GLA_RETURN_IF_ERROR(compare(*tools, shape, inputs->arguments(0), result));

  Stopwatch stopwatch(*gpu_, timer_, &*guard);
  const auto measured = stopwatch.measure(rotating, {.least_samples = 20,
                                                     .most_samples = 1000,
                                                     .uncertainty = 0.001,
                                                     .budget_seconds = options.budget_seconds});
  if (!measured.ok()) return measured.status();
  result.device = measured->summary;
  result.throttled_rounds = measured->throttled_rounds;
  result.floor_seconds = floor_bytes(problem, shape.workload, states) / copy_bandwidth_;
  const auto host = host_seconds(rotating);
  if (!host.ok()) return host.status();
  result.host_seconds = *host;
  return result;
}

Result<double> Bench::host_seconds(const RotatingCall& call) const {
  std::vector<double> batches;
  for (int batch = 0; batch < kHostBatches; ++batch) {
    GLA_RETURN_IF_ERROR(gpu_->synchronize());
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCallsPerHostBatch; ++i) GLA_RETURN_IF_ERROR(call.enqueue(i % call.sets));
    batches.push_back(seconds_since(start) / kCallsPerHostBatch);
  }
  GLA_RETURN_IF_ERROR(gpu_->synchronize());
  return median(std::move(batches));
}

Status Bench::compare(const Tools& tools, const Shape& shape, const BackwardArgs& args,
                      BenchResult& result) const {
  const Problem& problem = shape.problem;
  const auto reference = DeviceReference::make(*gpu_, tools, problem, args);
  if (!reference.ok()) return reference.status();
  const std::int64_t sequences = shape.workload.sequences;
  // Sequences of a bench are equally long to within a token.
  const std::vector<std::int64_t> lengths(static_cast<std::size_t>(sequences),
                                          shape.workload.tokens / (shape.workload.packed ? sequences : 1));
  for (const Output output : outputs_of(problem)) {
    const Tensor value = output_of(args, output);
    if (value.data == nullptr) continue;
    const auto sums = reference->compare(tools, output, value);
    if (!sums.ok()) return sums.status();
    result.errors[output] = summarize(*sums, extent_of(problem, output, lengths, shape.workload.heads));
  }
  return {};
}

}  // namespace gla
