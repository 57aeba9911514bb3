// What repeated timings say: a median and how far to trust it.
#pragma once

#include <cstddef>
#include <vector>

namespace gla {

/// Seconds of one thing, measured repeatedly.
struct Summary {
  double median = 0;
  double noise = 0;        ///< median absolute deviation / median
  double uncertainty = 0;  ///< relative standard error of the median, from the order statistics around it
  std::size_t samples = 0;
};

/// 0 for no samples.
double median(std::vector<double> samples);
Summary summarize(const std::vector<double>& samples);

}  // namespace gla
