// One call, timed: rotating inputs, samples long enough for the clock, until the noise or the budget says stop.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "clock_guard.h"
#include "stopping.h"
#include "timer.h"

namespace gla {

/// A call that can be enqueued on any of several input sets, so that no repetition finds its inputs in the L2.
struct RotatingCall {
  std::function<Status(int set)> enqueue;
  int sets = 1;
};

struct Measured {
  Summary summary;
  bool hopeless = false;     ///< stopped because it could not win
  int throttled_rounds = 0;  ///< discarded
};

/// Times calls through one timer; the guard may be null (no throttle check).
class Stopwatch {
 public:
  Stopwatch(const Gpu& gpu, Timer& timer, ClockGuard* guard) : gpu_(&gpu), timer_(&timer), guard_(guard) {}

  Result<Measured> measure(const RotatingCall& call, const StoppingLimits& limits);

  /// The calls in turn, A B A B, so that whatever drifts touches all alike. Each gets the same number of samples.
  Result<std::vector<Measured>> contest(std::span<const RotatingCall> calls, const StoppingLimits& limits);

 private:
  struct Batch;  ///< some calls replayed as one sample
  Result<Batch> batch(const RotatingCall& call, double seconds_per_call) const;
  /// Seconds of one call, after a first one.
  Result<double> estimate(const RotatingCall& call);
  /// Gives the clock time to recover; false once patience is at its end.
  Result<bool> wait_out_throttling(int& rounds);

  const Gpu* gpu_;
  Timer* timer_;
  ClockGuard* guard_;
};

/// Bytes per second, read plus written, of a large device-to-device copy.
Result<double> copy_bandwidth(const Gpu& gpu, Timer& timer);

}  // namespace gla
