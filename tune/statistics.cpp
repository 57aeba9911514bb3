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
  // Of normal samples, sigma = 1.4826 deviations, and a median's standard error is sqrt(pi/2) sigma /
  // sqrt(n).
  summary.uncertainty = 1.4826 * 1.2533 * summary.noise / std::sqrt(static_cast<double>(samples.size()));
  return summary;
}

}  // namespace gla
