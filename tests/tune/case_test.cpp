// What verification covers, and how it judges.
#include <algorithm>
#include <cmath>
#include <set>

#include "catch.h"
#include "judgement.h"
#include "verification_case.h"

using namespace gla;

namespace {

template <class Predicate>
bool some(const std::vector<VerificationCase>& cases, Predicate predicate) {
  return std::any_of(cases.begin(), cases.end(), predicate);
}

CaseErrors errors_of(double o, double final_state) {
  CaseErrors errors;
  errors.o.overall = errors.o.worst = o;
  errors.final_state.overall = errors.final_state.worst = final_state;
  return errors;
}

}  // namespace

TEST_CASE("the full set covers gates, states and packings for every operation") {
  for (const Operation operation : kOperations) {
    Problem problem;
    problem.operation = operation;
    const auto cases = full_cases(problem);
    std::set<std::string> names;
    for (const VerificationCase& one : cases) names.insert(one.name);
    CHECK(names.size() == cases.size());
    for (const Gates gates : kAllGates)
      CHECK(some(cases, [&](const VerificationCase& one) { return one.gates == gates; }));
    const std::vector<bool (*)(const VerificationCase&)> wanted{
        [](const VerificationCase& one) { return !one.initial_state && !one.final_state; },
        [](const VerificationCase& one) { return one.nan_gate; },
        [](const VerificationCase& one) { return one.padded && one.cu_seqlens_is_int64; },
        [](const VerificationCase& one) {
          return one.padded && !one.cu_seqlens_is_int64 && !one.cu_seqlens.empty();
        },
        [](const VerificationCase& one) { return one.scale != 0; }};
    for (const auto predicate : wanted) CHECK(some(cases, predicate));
    CHECK(some(cases, [](const VerificationCase& one) { return one.in_place; }) ==
          !is_backward(problem.operation));
    for (const VerificationCase& one : cases) {
      CHECK(check(one.problem).ok());
      if (!one.cu_seqlens.empty()) CHECK(one.cu_seqlens.back() == one.tokens);
    }
  }
}

TEST_CASE(
    "of a backward problem each gradient is also wanted without the others, as far as a call may ask for "
    "that") {
  Problem problem;
  problem.operation = Operation::chunk_backward;
  const auto asked = [&](unsigned gradients) {
    return some(full_cases(problem), [&](const VerificationCase& one) { return one.gradients == gradients; });
  };
  for (const unsigned gradients : {kGradientQ, kGradientK, kGradientV, kGradientState})
    CHECK(asked(gradients));
  CHECK(asked(kAllGradients));
  CHECK(asked(kGradientK | kGradientGk));
  CHECK_FALSE(asked(kGradientGk));  // of 16 bits, dgk comes with dk
  problem.fp32_gate_gradients = true;
  CHECK(asked(kGradientGk));
  problem.fp32_gate_gradients = false;
  problem.gate_dtype = DType::fp32;
  CHECK(asked(kGradientGk));
  problem.gate_k = false;
  CHECK_FALSE(asked(kGradientGk));
  problem = {};
  problem.operation = Operation::recurrent_backward;
  CHECK(asked(kGradientGk));
  CHECK_FALSE(asked(kGradientGv));
  problem.gate_v = true;
  CHECK(asked(kGradientGv));
  for (const VerificationCase& one : quick_cases(problem)) CHECK(one.gradients == kAllGradients);
}

TEST_CASE("the other layouts of a problem are legal, and each is another problem") {
  for (const Operation operation : kOperations) {
    Problem problem;
    problem.operation = operation;
    const std::vector<Problem> layouts = other_layouts(problem);
    const std::set<Problem> different(layouts.begin(), layouts.end());
    CHECK(different.size() == layouts.size());
    CHECK(different.count(problem) == 0);
    CHECK(std::any_of(layouts.begin(), layouts.end(), [](const Problem& one) { return one.state_v_first; }));
    CHECK(std::any_of(layouts.begin(), layouts.end(), [](const Problem& one) { return one.reverse; }) ==
          is_recurrent(operation));
    CHECK(std::any_of(layouts.begin(), layouts.end(),
                      [](const Problem& one) { return one.fp32_gate_gradients; }) == is_backward(operation));
    for (const Problem& layout : layouts) CHECK(check(layout).message() == "");
  }
}

