#include "search.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "gla/generator/model.h"
#include "gla/generator/space.h"

namespace gla {
namespace {

constexpr double kFamilyMargin = 4;  // the model is not trusted to tell families apart more finely

/// Indices into the space, least predicted seconds first.
using Ranking = std::vector<std::size_t>;

/// The rankings of a workload and class, one per family that is not far behind.
std::vector<Ranking> rankings(const Problem& problem, std::span<const Variant> space,
                              std::span<const double> seconds, Accuracy accuracy) {
  std::map<Family, Ranking> families;
  for (std::size_t i = 0; i < space.size(); ++i)
    if (meant_for(problem, space[i], accuracy)) families[space[i].family].push_back(i);
  double best = std::numeric_limits<double>::infinity();
  for (auto& [family, ranking] : families) {
    std::stable_sort(ranking.begin(), ranking.end(),
                     [&](std::size_t a, std::size_t b) { return seconds[a] < seconds[b]; });
    best = std::min(best, seconds[ranking.front()]);
  }
  std::vector<Ranking> found;
  for (auto& [family, ranking] : families)
    if (seconds[ranking.front()] <= kFamilyMargin * best) found.push_back(std::move(ranking));
  return found;
}

/// How far apart the segments are of two variants that are equal in all but those and the family.
std::optional<int> twins_distance(Variant a, Variant b) {
  const int distance = std::abs(a[Parameter::segments] - b[Parameter::segments]);
  a.family = b.family;
  a.set(Parameter::segments, b[Parameter::segments]);
  if (a != b) return std::nullopt;
  return distance;
}

/// The one parameter in which two variants of one family differ; none if there are several or they are equal.
std::optional<std::size_t> only_difference(const Variant& a, const Variant& b) {
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
  std::vector<Ranking> all;
  for (const Workload& workload : workloads) {
    std::vector<double> seconds;
    seconds.reserve(space.size());
    for (const Variant& variant : space)
      seconds.push_back(predicted_seconds(problem, variant, workload, architecture));
    for (const Accuracy accuracy : {Accuracy::standard, Accuracy::fast})
      for (Ranking& ranking : rankings(problem, space, seconds, accuracy)) all.push_back(std::move(ranking));
  }
  std::vector<Variant> order;
  for (const std::size_t i : taken_in_turn(all)) order.push_back(space[i]);
  return order;
}

std::vector<Variant> neighbours(const Variant& variant, std::span<const Variant> space) {
  // Per family the nearest twin; per parameter the nearest value below and above.
  std::map<Family, std::pair<int, const Variant*>> twins;
  std::vector<const Variant*> below(kParameterCount, nullptr), above(kParameterCount, nullptr);
  for (const Variant& other : space) {
    if (other.family != variant.family) {
      const auto distance = twins_distance(other, variant);
      if (!distance) continue;
      const auto [twin, is_first] = twins.try_emplace(other.family, *distance, &other);
      if (!is_first) twin->second = std::min(twin->second, {*distance, &other});
      continue;
    }
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
  for (const auto& [family, twin] : twins) found.push_back(*twin.second);
  for (std::size_t p = 0; p < kParameterCount; ++p) {
    if (below[p] != nullptr) found.push_back(*below[p]);
    if (above[p] != nullptr) found.push_back(*above[p]);
  }
  return found;
}

}  // namespace gla
