// In which order the variants of a problem are tried: the model's ranking first, then neighbours of what won.
#pragma once

#include <cstddef>
#include <set>
#include <span>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla {

/// What is in some list, each once: all that come first in one, then all that come second, and so on.
template <class T>
std::vector<T> taken_in_turn(const std::vector<std::vector<T>>& lists) {
  std::vector<T> order;
  std::set<T> taken;
  bool more = true;
  for (std::size_t place = 0; more; ++place) {
    more = false;
    for (const std::vector<T>& list : lists) {
      if (place >= list.size()) continue;
      more = true;
      if (taken.insert(list[place]).second) order.push_back(list[place]);
    }
  }
  return order;
}

/// Variants of `space`, best predicted first: the rankings of all workloads, both accuracy classes and every family are
/// taken in turn, so that the first few hold the favourites of each. A family that the model puts far behind on a
/// workload has no turn there.
std::vector<Variant> ranked(const Problem& problem, std::span<const Variant> space,
                            std::span<const Workload> workloads, const Architecture& architecture);

/// The members of `space` that differ from `variant` in the family, but for segments in nothing else and in those the least,
/// or in one parameter, by one step among the values that the space has there with all else equal.
std::vector<Variant> neighbours(const Variant& variant, std::span<const Variant> space);

}  // namespace gla
