// Problems and workloads: their written form, what is refused and why, and which problems share points.
#include "gla/generator/problem.h"

#include <fmt/format.h>

#include <map>
#include <string>

#include "catch.h"
#include "gla/generator/space.h"
#include "problems.h"

using namespace gla;
using namespace gla::test;

namespace {

void refused(const Problem& problem, const std::string& message) {
  const Status status = check(problem);
  CHECK(status.code() == StatusCode::invalid_argument);
  CHECK(status.message() == message);
}

}  // namespace

TEST_CASE("operations, dtypes and accuracy classes read back from their names") {
  for (const Operation operation : kOperations) CHECK(*parse_operation(to_string(operation)) == operation);
  for (const DType dtype : kDTypes) CHECK(*parse_dtype(to_string(dtype)) == dtype);
  for (const Accuracy accuracy : {Accuracy::standard, Accuracy::fast})
    CHECK(*parse_accuracy(to_string(accuracy)) == accuracy);
  CHECK(to_string(Accuracy::standard) == "default");
}

TEST_CASE("an unknown name is refused with what it was for and what is accepted") {
  CHECK(parse_operation("fused_chunk").status().message() ==
        "operation is 'fused_chunk'; accepted: chunk_forward, recurrent_forward, chunk_backward, "
        "recurrent_backward");
  CHECK(parse_dtype("float16").status().message() == "dtype is 'float16'; accepted: fp16, bf16, fp32");
  CHECK(parse_dtype("").status().message() == "dtype is ''; accepted: fp16, bf16, fp32");
  CHECK(parse_dtype("BF16").status().code() == StatusCode::invalid_argument);
  CHECK(parse_accuracy("standard").status().message() == "accuracy is 'standard'; accepted: default, fast");
}

TEST_CASE("a problem's line tells a person everything that it is compiled for") {
  CHECK(to_string(Problem{}) == "chunk_forward bf16 K128 V128 G1 gk:bf16 state:fp32");
  Problem problem = recurrent_of(60, 512, DType::fp16, 4);
  problem.gate_dtype = DType::fp32;
  problem.gate_v = true;
  problem.state_dtype = DType::bf16;
  problem.state_v_first = true;
  problem.reverse = true;
  CHECK(to_string(problem) ==
        "recurrent_forward fp16 K60 V512 G4 gk:fp32 gv:fp32 state:bf16 state_v_first reverse");
  problem.gate_k = problem.gate_v = false;
  CHECK(to_string(problem) ==
        "recurrent_forward fp16 K60 V512 G4 ungated:fp32 state:bf16 "
        "state_v_first reverse");
}

TEST_CASE("the gradients of gates of 16 bits come in fp32 on request, and their problem's line says so") {
  for (const Operation operation : {Operation::chunk_backward, Operation::recurrent_backward}) {
    Problem problem = problem_of(operation, 64, 64);
    CHECK(gate_gradient_dtype(problem) == DType::bf16);
    problem.fp32_gate_gradients = true;
    CHECK(check(problem).message() == "");
    CHECK(gate_gradient_dtype(problem) == DType::fp32);
    CHECK(to_string(problem) ==
          fmt::format("{} bf16 K64 V64 G1 gk:bf16 dg:fp32 state:fp32", to_string(operation)));
  }
  const std::string message =
      "fp32_gate_gradients is true; accepted of backward operations with gates of 16 bits only";
  const auto refused_of = [&](Problem problem) {
    problem.fp32_gate_gradients = true;
    refused(problem, message);
  };
  refused_of(chunk_of(64, 64));
  refused_of(backward_of(64, 64, DType::fp32));
  Problem ungated = backward_of(64, 64);
  ungated.gate_k = false;
  refused_of(ungated);
}

TEST_CASE("distinct problems have distinct lines") {
  std::map<std::string, Problem> seen;
  std::vector<Problem> problems = legal_problems();
  for (const int k : {1, 11}) problems.insert(problems.end(), {chunk_of(k, 128), chunk_of(128, k)});
  problems.push_back(chunk_of(64, 64, DType::bf16, 16));
  for (Problem problem : problems) {
    // The dtype of gates that are not there is nobody's business.
    if (!problem.gate_k && !problem.gate_v) problem.gate_dtype = problem.dtype;
    const auto [at, is_new] = seen.emplace(to_string(problem), problem);
    INFO(at->first);
    CHECK((is_new || at->second == problem));
  }
  CHECK(seen.size() > 100);
}

TEST_CASE("a workload's line has its sequences, heads and tokens, and says if they are packed") {
  CHECK(to_string(Workload{4, 16, 2048, false}) == "N4 H16 T2048");
  CHECK(to_string(Workload{7, 1, 5000000000, true}) == "N7 H1 T5000000000 packed");
}

TEST_CASE("every head dim up to 512 and every group up to 64 is legal in every dtype") {
  for (const Operation operation : kOperations)
    for (const DType dtype : kDTypes) {
      for (int dim = 1; dim <= kMaxHeadDim; ++dim) {
        if (!check(problem_of(operation, dim, kMaxHeadDim + 1 - dim, dtype)).ok()) FAIL_CHECK(dim);
      }
      for (int group = 1; group <= kMaxGroup; ++group)
        if (!check(problem_of(operation, 64, 64, dtype, group)).ok()) FAIL_CHECK(group);
    }
}

