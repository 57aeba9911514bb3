// Kernels on the emulator against the fp64 reference, all over: every family, dtype, state layout, packing and guard
// path, and variants that cover the parameter spaces and the kinds of problems pairwise. What a test claims to cover it
// counts from what ran. GLA_TEST_SEED draws other samples.
#include "covering.h"

#include <cstdlib>
#include <iterator>
#include <set>
#include <string>
#include <tuple>

#include "catch.h"
#include "kernel_case.h"
#include "small_variants.h"
#include "test_seed.h"

using namespace gla;
using namespace gla::test;
using emulator::Options;
using emulator::Order;

namespace {

const std::vector<std::int64_t> kOddLengths{0, 0, 1, 16, 17, 50, 63};  // and three tokens of no sequence

KernelCase dense_case(Gates gates, std::uint64_t seed) {
  return {.batch = 2,
          .tokens = 75,
          .gates = gates,
          .seed = seed,
          .options = {static_cast<Order>(seed % 3), seed}};
}

KernelCase packed_case(Gates gates, std::uint64_t seed) {
  KernelCase packed = dense_case(gates, seed);
  packed.batch = 1;
  packed.heads = 2;
  packed.tokens = 66;
  packed.cu_seqlens = kOddLengths;
  packed.cu_seqlens_is_int64 = seed % 2 == 0;
  return packed;
}

/// Small outputs are small samples, so they are held to the looser class; kernel_test has the standard bars.
KernelOutcome expect_right(const ReferenceInput& in, const KernelCase& c, const LaunchKernel& kernel) {
  INFO(to_string(c.gates) << (c.cu_seqlens.empty() ? ", dense" : ", packed") << ", T=" << c.tokens
                          << ", order " << static_cast<int>(c.options.order) << ", seed " << c.seed);
  const ReferenceLoss loss = make_loss(in, c);
  const KernelOutcome outcome = judge(in, run_kernel(in, c, kernel, loss), loss);
  CHECK(complaint(outcome, accuracy_bar(in.problem, c.gates, Accuracy::fast)) == "");
  return outcome;
}

// ---- every cell ------------------------------------------------------------------------------------------------

/// What a chunk's gates decide.
enum class Path { fast, steep };
constexpr Path kPaths[] = {Path::fast, Path::steep};

/// Family, dtype, v first, packed, path.
using Cell = std::tuple<Family, DType, bool, bool, Path>;

/// Whether a chunk went that way (KernelArgs::path_counts).
bool took(Path path, const KernelOutcome& outcome) {
  return outcome.paths[path == Path::fast ? 0 : 1] > 0;
}

void run_cells(Family family, std::set<Cell>& ran) {
  std::uint64_t seed = test_seed();
  for (const DType dtype : kDTypes) {
    for (const bool v_first : {false, true}) {
      const Problem problem = small_problem(family, dtype, v_first);
      INFO(to_string(problem));
      const LaunchKernel kernel = kernel_of(problem, one_variant(problem, family));
      for (const bool packed : {false, true}) {
        for (const Path path : kPaths) {
          const Gates gates = path == Path::fast ? Gates::sixteenth : Gates::hundred;
          const KernelCase c = packed ? packed_case(gates, ++seed) : dense_case(gates, ++seed);
          const KernelOutcome outcome = expect_right(make_inputs(problem, c), c, kernel);
          if (took(path, outcome) || family == Family::decode)
            ran.emplace(family, dtype, v_first, packed, path);
        }
      }
      for (const KernelCase& odd :
           {KernelCase{.tokens = 1, .initial_state = false},
            KernelCase{.batch = 3, .tokens = 40, .final_state = false, .scale = 0.5f}})
        expect_right(make_inputs(problem, odd), odd, kernel);
    }
  }
}

void expect_every_cell(std::initializer_list<Family> families) {
  std::set<Cell> ran;
  for (const Family family : families) run_cells(family, ran);
  // Gates, dtypes and layouts of the loops above, counted once more: none may have been missed.
  const std::size_t cells = families.size() * std::size(kDTypes) * 2 * 2 * std::size(kPaths);
  CHECK(ran.size() == cells);
}

// ---- pairs -----------------------------------------------------------------------------------------------------

/// Head dims of the sample: padded, and for most tiles. Kernels of gradients take longest to compile, so there are fewer.
std::vector<std::pair<int, int>> dims_for(Operation operation) {
  if (is_backward(operation)) return {{17, 33}, {56, 120}};
  return {{17, 33}, {40, 72}, {56, 64}, {72, 120}, {16, 256}};
}

/// Kinds of problems of an operation that meet every flag and dtype with every shape and group.
std::vector<Problem> problem_sample(Operation operation, std::uint64_t seed) {
  std::vector<Problem> problems;
  for (const auto& [dim_k, dim_v] : dims_for(operation)) {
    for (const int group : {1, 4}) {
      for (Problem problem : flag_combinations(dim_k, dim_v)) {
        problem.group = static_cast<std::int16_t>(group);
        if (problem.operation == operation && check(problem).ok()) problems.push_back(problem);
      }
    }
  }
  return pairwise_sample(problems, seed);
}

/// Legal variants of those. Family decode serves both forward operations with one template, so one will do. Walks over two
/// segments are the kernels of walks over more.
std::vector<Plan> plans_for(Operation operation, std::uint64_t seed) {
  std::vector<Plan> plans;
  for (const Problem& problem : problem_sample(operation, seed)) {
    for (const Variant& variant : space(problem, architecture("sm_90a"))) {
      if ((variant.family == Family::decode) != (operation == Operation::recurrent_forward)) continue;
      if (variant.family == Family::walks && variant[Parameter::segments] > 2) continue;
      plans.push_back({problem, variant});
    }
  }
  return plans;
}

std::vector<Choice> choices_of(const std::vector<Plan>& plans) {
  std::vector<Choice> choices;
  for (const Plan& plan : plans) choices.push_back(choice_of(plan));
  return choices;
}

/// Whether one of a sample runs: every second, with other templates the others; all of them if GLA_COVER_EVERYTHING is set.
bool has_turn(std::size_t index) {
  const auto first = static_cast<std::size_t>(templates_hash().back()) % 2;
  return std::getenv("GLA_COVER_EVERYTHING") != nullptr || index % 2 == first;
}

void expect_pairs_right(Operation operation) {
  const std::uint64_t seed = test_seed();
  const std::vector<Plan> plans = plans_for(operation, seed), sample = pairwise_sample(plans, seed);
  CHECK(pairs_of(choices_of(sample)) == pairs_of(choices_of(plans)));
  std::size_t ran = 0;
  for (std::size_t i = 0; i < sample.size(); ++i) {
    if (!has_turn(i)) continue;
    const Plan& plan = sample[i];
    INFO(to_string(plan.problem) << ", " << to_string(plan.variant));
    const LaunchKernel kernel = kernel_of(plan.problem, plan.variant);
    // The next ones have the other gates: compiling a kernel costs as much as running it twice.
    const Gates gates = kAllGates[ran % std::size(kAllGates)];
    const bool packed = ran / std::size(kAllGates) % 2 != 0;
    const KernelCase c = packed ? packed_case(gates, seed + ran) : dense_case(gates, seed + ran);
    expect_right(make_inputs(plan.problem, c), c, kernel);
    ++ran;
  }
  CHECK(ran >= sample.size() / 2);
}

}  // namespace

