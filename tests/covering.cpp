#include "covering.h"

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>

#include "random.h"

namespace gla::test {
namespace {

/// Calls pair(p) for every two values of a choice.
template <class Visit>
void each_pair(const Choice& choice, Visit visit) {
  for (std::size_t a = 0; a < choice.size(); ++a) {
    for (std::size_t b = a + 1; b < choice.size(); ++b) {
      if (choice[a] != kAbsent && choice[b] != kAbsent)
        visit(Pair{static_cast<int>(a), choice[a], static_cast<int>(b), choice[b]});
    }
  }
}

}  // namespace

std::set<Pair> pairs_of(std::span<const Choice> choices) {
  std::set<Pair> pairs;
  for (const Choice& choice : choices) each_pair(choice, [&](const Pair& pair) { pairs.insert(pair); });
  return pairs;
}

std::vector<std::size_t> pairwise_cover(std::span<const Choice> choices, std::uint64_t seed) {
  std::map<Pair, std::size_t> numbers;
  std::vector<std::vector<std::size_t>> pairs(choices.size());
  for (std::size_t i = 0; i < choices.size(); ++i) {
    each_pair(choices[i], [&](const Pair& pair) {
      pairs[i].push_back(numbers.try_emplace(pair, numbers.size()).first->second);
    });
  }
  // Of equally good choices the first in an order drawn with the seed is taken.
  std::vector<std::size_t> order(choices.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return random_bits(seed, a) < random_bits(seed, b); });

  std::vector<bool> covered(numbers.size());
  const auto gain = [&](std::size_t i) {
    return std::count_if(pairs[i].begin(), pairs[i].end(), [&](std::size_t pair) { return !covered[pair]; });
  };
  std::vector<std::size_t> cover;
  for (std::size_t left = numbers.size(); left > 0;) {
    std::size_t best = order.front();
    std::ptrdiff_t most = 0;
    for (const std::size_t i : order) {
      if (const std::ptrdiff_t gained = gain(i); gained > most) {
        best = i;
        most = gained;
      }
    }
    cover.push_back(best);
    for (const std::size_t pair : pairs[best]) covered[pair] = true;
    left -= static_cast<std::size_t>(most);
  }
  return cover;
}

Choice choice_of(const Problem& p) {
  return {static_cast<int>(p.operation),
          static_cast<int>(p.dtype),
          static_cast<int>(p.gate_dtype),
          static_cast<int>(p.state_dtype),
          p.head_dim_k,
          p.head_dim_v,
          p.group,
          p.gate_k ? 1 : 0,
          p.gate_v ? 1 : 0,
          p.reverse ? 1 : 0,
          p.state_v_first ? 1 : 0};
}

Choice choice_of(const Plan& plan) {
  Choice choice = choice_of(plan.problem);
  choice.push_back(static_cast<int>(plan.variant.family));
  const std::size_t before = choice.size();
  choice.resize(before + kParameterCount, kAbsent);
  for (const Parameter parameter : parameters_of(plan.variant.family))
    choice[before + static_cast<std::size_t>(parameter)] = plan.variant[parameter];
  // No kernel knows its number of segments: 2 and 3 are as good as one, and 4 and 5.
  int& segments = choice[before + static_cast<std::size_t>(Parameter::segments)];
  if (segments != kAbsent) segments = static_cast<int>(std::bit_floor(static_cast<unsigned>(segments)));
  return choice;
}

}  // namespace gla::test
