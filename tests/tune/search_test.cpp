// The order in which variants are tried.
#include "search.h"

#include <algorithm>
#include <set>
#include <string>

#include "catch.h"
#include "gla/generator/model.h"
#include "gla/generator/space.h"

using namespace gla;

namespace {

Problem decode_problem() {
  Problem problem;
  problem.operation = Operation::recurrent_forward;
  problem.head_dim_k = problem.head_dim_v = 64;
  return problem;
}

}  // namespace

TEST_CASE("the ranking holds each variant once and starts with the model's choice") {
  const Architecture architecture = *parse_architecture("sm_90a");
  const Problem problem = decode_problem();
  const auto variants = space(problem, architecture);
  const std::vector<Workload> workloads{{.sequences = 8, .heads = 32, .tokens = 1},
                                        {.sequences = 1, .heads = 1, .tokens = 16}};
  const auto order = ranked(problem, variants, workloads, architecture);
  CHECK(order.size() == variants.size());
  CHECK(std::set<Variant>(order.begin(), order.end()).size() == order.size());
  const Variant favourite = *model_choice(problem, workloads[0], Accuracy::standard, architecture);
  CHECK(predicted_seconds(problem, order[0], workloads[0], architecture) ==
        predicted_seconds(problem, favourite, workloads[0], architecture));
}

TEST_CASE("every workload's favourite is among the first few") {
  const Architecture architecture = *parse_architecture("sm_90a");
  Problem problem;
  const std::vector<Workload> workloads{{.sequences = 1, .heads = 8, .tokens = 16384},
                                        {.sequences = 64, .heads = 32, .tokens = 512}};
  const auto order = ranked(problem, space(problem, architecture), workloads, architecture);
  for (const Workload& workload : workloads) {
    for (const Accuracy accuracy : {Accuracy::standard, Accuracy::fast}) {
      const Variant favourite = *model_choice(problem, workload, accuracy, architecture);
      const double least = predicted_seconds(problem, favourite, workload, architecture);
      const auto found = std::find_if(order.begin(), order.begin() + 16, [&](const Variant& variant) {
        return meant_for(problem, variant, accuracy) &&
               predicted_seconds(problem, variant, workload, architecture) == least;
      });
      CHECK(found != order.begin() + 16);
    }
  }
}

TEST_CASE(
    "a chunk variant's twins in other families are its neighbours, with segments as near as they have them") {
  const Architecture architecture = *parse_architecture("sm_90a");
  const std::string rest =
      " chunk=64 tile_v=64 warps_v=4 warps_k=1 group_tile=1 stages=4 score_parts=2 state_parts=1 "
      "async_copy=1 "
      "producers=8 cluster=1 min_blocks=1";
  Problem problem;
  problem.head_dim_k = problem.head_dim_v = 64;
  const auto variants = space(problem, architecture);
  const auto neighbours_of = [&](const std::string& family) {
    std::set<std::string> found;
    for (const Variant& near : neighbours(*parse_variant(family + rest), variants))
      found.insert(to_string(near));
    return found;
  };
  const auto whole = neighbours_of("fused"), long_ones = neighbours_of("segmented segments=8");
  CHECK(whole.count("overlapped segments=2" + rest) == 1);
  CHECK(whole.count("overlapped segments=3" + rest) == 0);
  CHECK(whole.count("segmented segments=2" + rest) == 1);
  CHECK(long_ones.count("overlapped segments=3" + rest) == 1);
  CHECK(long_ones.count("fused" + rest) == 1);
}

TEST_CASE("lists are taken in turn, each element once") {
  CHECK(taken_in_turn<int>({{1, 2, 3, 4}, {}, {2, 5}, {6, 1}}) == std::vector<int>{1, 2, 6, 5, 3, 4});
}

TEST_CASE("neighbours are legal and differ in one parameter by one step") {
  const Architecture architecture = *parse_architecture("sm_90a");
  const Problem problem = decode_problem();
  const auto variants = space(problem, architecture);
  const Variant middle = variants[variants.size() / 2];
  const auto near = neighbours(middle, variants);
  REQUIRE_FALSE(near.empty());
  for (const Variant& variant : near) {
    CHECK(check(problem, architecture, variant).ok());
    CHECK(variant.family == middle.family);
    std::size_t differences = 0, changed = 0;
    for (std::size_t p = 0; p < kParameterCount; ++p) {
      if (variant.values[p] == middle.values[p]) continue;
      ++differences;
      changed = p;
    }
    CHECK(differences == 1);
    // Nothing in the space lies between the two.
    for (const Variant& other : variants) {
      Variant between = other;
      between.values[changed] = middle.values[changed];
      const auto [low, high] = std::minmax(variant.values[changed], middle.values[changed]);
      CHECK_FALSE((between == middle && other.values[changed] > low && other.values[changed] < high));
    }
  }
}
