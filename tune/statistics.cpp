#include "statistics.h"

#include <algorithm>
#include <cmath>

namespace gla {

double median(std::vector<double> samples) {
  if (samples.empty()) return 0;
  const std::size_t half = samples.size() / 2;
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(half), samples.end());
  const double upper = samples[half];
  if (samples.size() % 2 == 1) return upper;
  return (*std::max_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(half)) + upper) /
         2;
}

Summary summarize(const std::vector<double>& samples) {
  Summary summary;
  summary.samples = samples.size();
  summary.median = median(samples);
  if (samples.empty() || summary.median <= 0) return summary;
  std::vector<double> deviations;
  deviations.reserve(samples.size());
  for (const double sample : samples) deviations.push_back(std::fabs(sample - summary.median));
  summary.noise = median(std::move(deviations)) / summary.median;
  // The number of samples below the true median is binomial, n/2 +- sqrt(n)/2: so far from the middle, the order
  // statistics bracket it with one standard error. Unlike the deviation this sees two modes with few samples.
  std::vector<double> sorted = samples;
  std::sort(sorted.begin(), sorted.end());
  const auto count = static_cast<double>(sorted.size());
  const auto lower = static_cast<std::size_t>(std::floor((count - std::sqrt(count)) / 2));
  const auto upper = static_cast<std::size_t>(std::ceil((count + std::sqrt(count)) / 2)) - 1;
  summary.uncertainty = (sorted[upper] - sorted[lower]) / 2 / summary.median;
  return summary;
}

}  // namespace gla
