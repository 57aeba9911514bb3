#include "accuracy.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gla {
namespace {

/// Keeps error and reference apart for infinities that agree: they are equal, and inf - inf is not.
void add(CompareSums& sums, float value, double reference) {
  const auto wide = static_cast<double>(value);
  if (!std::isfinite(wide) || !std::isfinite(reference)) {
    const bool same = (std::isnan(wide) && std::isnan(reference)) || wide == reference;
    if (!same) ++sums.nan_mismatches;
    return;
  }
  sums.squared_error += (wide - reference) * (wide - reference);
  sums.squared_reference += reference * reference;
}

double relative(double squared_error, double squared_reference) {
  if (squared_error == 0) return 0;
  if (squared_reference == 0) return std::numeric_limits<double>::infinity();
  return std::sqrt(squared_error / squared_reference);
}

}  // namespace

std::vector<CompareSums> compare(std::span<const float> value, std::span<const double> reference,
                                 const Extent& extent) {
  const auto heads = static_cast<std::size_t>(extent.heads),
             channels = static_cast<std::size_t>(extent.channels);
  std::vector<CompareSums> sums(extent.lengths.size() * heads);
  std::size_t first = 0;  // rows of earlier sequences
  for (std::size_t n = 0; n < extent.lengths.size(); ++n) {
    const auto length = static_cast<std::size_t>(extent.lengths[n]);
    for (std::size_t t = 0; t < length; ++t) {
      for (std::size_t h = 0; h < heads; ++h) {
        const std::size_t row = extent.state ? first * heads + h * length + t : (first + t) * heads + h;
        for (std::size_t i = row * channels; i < (row + 1) * channels; ++i)
          add(sums[n * heads + h], value[i], reference[i]);
      }
    }
    first += length;
  }
  return sums;
}

ErrorReport summarize(std::span<const CompareSums> sums, const Extent& extent) {
  constexpr double kSmallestShare = 1.0 / 16;  // of the mean square: a quarter of the root mean square
  ErrorReport report;
  double error = 0, reference = 0, elements = 0;
  const auto heads = static_cast<std::size_t>(extent.heads);
  const auto elements_of = [&](std::size_t n) {
    return static_cast<double>(extent.lengths[n] * extent.channels);
  };
  for (std::size_t n = 0; n < extent.lengths.size(); ++n) {
    for (std::size_t h = 0; h < heads; ++h) {
      const CompareSums& sum = sums[n * heads + h];
      error += sum.squared_error;
      reference += sum.squared_reference;
      elements += elements_of(n);
      report.nan_mismatches += sum.nan_mismatches;
    }
  }
  report.overall = relative(error, reference);
  for (std::size_t n = 0; n < extent.lengths.size(); ++n) {
    for (std::size_t h = 0; h < heads; ++h) {
      const CompareSums& sum = sums[n * heads + h];
      const double least = elements == 0 ? 0 : kSmallestShare * elements_of(n) * reference / elements;
      const double single = relative(sum.squared_error, std::max(sum.squared_reference, least));
      if (single > report.worst || std::isnan(single)) {
        report.worst = single;
        report.worst_sequence = static_cast<std::int64_t>(n);
        report.worst_head = static_cast<std::int64_t>(h);
      }
    }
  }
  return report;
}

}  // namespace gla