TEST_CASE("the quick set has both ranked gates, states and a packed case") {
  const auto cases = quick_cases(Problem{});
  CHECK(some(cases, [](const VerificationCase& one) {
    return one.gates == Gates::sixteenth && one.cu_seqlens.empty();
  }));
  CHECK(some(cases, [](const VerificationCase& one) { return one.gates == Gates::one; }));
  CHECK(some(cases, [](const VerificationCase& one) { return !one.cu_seqlens.empty(); }));
}

TEST_CASE("lengths and extents follow cu_seqlens") {
  VerificationCase one;
  one.cu_seqlens = {0, 0, 5, 7};
  one.tokens = 7;
  one.problem.group = 3;
  one.problem.state_v_first = true;
  one.problem.head_dim_k = 16;
  one.problem.head_dim_v = 32;
  CHECK(one.sequences() == 3);
  CHECK(one.lengths() == std::vector<std::int64_t>{0, 5, 2});
  CHECK(one.workload() == Workload{.sequences = 3, .heads = 2, .tokens = 7, .packed = true});
  CHECK(one.extent_of(Output::o).heads == 6);
  CHECK(one.extent_of(Output::final_state).lengths.front() == 32);
  CHECK(one.extent_of(Output::final_state).channels == 16);
}

TEST_CASE("a class is reached only if every case reaches it") {
  VerificationCase one;
  one.name = "a case";
  const CaseOutcome good = judge(one, errors_of(0.002, 0.001));
  CHECK(good.standard);
  CHECK(good.fast);
  CHECK(good.detail.empty());
  const CaseOutcome coarse = judge(one, errors_of(0.004, 0.001));
  CHECK_FALSE(coarse.standard);
  CHECK(coarse.fast);
  const CaseOutcome wrong = judge(one, errors_of(0.5, 0.001));
  CHECK_FALSE(wrong.fast);
  CHECK(conclude({good, good}).standard);
  CHECK(conclude({good, coarse}).fast);
  CHECK_FALSE(conclude({good, coarse}).standard);
  const Verdict verdict = conclude({good, coarse, wrong});
  CHECK_FALSE(verdict.fast);
  CHECK(verdict.error_o == 0.5);
  CHECK(verdict.detail.find("0.5") != std::string::npos);
  CHECK(verdict.detail.find("a case") != std::string::npos);
}

TEST_CASE("a backward case is judged by its gradients, and the verdict tells tensors from the state") {
  VerificationCase one;
  one.name = "a case";
  one.problem.operation = Operation::chunk_backward;
  CaseErrors errors;
  for (const Output output : outputs_of(one.problem)) errors[output].overall = errors[output].worst = 0.001;
  errors.dk.overall = 0.0015;
  errors.d_initial_state.overall = 0.0012;
  const CaseOutcome good = judge(one, errors);
  CHECK(good.standard);
  CHECK(conclude({good}).error_o == 0.0015);
  CHECK(conclude({good}).error_state == 0.0012);
  for (const Output output : outputs_of(one.problem)) {
    CaseErrors wrong = errors;
    wrong[output].overall = 0.5;
    CHECK_FALSE(judge(one, wrong).fast);
    CHECK(judge(one, wrong).detail.find(to_string(output)) == 0);
  }
  Json json;
  set_errors(json, good, one.problem);
  CHECK(json["error_dk"].as_double() == 0.0015);
  CHECK(json["worst_dgk"].as_double() == 0.001);
  CHECK(json["error_o"].is_null());
}

TEST_CASE("NaN, a bad single head and a stray write each fail a case") {
  const VerificationCase one;
  CaseErrors errors = errors_of(0.002, 0.001);
  errors.o.nan_mismatches = 1;
  CHECK_FALSE(judge(one, errors).fast);
  errors = errors_of(0.002, 0.001);
  errors.o.worst = 0.1;
  CHECK_FALSE(judge(one, errors).fast);
  errors = errors_of(0.002, 0.001);
  errors.stray = "o was written outside";
  CHECK_FALSE(judge(one, errors).fast);
  CHECK_FALSE(judge(one, errors_of(std::nan(""), 0.001)).fast);
}