TEST_CASE("a head dim or group outside its range is refused by name, value and range") {
  for (const Operation operation : kOperations) {
    refused(problem_of(operation, 0, 64), "head_dim_k is 0; accepted: 1 to 512");
    refused(problem_of(operation, 513, 64), "head_dim_k is 513; accepted: 1 to 512");
    refused(problem_of(operation, -16, 64), "head_dim_k is -16; accepted: 1 to 512");
    refused(problem_of(operation, 64, 0), "head_dim_v is 0; accepted: 1 to 512");
    refused(problem_of(operation, 64, 1024), "head_dim_v is 1024; accepted: 1 to 512");
    refused(problem_of(operation, 64, 64, DType::bf16, 0),
            "group (query heads / heads) is 0; accepted: 1 to 64");
    refused(problem_of(operation, 64, 64, DType::bf16, 65),
            "group (query heads / heads) is 65; accepted: 1 to 64");
  }
}

TEST_CASE("gates are fp32 or have the dtype of q") {
  Problem problem = chunk_of(64, 64, DType::bf16);
  problem.gate_dtype = DType::fp32;
  CHECK(check(problem).ok());
  problem.gate_dtype = DType::fp16;
  refused(problem, "gate_dtype is fp16; accepted: fp32 or the dtype of q (bf16)");
  problem = recurrent_of(64, 64, DType::fp32);
  problem.gate_dtype = DType::bf16;
  refused(problem, "gate_dtype is bf16; accepted: fp32 or the dtype of q (fp32)");
}

TEST_CASE("what only recurrent operations do is refused of the chunk operations by name") {
  const auto all = [](auto change, const std::string& given, const std::string& accepted) {
    for (const auto& [chunk, recurrent] :
         {std::pair(Operation::chunk_forward, Operation::recurrent_forward),
          std::pair(Operation::chunk_backward, Operation::recurrent_backward)}) {
      Problem problem = problem_of(recurrent, 64, 64);
      change(problem);
      CHECK(check(problem).message() == "");
      problem.operation = chunk;
      refused(problem, fmt::format("{}; {} accepts {} only, {} takes both", given, to_string(chunk), accepted,
                                   to_string(recurrent)));
    }
  };
  all([](Problem& problem) { problem.gate_v = true; }, "gv is given", "gk");
  all([](Problem& problem) { problem.reverse = true; }, "reverse is true", "false");
}

TEST_CASE("states are bf16 in recurrent_forward only") {
  for (const Operation operation : kOperations) {
    Problem problem = problem_of(operation, 64, 64);
    problem.state_dtype = DType::bf16;
    if (operation == Operation::recurrent_forward) {
      CHECK(check(problem).message() == "");
    } else {
      refused(problem, fmt::format("state_dtype is bf16; {} accepts fp32 only", to_string(operation)));
    }
  }
}

TEST_CASE("states are never fp16") {
  Problem problem = recurrent_of(64, 64, DType::fp16);
  problem.state_dtype = DType::fp16;
  refused(problem, "state_dtype is fp16; accepted: fp32, bf16");
}

TEST_CASE("a tuning key is legal and its own key") {
  for (const Problem& problem : legal_problems()) {
    const Problem key = tuning_key(problem);
    INFO(to_string(problem));
    CHECK(check(key).message() == "");
    CHECK(tuning_key(key) == key);
    CHECK_FALSE(key.reverse);
    CHECK_FALSE(key.state_v_first);
    CHECK(key.state_dtype == DType::fp32);
    CHECK_FALSE(key.fp32_gate_gradients);
  }
}

TEST_CASE("problems that compute something else have keys of their own") {
  const Problem problem = recurrent_of(64, 64);
  const auto differs = [&](auto change) {
    Problem other = problem;
    change(other);
    return tuning_key(other) != tuning_key(problem);
  };
  CHECK(differs([](Problem& other) { other.operation = Operation::chunk_forward; }));
  CHECK(differs([](Problem& other) { other.dtype = other.gate_dtype = DType::fp16; }));
  CHECK(differs([](Problem& other) { other.gate_dtype = DType::fp32; }));
  CHECK(differs([](Problem& other) { other.head_dim_k = 60; }));
  CHECK(differs([](Problem& other) { other.head_dim_v = 60; }));
  CHECK(differs([](Problem& other) { other.group = 2; }));
  CHECK(differs([](Problem& other) { other.gate_k = false; }));
  CHECK(differs([](Problem& other) { other.gate_v = true; }));
  CHECK_FALSE(differs([](Problem& other) { other.reverse = other.state_v_first = true; }));
  CHECK_FALSE(differs([](Problem& other) { other.state_dtype = DType::bf16; }));
}

TEST_CASE("the dtype of gates that are not given makes no key of its own") {
  Problem ungated = chunk_of(64, 64);
  ungated.gate_k = false;
  Problem other = ungated;
  other.gate_dtype = DType::fp32;
  CHECK(tuning_key(other) == tuning_key(ungated));
  CHECK(tuning_key(other).gate_dtype == DType::bf16);
}

TEST_CASE("the variants of a tuning key are those of every problem that it serves") {
  const Architecture ampere = architecture("sm_80");
  std::map<Problem, std::vector<Variant>> spaces;
  for (const Problem& problem : legal_problems()) {
    const Problem key = tuning_key(problem);
    if (spaces.count(key) == 0) spaces[key] = space(key, ampere);
    INFO(to_string(problem));
    CHECK((key == problem || space(problem, ampere) == spaces[key]));
  }
}
