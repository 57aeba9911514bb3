#include "device_laboratory.h"

#include <algorithm>

#include "chunk_layout.h"
#include "gla/generator/render.h"

namespace gla {
namespace {

// The gates that variants are ranked on: what GLA layers have.
constexpr Gates kTimedGates = Gates::sixteenth;

constexpr StoppingLimits kRankingLimits{
    .least_samples = 5, .most_samples = 100, .uncertainty = 0.01, .budget_seconds = 0.03};
constexpr StoppingLimits kContestLimits{
    .least_samples = 15, .most_samples = 200, .uncertainty = 0.002, .budget_seconds = 0.06};

Timing timing_of(const Measured& measured) {
  return {.seconds = measured.summary.median,
          .noise = measured.summary.noise,
          .samples = static_cast<int>(measured.summary.samples)};
}

}  // namespace

double share_off_fast_path(const std::vector<unsigned long long>& path_counts, int chunk) {
  const auto fast = static_cast<double>(path_counts.at(0));
  const double off = static_cast<double>(path_counts.at(1)) * kBlockTokens / std::max(chunk, kBlockTokens);
  return fast + off > 0 ? off / (fast + off) : 0;
}

struct DeviceLaboratory::Bench {
  const LoadedKernels* kernels = nullptr;
  const WorkloadInputs* inputs = nullptr;
  Problem problem;
  Variant variant;
  Workload workload;
  LaunchPlan launches;
  DeviceBuffer workspace;

