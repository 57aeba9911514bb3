// What a run is asked to do, shapes, and the merging of shares.
#include "tuning_task.h"

#include <set>

#include "catch.h"
#include "gla/generator/render.h"
#include "merge.h"
#include "shape.h"

using namespace gla;

TEST_CASE("the defaults are all operations in bf16 for five pairs of head dims") {
  const auto tasks = tuning_tasks({});
  CHECK(tasks.size() == 15);
  std::set<Problem> problems;
  for (const TuningTask& task : tasks) {
    problems.insert(task.problem);
    CHECK(task.problem.dtype == DType::bf16);
    CHECK(check(task.problem).ok());
    CHECK(tuning_key(task.problem) == task.problem);
    CHECK(task.workloads == default_workloads(task.problem.operation));
  }
  CHECK(problems.size() == 15);
}

TEST_CASE("given workloads go to the operations that they suit") {
  TaskSelection selection;
  selection.head_dims = {{64, 64}};
  selection.workloads = {{.sequences = 8, .heads = 4, .tokens = 1},
                         {.sequences = 1, .heads = 4, .tokens = 4096}};
  const auto tasks = tuning_tasks(selection);
  REQUIRE(tasks.size() == 3);
  for (const TuningTask& task : tasks) {
    REQUIRE(task.workloads.size() == 1);
    CHECK(task.workloads[0].tokens == (task.problem.operation == Operation::recurrent_forward ? 1 : 4096));
  }
}

TEST_CASE("shares cover every task once") {
  const auto tasks = tuning_tasks({});
  std::set<Problem> seen;
  std::size_t count = 0;
  for (int index = 1; index <= 3; ++index) {
    for (const TuningTask& task : share_of(tasks, index, 3)) {
      seen.insert(task.problem);
      ++count;
    }
  }
  CHECK(count == tasks.size());
  CHECK(seen.size() == tasks.size());
}

TEST_CASE("head dims and workloads are read, and what they are not is named") {
  CHECK(parse_head_dims("64")->v == 64);
  CHECK(parse_head_dims("128x256")->k == 128);
  CHECK(parse_head_dims("128x256")->v == 256);
  for (const char* text : {"", "x", "64x", "0", "-1", "64x64x64", "513", "sixty"})
    CHECK_FALSE(parse_head_dims(text).ok());
  const auto workload = parse_workload("B4,T4096,H16");
  REQUIRE(workload.ok());
  CHECK(*workload == Workload{.sequences = 4, .heads = 16, .tokens = 4096});
  const auto wrong = parse_workload("B4,X2");
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.status().message().find("X2") != std::string::npos);
}

TEST_CASE("a workload that is empty, says a thing twice or is too large for a table is refused") {
  for (const char* text : {"", "B1,B2", "B1,N2", "T1,T1", "H1,T2,H1", "B2147483648", "T0", "B", "B1,,T1"}) {
    INFO(text);
    const auto workload = parse_workload(text);
    REQUIRE_FALSE(workload.ok());
    CHECK(workload.status().message().find("workload \"" + std::string(text) + "\"") != std::string::npos);
  }
  CHECK(parse_workload("B2147483647").ok());
}

TEST_CASE("what is asked for twice is tuned once") {
  TaskSelection selection;
  selection.operations = {Operation::recurrent_forward, Operation::recurrent_forward};
  selection.dtypes = {DType::bf16, DType::bf16};
  selection.head_dims = {{64, 64}, {64, 64}};
  selection.groups = {2, 2};
  selection.workloads = {{.tokens = 1}, {.tokens = 1}};
  const auto tasks = tuning_tasks(selection);
  REQUIRE(tasks.size() == 1);
  CHECK(tasks[0].workloads.size() == 1);
}

TEST_CASE("a shape names its operation by its length and its head dims by D or K and V") {
  const auto shape = parse_shape("B1,T8192,H96,D128");
  REQUIRE(shape.ok());
  CHECK(shape->problem.operation == Operation::chunk_forward);
  CHECK(shape->problem.head_dim_k == 128);
  CHECK(to_string(*shape) == "B1 T8192 H96 D128");
  const auto decode = parse_shape("B64,T1,H4,G8,K256,V512");
  REQUIRE(decode.ok());
  CHECK(decode->problem.operation == Operation::recurrent_forward);
  CHECK(decode->problem.group == 8);
  CHECK(to_string(*decode) == "B64 T1 H4 G8 K256 V512");
  for (const char* text : {"", "T1", "D128,,T1", "D0", "D128,D64", "D128,Q3", "D1000", "D", "K64"})
    CHECK_FALSE(parse_shape(text).ok());
}

TEST_CASE("merging takes all problems and the faster of two points, and refuses what is not alike") {
  Table a;
  a.device.name = "NVIDIA H200";
  a.origin.templates[Operation::chunk_forward] = "abc";
  TableProblem problem;
  const auto point = [](std::int64_t tokens, double seconds) {
    Point made;
    made.workload.tokens = tokens;
    made.seconds = seconds;
    return made;
  };
  problem.points.push_back(point(1, 2));
  a.problems = {problem};
  Table b = a;
  b.problems[0].points[0].seconds = 1;
  b.problems[0].points.push_back(point(2, 5));
  problem.problem.group = 2;
  b.problems.push_back(problem);
  const auto merged = merge_tables({a, b});
  REQUIRE(merged.ok());
  REQUIRE(merged->problems.size() == 2);
  REQUIRE(merged->problems[0].points.size() == 2);
  CHECK(merged->problems[0].points[0].seconds == 1);
  Table other = b;
  other.origin.templates = {{Operation::recurrent_forward, "def"}};
  const auto both = merge_tables({a, other});
  REQUIRE(both.ok());
  CHECK(both->origin.templates.size() == 2);
  Table today = a;
  today.origin.templates[Operation::chunk_forward] = templates_hash(Operation::chunk_forward);
  today.problems[0].points[0].seconds = 3;
  CHECK(superseded(a, {a, today}) == std::vector{Operation::chunk_forward});
  CHECK(superseded(today, {a, today}).empty());
  CHECK(superseded(a, {a, b}).empty());
  const auto renewed = merge_tables({a, today});
  REQUIRE(renewed.ok());
  REQUIRE(renewed->problems.size() == 1);
  CHECK(renewed->problems[0].points[0].seconds == 3);
  CHECK(renewed->origin.templates == today.origin.templates);
  other.origin.templates[Operation::chunk_forward] = "abd";
  const auto older = merge_tables({a, other});
  REQUIRE_FALSE(older.ok());
  CHECK(older.status().message().find("abd") != std::string::npos);
  b.device.name = "NVIDIA A100";
  const auto refused = merge_tables({a, b});
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.status().message().find("NVIDIA A100") != std::string::npos);
  CHECK_FALSE(merge_tables({}).ok());
}
