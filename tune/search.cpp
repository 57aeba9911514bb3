#include "search.h"

#include <algorithm>
#include <optional>

#include "gla/generator/model.h"
#include "gla/generator/space.h"

namespace gla {
namespace {

/// Indices of the variants meant for the class, least predicted seconds first.
std::vector<std::size_t> ranking(const Problem& problem, std::span<const Variant> space,
                                 const Workload& workload, Accuracy accuracy,
                                 const Architecture& architecture) {
  std::vector<std::pair<double, std::size_t>> order;
  for (std::size_t i = 0; i < space.size(); ++i) {
    if (!meant_for(problem, space[i], accuracy)) continue;
    order.emplace_back(predicted_seconds(problem, space[i], workload, architecture), i);
  }
  std::sort(order.begin(), order.end());
  std::vector<std::size_t> indices;
  indices.reserve(order.size());
  for (const auto& entry : order) indices.push_back(entry.second);
  return indices;
}

/// The one parameter in which two variants of a family differ; none if there are several or they are equal.
std::optional<std::size_t> only_difference(const Variant& a, const Variant& b) {
  if (a.family != b.family) return std::nullopt;
  std::optional<std::size_t> difference;
  for (std::size_t p = 0; p < kParameterCount; ++p) {
    if (a.values[p] == b.values[p]) continue;
    if (difference) return std::nullopt;
    difference = p;
  }
  return difference;
}

}  // namespace

std::vector<Variant> ranked(const Problem& problem, std::span<const Variant> space,
                            std::span<const Workload> workloads, const Architecture& architecture) {
  std::vector<std::vector<std::size_t>> rankings;
  for (const Workload& workload : workloads)
    for (const Accuracy accuracy : {Accuracy::standard, Accuracy::fast})
      rankings.push_back(ranking(problem, space, workload, accuracy, architecture));
  std::vector<Variant> order;
  std::vector<bool> taken(space.size(), false);
  for (std::size_t place = 0; place < space.size(); ++place) {
    for (const auto& one : rankings) {
      if (place >= one.size() || taken[one[place]]) continue;
      taken[one[place]] = true;
      order.push_back(space[one[place]]);
    }
  }
  return order;
}

std::vector<Variant> neighbours(const Variant& variant, std::span<const Variant> space) {
  // Per parameter, the nearest value below and above.
  std::vector<const Variant*> below(kParameterCount, nullptr), above(kParameterCount, nullptr);
  for (const Variant& other : space) {
    const auto difference = only_difference(variant, other);
    if (!difference) continue;
    const std::size_t p = *difference;
    const bool smaller = other.values[p] < variant.values[p];
    const Variant*& nearest = smaller ? below[p] : above[p];
    if (nearest == nullptr ||
        (smaller ? other.values[p] > nearest->values[p] : other.values[p] < nearest->values[p]))
      nearest = &other;
  }
  std::vector<Variant> found;
  for (std::size_t p = 0; p < kParameterCount; ++p) {
    if (below[p] != nullptr) found.push_back(*below[p]);
    if (above[p] != nullptr) found.push_back(*above[p]);
  }
  return found;
}

}  // namespace gla
