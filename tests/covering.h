// Pairwise covering: few choices out of many in which every two values that can meet do meet. Faults of kernels mostly
// need one or two particular values, and a space has thousands of variants (Kuhn, Wallace, Gallo, "Software fault
// interactions and implications for software testing", IEEE TSE 2004).
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <vector>

#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla::test {

/// The value that a choice has for each factor. All choices of a set count the same factors.
using Choice = std::vector<int>;
/// For a factor that the choice does not have.
inline constexpr int kAbsent = -1;

/// Two values that meet: a factor and its value, a later factor and its value.
using Pair = std::array<int, 4>;
std::set<Pair> pairs_of(std::span<const Choice> choices);

/// Indices of choices that have every pair of pairs_of(choices); greedy, a function of the choices and the seed.
std::vector<std::size_t> pairwise_cover(std::span<const Choice> choices, std::uint64_t seed);

/// What a kernel is made from.
struct Plan {
  Problem problem;
  Variant variant;
};

/// All fields of a problem.
Choice choice_of(const Problem& problem);
/// Those, the family and its parameters.
Choice choice_of(const Plan& plan);

/// A cover of what `items` choose.
template <class Item>
std::vector<Item> pairwise_sample(const std::vector<Item>& items, std::uint64_t seed) {
  std::vector<Choice> choices;
  for (const Item& item : items) choices.push_back(choice_of(item));
  std::vector<Item> sample;
  for (const std::size_t i : pairwise_cover(choices, seed)) sample.push_back(items[i]);
  return sample;
}

}  // namespace gla::test
