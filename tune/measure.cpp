#include "measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

namespace gla {
namespace {

// Events resolve half a microsecond: a sample this long is good to 0.2 %.
constexpr double kSampleSeconds = 300e-6;
constexpr double kRoundSeconds = 3e-3;  // samples queued behind one gate
constexpr int kMostSamplesPerRound = 8;
constexpr int kMostThrottledRounds = 8;
constexpr auto kThrottlePause = std::chrono::milliseconds(50);
constexpr double kHopelessAtOnce = 3;  // times the limit: one run is proof enough

}  // namespace

struct Stopwatch::Batch {
  Graph graph;
  int calls = 1;
};

Result<double> Stopwatch::estimate(const RotatingCall& call) {
  // The first launch may have to grow the device's local memory, which waits for the device: never behind the gate.
  GLA_RETURN_IF_ERROR(call.enqueue(0));
  GLA_RETURN_IF_ERROR(gpu_->synchronize());
  const auto timed = timer_->time(1, [&](int) { return call.enqueue(1 % call.sets); });
  if (!timed.ok()) return timed.status();
  return std::max(timed->front(), 1e-7);
}

Result<Stopwatch::Batch> Stopwatch::batch(const RotatingCall& call, double seconds_per_call) const {
  // Whole rotations: each sample touches every set equally often.
  const int wanted = static_cast<int>(std::min(512.0, std::ceil(kSampleSeconds / seconds_per_call)));
  const int calls = (wanted + call.sets - 1) / call.sets * call.sets;
  auto graph = Graph::record(*gpu_, [&] {
    for (int i = 0; i < calls; ++i) GLA_RETURN_IF_ERROR(call.enqueue(i % call.sets));
    return Status{};
  });
  if (!graph.ok()) return graph.status();
  return Batch{*std::move(graph), calls};
}

Result<bool> Stopwatch::wait_out_throttling(int& rounds) {
  if (guard_ == nullptr || rounds >= kMostThrottledRounds) return false;
  auto throttled = guard_->throttled(*timer_);
  if (!throttled.ok() || !*throttled) return throttled;
  ++rounds;
  std::this_thread::sleep_for(kThrottlePause);
  return true;
}

Result<Measured> Stopwatch::measure(const RotatingCall& call, const StoppingLimits& limits) {
  Measured measured;
  const auto seconds = estimate(call);
  if (!seconds.ok()) return seconds.status();
  if (limits.hopeless_above_seconds > 0 && *seconds > kHopelessAtOnce * limits.hopeless_above_seconds) {
    measured.hopeless = true;
    measured.summary = summarize({*seconds});
    return measured;
  }
  const auto sample = batch(call, *seconds);
  if (!sample.ok()) return sample.status();
  const double sample_seconds = *seconds * sample->calls;
  const int rounds = std::clamp(static_cast<int>(kRoundSeconds / sample_seconds), 1, kMostSamplesPerRound);
  StoppingCriterion criterion(limits);
  while (!criterion.finished()) {
    const auto timed = timer_->time(rounds, [&](int) { return sample->graph.launch(); });
    if (!timed.ok()) return timed.status();
    const auto throttled = wait_out_throttling(measured.throttled_rounds);
    if (!throttled.ok()) return throttled.status();
    if (*throttled) continue;
    for (const double one : *timed) criterion.add(one / sample->calls, one);
  }
  measured.hopeless = criterion.hopeless();
  measured.summary = criterion.summary();
  return measured;
}

Result<std::vector<Measured>> Stopwatch::contest(std::span<const RotatingCall> calls,
                                                 const StoppingLimits& limits) {
  std::vector<Batch> batches;
  std::vector<StoppingCriterion> criteria;
  for (const RotatingCall& call : calls) {
    const auto seconds = estimate(call);
    if (!seconds.ok()) return seconds.status();
    auto sample = batch(call, *seconds);
    if (!sample.ok()) return sample.status();
    batches.push_back(*std::move(sample));
    criteria.emplace_back(limits);
  }
  std::vector<Measured> measured(calls.size());
  const auto finished = [](const StoppingCriterion& criterion) { return criterion.finished(); };
  int throttled_rounds = 0;
  while (!std::all_of(criteria.begin(), criteria.end(), finished)) {
    const auto timed = timer_->time(static_cast<int>(batches.size()), [&](int i) {
      return batches[static_cast<std::size_t>(i)].graph.launch();
    });
    if (!timed.ok()) return timed.status();
    const auto throttled = wait_out_throttling(throttled_rounds);
    if (!throttled.ok()) return throttled.status();
    if (*throttled) continue;
    for (std::size_t i = 0; i < batches.size(); ++i)
      criteria[i].add((*timed)[i] / batches[i].calls, (*timed)[i]);
  }
  for (std::size_t i = 0; i < calls.size(); ++i) {
    measured[i].summary = criteria[i].summary();
    measured[i].throttled_rounds = throttled_rounds;
  }
  return measured;
}

Result<double> copy_bandwidth(const Gpu& gpu, Timer& timer) {
  const std::size_t bytes = std::min<std::size_t>(std::size_t{2} << 30, gpu.free_memory() / 4);
  auto from = DeviceBuffer::allocate(gpu, bytes);
  if (!from.ok()) return from.status();
  auto to = DeviceBuffer::allocate(gpu, bytes);
  if (!to.ok()) return to.status();
  GLA_RETURN_IF_ERROR(
      gpu.check(gpu.api().cuMemsetD8Async(from->address(), 1, bytes, gpu.stream()), "cuMemsetD8Async"));
  const auto seconds = timer.time(12, [&](int) {
    return gpu.check(gpu.api().cuMemcpyDtoDAsync(to->address(), from->address(), bytes, gpu.stream()),
                     "cuMemcpyDtoD");
  });
  if (!seconds.ok()) return seconds.status();
  return 2.0 * static_cast<double>(bytes) / median(*seconds);
}

}  // namespace gla
