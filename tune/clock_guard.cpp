#include "clock_guard.h"

#include <algorithm>

namespace gla {
namespace {

constexpr Index kElements = Index{1} << 22;  // about 40 us of arithmetic on an H100, 8 MiB of results
constexpr int kProbes = 5;
constexpr int kWarmUpProbes = 1000;
constexpr int kProbesPerRound = 50;

}  // namespace

Result<ClockGuard> ClockGuard::create(const Gpu& gpu, Timer& timer, const Tools& tools) {
  auto buffer = DeviceBuffer::allocate(gpu, static_cast<std::size_t>(kElements) * 2);
  if (!buffer.ok()) return buffer.status();
  ClockGuard guard(tools, *std::move(buffer));
  GLA_RETURN_IF_ERROR(tools.fill({.data = guard.buffer_.data(), .count = kElements, .dtype = 1}));
  GLA_RETURN_IF_ERROR(gpu.synchronize());
  // An idle GPU raises its clock within some 50 ms of work.
  for (int i = 0; i < kWarmUpProbes; i += kProbesPerRound) {
    const auto warm = timer.time(kProbesPerRound, [&](int) {
      return tools.fill({.data = guard.buffer_.data(), .count = kElements, .dtype = 1});
    });
    if (!warm.ok()) return warm.status();
  }
  const auto seconds = guard.probe(timer);
  if (!seconds.ok()) return seconds.status();
  guard.reference_seconds_ = *seconds;
  return guard;
}

Result<double> ClockGuard::probe(Timer& timer) const {
  const auto seconds = timer.time(
      kProbes, [&](int) { return tools_->fill({.data = buffer_.data(), .count = kElements, .dtype = 1}); });
  if (!seconds.ok()) return seconds.status();
  return median(*seconds);
}

Result<bool> ClockGuard::throttled(Timer& timer) {
  const auto seconds = probe(timer);
  if (!seconds.ok()) return seconds.status();
  reference_seconds_ = std::min(reference_seconds_, *seconds);
  if (*seconds <= kTolerance * reference_seconds_) {
    throttled_in_a_row_ = 0;
    return false;
  }
  if (++throttled_in_a_row_ < kPatience) return true;
  throttled_in_a_row_ = 0;
  reference_seconds_ = *seconds;
  return false;
}

}  // namespace gla