  BackwardArgs arguments(int set) const {
    BackwardArgs args = inputs->arguments(set);
    place_workspace(args, launches, workspace.data());
    return args;
  }
  RotatingCall call(CUstream stream) const {
    return {[this, stream](int set) { return enqueue(arguments(set), stream); }, inputs->sets()};
  }
  Status enqueue(const BackwardArgs& args, CUstream stream) const {
    return launch(*kernels, problem, launches, args, stream);
  }
};

Result<std::unique_ptr<DeviceLaboratory>> DeviceLaboratory::create(int device, CubinCache& cache) {
  auto gpu = Gpu::open(device);
  if (!gpu.ok()) return gpu.status();
  auto timer = Timer::create(**gpu);
  if (!timer.ok()) return timer.status();
  return std::unique_ptr<DeviceLaboratory>(new DeviceLaboratory(*std::move(gpu), *std::move(timer), cache));
}

Status DeviceLaboratory::turn_to(const Problem& problem) {
  if (problem_ == problem) return {};
  verifiers_.clear();
  inputs_.clear();
  tools_.reset();
  problem_.reset();
  auto tools = Tools::load(*gpu_, *cache_, problem);
  if (!tools.ok()) return tools.status();
  tools_ = *std::move(tools);
  problem_ = problem;
  if (guard_) return {};
  // The guard outlives this problem: it keeps tools of its own.
  auto guard_tools = Tools::load(*gpu_, *cache_, problem);
  if (!guard_tools.ok()) return guard_tools.status();
  guard_tools_ = *std::move(guard_tools);
  auto guard = ClockGuard::create(*gpu_, timer_, *guard_tools_);
  if (!guard.ok()) return guard.status();
  guard_ = *std::move(guard);
  return {};
}

Result<Verifier*> DeviceLaboratory::verifier(CaseSet set) {
  auto found = verifiers_.find(set);
  if (found == verifiers_.end()) {
    auto cases = set == CaseSet::quick ? quick_cases(*problem_) : full_cases(*problem_);
    found = verifiers_.emplace(set, Verifier(*gpu_, *cache_, std::move(cases))).first;
  }
  return &found->second;
}

Answer<Verdict> DeviceLaboratory::verify(const Problem& problem, const Variant& variant) {
  if (const Status status = turn_to(problem); !status.ok()) return {{}, {"error", status.message()}};
  const auto checker = verifier(CaseSet::quick);
  const auto answer = (*checker)->verify(variant);
  return {answer.value.verdict, answer.refusal};
}

Answer<Verification> DeviceLaboratory::verify_fully(const Problem& problem, const Variant& variant) {
  if (const Status status = turn_to(problem); !status.ok()) return {{}, {"error", status.message()}};
  const auto checker = verifier(CaseSet::full);
  return (*checker)->verify(variant);
}

Result<double> DeviceLaboratory::measure_copy_bandwidth() {
  return copy_bandwidth(*gpu_, timer_);
}

Result<const WorkloadInputs*> DeviceLaboratory::inputs(const Workload& workload) {
  auto found = inputs_.find(workload);
  if (found == inputs_.end()) {
    const bool states = timed_with_states(problem_->operation);
    auto made = WorkloadInputs::make(*gpu_, *tools_, *problem_, workload, kTimedGates, states);
    if (!made.ok() && !inputs_.empty()) {
      inputs_.clear();  // the other workloads' tensors may be what is in the way
      made = WorkloadInputs::make(*gpu_, *tools_, *problem_, workload, kTimedGates, states);
    }
    if (!made.ok()) return made.status();
    found = inputs_.emplace(workload, *std::move(made)).first;
  }
  return &found->second;
}

Result<DeviceLaboratory::Bench> DeviceLaboratory::bench(const Variant& variant, const LoadedKernels& kernels,
                                                        const Workload& workload) {
  const auto tensors = inputs(workload);
  if (!tensors.ok()) return tensors.status();
  const Relaying relaying{.multiprocessors = gpu_->architecture().multiprocessors};
  Bench bench{&kernels, *tensors, *problem_, variant, workload, plan(*problem_, variant, workload, relaying),
              {}};
  if (bench.launches.workspace_bytes > 0) {
    auto workspace = DeviceBuffer::allocate(*gpu_, bench.launches.workspace_bytes);
    if (!workspace.ok()) return workspace.status();
    bench.workspace = *std::move(workspace);
  }
  return bench;
}

Result<double> DeviceLaboratory::fallback_share(const Bench& bench) {
  auto counters = uploaded(*gpu_, std::vector<unsigned long long>(kPathCounters, 0));
  if (!counters.ok()) return counters.status();
  BackwardArgs args = bench.arguments(0);
  args.path_counts = static_cast<unsigned long long*>(counters->data());
  GLA_RETURN_IF_ERROR(bench.enqueue(args, gpu_->stream()));
  std::vector<unsigned long long> counts(kPathCounters);
  GLA_RETURN_IF_ERROR(counters->download(counts.data(), counts.size() * sizeof(counts[0])));
  return share_off_fast_path(counts, bench.variant[Parameter::chunk]);
}

Result<Timing> DeviceLaboratory::time(Bench& bench, const MeasureRequest& request) {
  StoppingLimits limits = kRankingLimits;
  limits.hopeless_above_seconds = request.hopeless_above_seconds;
  Stopwatch stopwatch(*gpu_, timer_, guard_ ? &*guard_ : nullptr);
  const auto measured = stopwatch.measure(bench.call(gpu_->stream()), limits);
  if (!measured.ok()) return measured.status();
  Timing timing = timing_of(*measured);
  if (!measured->hopeless && !is_recurrent(problem_->operation)) {
    const auto share = fallback_share(bench);
    if (!share.ok()) return share.status();
    timing.fallback_share = *share;
  }
  return timing;
}

Answer<std::vector<Timing>> DeviceLaboratory::measure(const Problem& problem, const Variant& variant,
                                                      std::span<const MeasureRequest> requests) {
  if (const Status status = turn_to(problem); !status.ok()) return {{}, {"error", status.message()}};
  const auto kernels = load_variant(*cache_, gpu_->architecture(), problem, variant);
  if (!kernels.ok()) return {{}, refusal_of(kernels.status())};
  std::vector<Timing> timings;
  for (const MeasureRequest& request : requests) {
    auto one = bench(variant, *kernels, request.workload);
    if (!one.ok()) return {{}, refusal_of(one.status())};
    const auto timing = time(*one, request);
    if (!timing.ok()) return {{}, refusal_of(timing.status())};
    timings.push_back(*timing);
  }
  return {std::move(timings), {}};
}

Answer<std::vector<Timing>> DeviceLaboratory::contest(const Problem& problem, const Workload& workload,
                                                      std::span<const Variant> finalists) {
  if (const Status status = turn_to(problem); !status.ok()) return {{}, {"error", status.message()}};
  std::vector<LoadedKernels> kernels;
  kernels.reserve(finalists.size());
  std::vector<Bench> benches;
  benches.reserve(finalists.size());  // calls point into it
  std::vector<RotatingCall> calls;
  for (const Variant& variant : finalists) {
    auto loaded = load_variant(*cache_, gpu_->architecture(), problem, variant);
    if (!loaded.ok()) return {{}, refusal_of(loaded.status())};
    kernels.push_back(*std::move(loaded));
    auto one = bench(variant, kernels.back(), workload);
    if (!one.ok()) return {{}, refusal_of(one.status())};
    benches.push_back(*std::move(one));
    calls.push_back(benches.back().call(gpu_->stream()));
  }
  Stopwatch stopwatch(*gpu_, timer_, guard_ ? &*guard_ : nullptr);
  const auto measured = stopwatch.contest(calls, kContestLimits);
  if (!measured.ok()) return {{}, refusal_of(measured.status())};
  std::vector<Timing> timings;
  for (const Measured& one : *measured) timings.push_back(timing_of(one));
  return {std::move(timings), {}};
}

}  // namespace gla
