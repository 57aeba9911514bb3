// When enough samples have been taken. A criterion is fed samples and asked; it owns no clock and no GPU.
#pragma once

#include <vector>

#include "statistics.h"

namespace gla {

struct StoppingLimits {
  std::size_t least_samples = 5;
  std::size_t most_samples = 200;
  double uncertainty = 0.005;   ///< relative standard error of the median to reach
  double budget_seconds = 0.1;  ///< device time that may be spent; overrun by the last round only
  /// A median this many times above the best known time cannot win: stop at once. 0: never.
  double hopeless_above_seconds = 0;
};

class StoppingCriterion {
 public:
  explicit StoppingCriterion(const StoppingLimits& limits) : limits_(limits) {}

  /// One sample: the time per call, and the device time that it cost (a sample may cover many calls).
  void add(double seconds, double cost_seconds);

  bool finished() const;
  bool hopeless() const;
  Summary summary() const { return summarize(samples_); }

 private:
  StoppingLimits limits_;
  std::vector<double> samples_;
  double spent_ = 0;
};

}  // namespace gla
