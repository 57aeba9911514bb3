#include "bench.h"

#include <algorithm>
#include <chrono>

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

ForwardCall call_of(const Shape& shape, const KernelArgs& args, Accuracy accuracy) {
  const Problem& problem = shape.problem;
  ForwardCall call;
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
  call.accuracy = accuracy;
  return call;
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
  std::vector<ForwardCall> calls;
  for (int set = 0; set < inputs->sets(); ++set)
    calls.push_back(call_of(shape, inputs->arguments(set), options.accuracy));
  const auto bytes = context_->workspace_bytes(problem.operation, calls.front());
  if (!bytes.ok()) return bytes.status();
  result.workspace_bytes = *bytes;
  auto workspace = DeviceBuffer::allocate(*gpu_, *bytes);
  if (!workspace.ok()) return workspace.status();
  const RotatingCall rotating{[&](int set) {
                                return context_->forward(
                                    problem.operation, calls[static_cast<std::size_t>(set)],
                                    workspace->data(), workspace->size(), gpu_->stream());
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

Status Bench::compare(const Tools& tools, const Shape& shape, KernelArgs args, BenchResult& result) const {
  const Problem& problem = shape.problem;
  const std::int64_t sequences = shape.workload.sequences, query_heads = shape.workload.heads * problem.group;
  const std::int64_t rows = shape.workload.tokens * (shape.workload.packed ? 1 : sequences);
  const auto state_elements =
      static_cast<std::size_t>(sequences * shape.workload.heads * problem.head_dim_k * problem.head_dim_v);
  auto o = DeviceBuffer::allocate(
      *gpu_, static_cast<std::size_t>(rows * query_heads * problem.head_dim_v) * sizeof(float));
  if (!o.ok()) return o.status();
  auto state = DeviceBuffer::allocate(*gpu_, state_elements * sizeof(float));
  if (!state.ok()) return state.status();

  CompareArgs output;
  output.value = args.o;
  output.reference = args.o;
  output.reference.data = o->data();
  output.cu_seqlens = args.cu_seqlens;
  output.sequences = sequences;
  output.tokens = shape.workload.tokens;
  output.heads = static_cast<int>(query_heads);
  output.channels = problem.head_dim_v;
  output.dtype = static_cast<int>(problem.dtype);
  void* final_state = args.final_state;
  args.o = output.reference;
  args.final_state = state->data();
  GLA_RETURN_IF_ERROR(tools.naive(args));
  const auto sums = tools.compare(output);
  if (!sums.ok()) return sums.status();
  // Sequences of a bench are equally long to within a token.
  const std::vector<std::int64_t> lengths(static_cast<std::size_t>(sequences), rows / sequences);
  result.error_o =
      summarize(*sums, {.lengths = lengths, .heads = query_heads, .channels = problem.head_dim_v});
  if (final_state == nullptr) return {};

  CompareArgs states;
  states.value = {.data = final_state,
                  .stride_batch = shape.workload.heads * problem.head_dim_k * problem.head_dim_v,
                  .stride_token = problem.head_dim_v,
                  .stride_head = problem.head_dim_k * problem.head_dim_v};
  states.reference = states.value;
  states.reference.data = state->data();
  states.sequences = sequences;
  states.tokens = problem.head_dim_k;
  states.heads = static_cast<int>(shape.workload.heads);
  states.channels = problem.head_dim_v;
  states.dtype = static_cast<int>(problem.state_dtype);
  const auto state_sums = tools.compare(states);
  if (!state_sums.ok()) return state_sums.status();
  const std::vector<std::int64_t> state_rows(static_cast<std::size_t>(sequences), problem.head_dim_k);
  result.error_state = summarize(
      *state_sums,
      {.lengths = state_rows, .heads = shape.workload.heads, .channels = problem.head_dim_v, .state = true});
  return {};
}

}  // namespace gla