TEST_CASE("chunk kernels are right for every family, dtype, state layout, packing and guard path",
          "[cells]") {
  expect_every_cell({Family::fused, Family::overlapped, Family::segmented});
}

TEST_CASE("decode kernels are right for every dtype, state layout and packing", "[cells]") {
  expect_every_cell({Family::decode});
}

TEST_CASE("backward variants in which every two values of parameters and problem meet are right",
          "[backward]") {
  expect_pairs_right(Operation::chunk_backward);
}

TEST_CASE("recurrent backward variants in which every two values of parameters and problem meet are right",
          "[recurrent_backward]") {
  expect_pairs_right(Operation::recurrent_backward);
}

TEST_CASE("chunk variants in which every two values of parameters and problem meet are right", "[chunk]") {
  expect_pairs_right(Operation::chunk_forward);
}

TEST_CASE("decode variants in which every two values of parameters and problem meet are right", "[decode]") {
  expect_pairs_right(Operation::recurrent_forward);
}

TEST_CASE("a pairwise cover has every pair that occurs, and few choices", "[sampling]") {
  // Three factors of four values, and a fourth that only some choices have; one pair is forbidden.
  std::vector<Choice> choices;
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 4; ++b)
      for (int c = 0; c < 4; ++c)
        if (a != 3 || b != 2) choices.push_back({a, b, c, a == 0 ? b % 2 : kAbsent});
  const std::set<Pair> pairs = pairs_of(choices);
  CHECK(pairs.count({0, 3, 1, 2}) == 0);
  CHECK(pairs.count({0, 3, 1, 1}) == 1);
  CHECK(pairs.count({0, 1, 3, kAbsent}) == 0);
  for (const std::uint64_t seed : {1, 2, 3}) {
    std::vector<Choice> cover;
    for (const std::size_t i : pairwise_cover(choices, seed)) cover.push_back(choices[i]);
    CHECK(pairs_of(cover) == pairs);
    CHECK(cover.size() <= 24);  // 16 are the least, 60 there are
  }
}

TEST_CASE("a pairwise cover depends on its seed only", "[sampling]") {
  const std::vector<Choice> choices = choices_of(plans_for(Operation::recurrent_forward, 1));
  CHECK(pairwise_cover(choices, 5) == pairwise_cover(choices, 5));
  CHECK(pairwise_cover(choices, 5) != pairwise_cover(choices, 6));
}

TEST_CASE("a sample of plans is small and meets every value of every parameter of the families",
          "[sampling]") {
  for (const Operation operation : kOperations) {
    const std::vector<Plan> plans = plans_for(operation, test_seed());
    const std::vector<Plan> sample = pairwise_sample(plans, test_seed());
    CHECK(pairs_of(choices_of(sample)) == pairs_of(choices_of(plans)));
    CHECK(sample.size() <= 70);
    for (const Plan& plan : sample) {
      INFO(to_string(plan.problem) << ", " << to_string(plan.variant));
      CHECK(check(plan.problem, architecture("sm_90a"), plan.variant).ok());
    }
  }
}
