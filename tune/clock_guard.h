// Notices a throttled clock: a small arithmetic kernel whose data stay in the L2 runs as fast as the multiprocessors'
// clock. When it takes clearly longer than at rest, what was measured meanwhile is not to be trusted.
#pragma once

#include <vector>

#include "stopping.h"
#include "timer.h"
#include "tools.h"

namespace gla {

class ClockGuard {
 public:
  /// Warms the device up and takes the reference. `tools` must outlive the guard.
  static Result<ClockGuard> create(const Gpu& gpu, Timer& timer, const Tools& tools);

  /// True if the clock is more than 6 % below its best so far. A clock that stays low is the one that this load gets:
  /// after a second of it, it becomes the new reference.
  Result<bool> throttled(Timer& timer);

 private:
  static constexpr double kTolerance = 1.06;
  static constexpr int kPatience = 20;  ///< probes in a row, with pauses between them
  ClockGuard(const Tools& tools, DeviceBuffer buffer) : tools_(&tools), buffer_(std::move(buffer)) {}
  Result<double> probe(Timer& timer) const;

  const Tools* tools_;
  DeviceBuffer buffer_;
  double reference_seconds_ = 0;
  int throttled_in_a_row_ = 0;
};

}  // namespace gla
