// The search, on a laboratory with invented times: what wins, what is refused, and what a second run does not repeat.
#include "tuner.h"

#include <mutex>
#include <optional>
#include <set>

#include "catch.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"
#include "table_report.h"
#include "temporary_folder.h"

using namespace gla;

namespace {

const JournalIdentity kIdentity{"a GPU", "abc", "13.0"};

Problem small_problem() {
  Problem problem;
  problem.operation = Operation::recurrent_forward;
  problem.head_dim_k = problem.head_dim_v = 64;
  return problem;
}

/// Time grows with the distance from a hidden optimum; some variants misbehave.
class InventedLaboratory : public Laboratory {
 public:
  Answer<Verdict> verify(const Problem&, const Variant& variant) override {
    ++verifications;
    verified.insert(to_string(variant));
    if (answers_left-- <= 0) {
      gone = true;
      return {{}, {"error", "the GPU is gone"}};
    }
    if (variant[Parameter::warps] == 2) return {{}, {"crash", "killed by signal 11"}};
    if (variant[Parameter::stages] == 1) return {Verdict{.detail = "o is off by 0.5"}, {}};
    const bool exact = variant[Parameter::lanes_k] != 16;
    return {Verdict{.standard = exact, .fast = true, .error_o = exact ? 0.001 : 0.004}, {}};
  }

  Answer<std::vector<Timing>> measure(const Problem&, const Variant& variant,
                                      std::span<const MeasureRequest> requests) override {
    std::vector<Timing> timings;
    for (const MeasureRequest& request : requests)
      timings.push_back({.seconds = seconds(variant, request.workload), .noise = 0.01, .samples = 5});
    return {timings, {}};
  }

  Answer<std::vector<Timing>> contest(const Problem&, const Workload& workload,
                                      std::span<const Variant> finalists) override {
    ++contests;
    std::vector<Timing> timings;
    for (const Variant& variant : finalists)
      timings.push_back({.seconds = seconds(variant, workload), .noise = 0.001, .samples = 50});
    return {timings, {}};
  }

  Status health() const override { return gone ? Status{StatusCode::cuda, "the GPU is gone"} : Status{}; }

  /// Best with 4 warps, 4 rows and 4 lanes; 16 lanes are faster still, and too coarse for the default class.
  static double seconds(const Variant& variant, const Workload& workload) {
    const auto far = [](int value, int best) { return 1 + 0.2 * std::abs(value - best); };
    const double lanes = variant[Parameter::lanes_k] == 16 ? 0.9 : far(variant[Parameter::lanes_k], 4);
    return 1e-5 * lanes * far(variant[Parameter::warps], 4) * far(variant[Parameter::rows_v], 4) *
           static_cast<double>(workload.sequences);
  }

  int answers_left = 1 << 30;
  int verifications = 0, contests = 0;
  bool gone = false;
  std::set<std::string> verified;
};

struct Run {
  Result<TunedTable> tuned = Status{StatusCode::internal, "not run"};
  InventedLaboratory laboratory;
};

const std::vector<TuningTask> kTasks{
    {small_problem(),
     {{.sequences = 1, .heads = 32, .tokens = 1}, {.sequences = 64, .heads = 32, .tokens = 1}}}};

void tune(Run& run, const std::string& journal_path, double budget = 1e6,
          const std::vector<TuningTask>& tasks = kTasks,
          std::optional<std::size_t> most_variants = std::nullopt) {
  auto journal = Journal::open(journal_path, kIdentity);
  REQUIRE(journal.ok());
  const Architecture architecture = *parse_architecture("sm_90a");
  CompilePool pool(2, [](const Problem&, const Variant& variant) -> Result<Compiled> {
    if (variant[Parameter::min_blocks] == 4) return Status{StatusCode::compile, "too many registers"};
    return Compiled{};
  });
  Progress progress(true);
  TuningBench bench{run.laboratory, pool, *journal, progress, architecture, 3e12};
  bench.most_variants = most_variants.value_or(bench.most_variants);
  run.tuned = tune_tasks(bench, tasks, budget);
}

const Point& point_of(const TunedTable& tuned, std::int64_t sequences, Accuracy accuracy) {
  for (const Point& point : tuned.table.problems.at(0).points)
    if (point.workload.sequences == sequences && point.accuracy == accuracy) return point;
  throw std::runtime_error("no such point");
}

}  // namespace

TEST_CASE("with time enough the best verified variant wins each workload and class") {
  const TemporaryFolder folder;
  Run run;
  tune(run, folder / "journal");
  REQUIRE(run.tuned.ok());
  const Architecture architecture = *parse_architecture("sm_90a");
  for (const std::int64_t sequences : {1, 64}) {
    double best = 1, best_fast = 1;
    for (const Variant& variant : space(small_problem(), architecture)) {
      if (variant[Parameter::warps] == 2 || variant[Parameter::stages] == 1 ||
          variant[Parameter::min_blocks] == 4)
        continue;
      const double seconds = InventedLaboratory::seconds(variant, {.sequences = sequences});
      best_fast = std::min(best_fast, seconds);
      if (variant[Parameter::lanes_k] != 16) best = std::min(best, seconds);
    }
    CHECK(point_of(*run.tuned, sequences, Accuracy::standard).seconds == best);
    CHECK(point_of(*run.tuned, sequences, Accuracy::fast).seconds == best_fast);
  }
}

TEST_CASE("whatever misbehaves is refused with its reason, counted, and never wins") {
  const TemporaryFolder folder;
  Run run;
  tune(run, folder / "journal");
  REQUIRE(run.tuned.ok());
  const TableProblem& problem = run.tuned->table.problems.at(0);
  CHECK(problem.tally.refused.at("crash") > 0);
  CHECK(problem.tally.refused.at("wrong") > 0);
  CHECK(problem.tally.refused.at("compile") > 0);
  int refused = 0;
  for (const auto& [reason, count] : problem.tally.refused) refused += count;
  CHECK(problem.tally.measured + refused == problem.tally.space);
  CHECK(problem.tally.verified == problem.tally.measured);
  CHECK(problem.tally.compiled == problem.tally.space - problem.tally.refused.at("compile"));
  for (const Point& point : problem.points) {
    CHECK(point.variant[Parameter::warps] != 2);
    CHECK(point.variant[Parameter::stages] != 1);
    CHECK(point.variant[Parameter::min_blocks] != 4);
  }
  const std::string report = format_report(run.tuned->table, run.tuned->runner_up_seconds);
  CHECK(report.find("crash") != std::string::npos);
}

TEST_CASE("no more variants are tried than was asked for, those of an interrupted run counted") {
  const TemporaryFolder folder;
  const std::string path = folder / "journal";
  Run first;
  first.laboratory.answers_left = 10;
  tune(first, path, 1e6, kTasks, 40);
  REQUIRE_FALSE(first.tuned.ok());
  Run second;
  tune(second, path, 1e6, kTasks, 40);
  REQUIRE(second.tuned.ok());
  const TableProblem& problem = second.tuned->table.problems.at(0);
  int tried = problem.tally.measured;
  for (const auto& [reason, count] : problem.tally.refused) tried += count;
  CHECK(tried == 40);
  CHECK(problem.points.size() == 4);
}

TEST_CASE("a run that ended early is resumed: nothing that is known is asked again") {
  const TemporaryFolder folder;
  const std::string path = folder / "journal";
  Run first;
  first.laboratory.answers_left = 40;
  tune(first, path);
  REQUIRE_FALSE(first.tuned.ok());
  CHECK(first.tuned.status().code() == StatusCode::cuda);
  Run second;
  tune(second, path);
  REQUIRE(second.tuned.ok());
  std::size_t repeated = 0;
  for (const std::string& variant : first.laboratory.verified)
    repeated += second.laboratory.verified.count(variant);
  CHECK(repeated <= 1);  // the one whose answer never came
  Run whole;
  tune(whole, folder / "other");
  CHECK(point_of(*second.tuned, 64, Accuracy::standard).variant ==
        point_of(*whole.tuned, 64, Accuracy::standard).variant);
  CHECK(second.tuned->table.problems[0].tally.refused == whole.tuned->table.problems[0].tally.refused);
}

TEST_CASE("a variant whose form for packed sequences is wrong does not win") {
  struct : InventedLaboratory {
    Answer<Verdict> verify(const Problem&, const Variant& variant) override {
      const bool wrong = variant.family == Family::segmented && variant[Parameter::chunk] == 32;
      if (wrong) return {Verdict{.detail = "o is off by 0.5"}, {}};
      return {Verdict{.standard = true, .fast = true}, {}};
    }
    Answer<std::vector<Timing>> measure(const Problem&, const Variant& variant,
                                        std::span<const MeasureRequest>) override {
      return {{{.seconds = variant.family != Family::fused   ? 3e-5
                           : variant[Parameter::chunk] == 32 ? 1e-5
                                                             : 2e-5,
                .samples = 5}},
              {}};
    }
    Answer<std::vector<Timing>> contest(const Problem& problem, const Workload&,
                                        std::span<const Variant> finalists) override {
      std::vector<Timing> timings;
      for (const Variant& variant : finalists) timings.push_back(measure(problem, variant, {}).value[0]);
      return {timings, {}};
    }
  } laboratory;
  Problem problem;
  problem.head_dim_k = problem.head_dim_v = 16;
  const TemporaryFolder folder;
  auto journal = Journal::open(folder / "journal", kIdentity);
  REQUIRE(journal.ok());
  const Architecture architecture = *parse_architecture("sm_80");
  CompilePool pool(2, [](const Problem&, const Variant&) -> Result<Compiled> { return Compiled{}; });
  Progress progress(true);
  const TuningBench bench{laboratory, pool, *journal, progress, architecture, 3e12};
  const Result<TunedTable> tuned = tune_tasks(bench, {{problem, {{1, 32, 2048, false}}}}, 1e6);
  REQUIRE(tuned.ok());
  const TableProblem& found = tuned->table.problems.at(0);
  for (const Point& point : found.points) {
    CHECK(point.variant.family == Family::fused);
    CHECK(point.variant[Parameter::chunk] != 32);
  }
  CHECK(found.points.size() == 2);
  CHECK(found.tally.refused.at("wrong") > 0);
}

TEST_CASE("a renewal tries what the table recommends, for all of its workloads, and nothing else") {
  const TemporaryFolder folder;
  Run first;
  tune(first, folder / "first");
  REQUIRE(first.tuned.ok());
  CHECK(renewal_tasks(first.tuned->table, {Operation::chunk_forward}).empty());
  const std::vector<TuningTask> tasks =
      renewal_tasks(first.tuned->table, {Operation::recurrent_forward, Operation::chunk_forward});
  REQUIRE(tasks.size() == 1);
  CHECK((tasks[0].problem == small_problem()));
  CHECK((tasks[0].workloads == kTasks[0].workloads));
  CHECK(tasks[0].variants.size() < first.laboratory.verified.size());

  Run again;
  tune(again, folder / "again", 1e6, tasks);
  REQUIRE(again.tuned.ok());
  CHECK(again.laboratory.verifications == static_cast<int>(tasks[0].variants.size()));
  for (const Point& point : first.tuned->table.problems.at(0).points) {
    const Point& renewed = point_of(*again.tuned, point.workload.sequences, point.accuracy);
    CHECK(to_string(renewed.variant) == to_string(point.variant));
  }
}

TEST_CASE("a renewal that would leave out something that its table has is an error, and goes on from there") {
  const TemporaryFolder folder;
  Run first;
  tune(first, folder / "first");
  REQUIRE(first.tuned.ok());
  std::vector<TuningTask> tasks = renewal_tasks(first.tuned->table, {Operation::recurrent_forward});
  REQUIRE(tasks.at(0).variants.size() > 1);
  Run cut_off;
  tune(cut_off, folder / "again", 0, tasks);
  REQUIRE_FALSE(cut_off.tuned.ok());
  CHECK_THAT(cut_off.tuned.status().message(), contains_text("--budget ended before"));
  Run rest;
  tune(rest, folder / "again", 1e6, tasks);
  REQUIRE(rest.tuned.ok());
  // Of nothing that is right any more there is no table either.
  for (Variant& variant : tasks[0].variants) variant.set(Parameter::stages, 1);
  Run wrong;
  tune(wrong, folder / "wrong", 1e6, tasks);
  REQUIRE_FALSE(wrong.tuned.ok());
  CHECK_THAT(wrong.tuned.status().message(), contains_text("no variant is right"));
}

TEST_CASE("a finished problem is taken from the journal as it is") {
  const TemporaryFolder folder;
  const std::string path = folder / "journal";
  Run first, second;
  tune(first, path);
  tune(second, path);
  REQUIRE(second.tuned.ok());
  CHECK(second.laboratory.verifications == 0);
  CHECK(second.laboratory.contests == 0);
  CHECK(format_table(second.tuned->table) == format_table(first.tuned->table));
}

TEST_CASE("without time left for the search each workload still gets a variant") {
  const TemporaryFolder folder;
  Run run;
  tune(run, folder / "journal", 3.2);
  REQUIRE(run.tuned.ok());
  CHECK(run.tuned->table.problems.at(0).points.size() >= 2);
}

namespace {

/// An offline run over one problem whose kernels all compile unless they have one stage.
Result<TunedTable> tuned_offline(const Problem& problem, const VerifyVariant& verify) {
  const Architecture architecture = *parse_architecture("sm_90a");
  CompilePool pool(2, [](const Problem&, const Variant& variant) -> Result<Compiled> {
    if (variant[Parameter::stages] == 1) return Status{StatusCode::compile, "refused"};
    KernelResources resources;
    resources.registers = 64;
    return Compiled{{resources}, {"kernel"}};
  });
  Progress progress(true);
  const bool chunk = problem.operation == Operation::chunk_forward;
  const std::vector<TuningTask> tasks{{problem,
                                       {{.sequences = 8, .heads = 32, .tokens = chunk ? 4096 : 1},
                                        {.sequences = 1, .heads = 2, .tokens = chunk ? 16384 : 1}}}};
  return tune_offline(pool, progress, architecture, tasks,
                      {.compile_top = 500, .copy_bandwidth = 3e12, .verify = verify, .jobs = 2});
}

}  // namespace

TEST_CASE(
    "offline, the model chooses among what compiles and fits; without verification nothing is verified") {
  const auto tuned = tuned_offline(small_problem(), {});
  REQUIRE(tuned.ok());
  const TableProblem& problem = tuned->table.problems.at(0);
  CHECK(problem.tally.verified == 0);
  CHECK(problem.tally.measured == 0);
  CHECK(problem.tally.compiled > 0);
  CHECK(problem.tally.refused.at("compile") > 0);
  REQUIRE_FALSE(problem.points.empty());
  CHECK(problem.points[0].variant[Parameter::stages] != 1);
  CHECK(problem.points[0].seconds > 0);
  CHECK(problem.points[0].error_o == 0);
}

TEST_CASE("offline, a recommended variant that is wrong is refused and the next of the ranking is taken") {
  const auto unverified = tuned_offline(small_problem(), {});
  REQUIRE(unverified.ok());
  const Variant first = unverified->table.problems.at(0).points.at(0).variant;
  std::mutex mutex;
  std::set<Variant> asked;
  int repeated = 0;
  const auto tuned = tuned_offline(small_problem(), [&](const Problem&, const Variant& variant) {
    const std::lock_guard lock(mutex);
    repeated += asked.insert(variant).second ? 0 : 1;
    Answer<Verdict> answer;
    const bool right = variant != first;
    answer.value = {.standard = right, .fast = right, .error_o = 0.002, .error_state = 0.001};
    return answer;
  });
  REQUIRE(tuned.ok());
  CHECK(repeated == 0);
  const TableProblem& problem = tuned->table.problems.at(0);
  CHECK(problem.tally.refused.at("wrong") == 1);
  CHECK(problem.tally.verified == static_cast<int>(asked.size()) - 1);
  CHECK(problem.points.size() == unverified->table.problems.at(0).points.size());
  for (const Point& point : problem.points) {
    CHECK(point.variant != first);
    CHECK(asked.count(point.variant) == 1);
    CHECK(point.error_o == 0.002);
    CHECK(point.error_state == 0.001);
  }
}

TEST_CASE("offline, a variant that reaches only the fast class serves only its points") {
  Problem problem = small_problem();
  problem.operation = Operation::chunk_forward;
  const auto tuned = tuned_offline(problem, [](const Problem&, const Variant& variant) {
    Answer<Verdict> answer;
    answer.value = {.standard = variant.family == Family::segmented, .fast = true};
    return answer;
  });
  REQUIRE(tuned.ok());
  REQUIRE_FALSE(tuned->table.problems.at(0).points.empty());
  for (const Point& point : tuned->table.problems.at(0).points)
    if (point.accuracy == Accuracy::standard) CHECK(point.variant.family == Family::segmented);
}

TEST_CASE("offline, a variant is out where what serves packed sequences in its place is wrong") {
  Problem problem = small_problem();
  problem.operation = Operation::chunk_forward;
  const auto unverified = tuned_offline(problem, {});
  REQUIRE(unverified.ok());
  const Variant first = unverified->table.problems.at(0).points.at(0).variant;
  REQUIRE(first.family != Family::segmented);
  const std::string wrong = render(problem, packed_form(first)).text;
  const auto tuned = tuned_offline(problem, [&](const Problem& asked, const Variant& variant) {
    Answer<Verdict> answer;
    const bool right = render(asked, variant).text != wrong;
    answer.value = {.standard = right, .fast = right};
    return answer;
  });
  REQUIRE(tuned.ok());
  REQUIRE_FALSE(tuned->table.problems.at(0).points.empty());
  for (const Point& point : tuned->table.problems.at(0).points)
    CHECK(render(problem, packed_form(point.variant)).text != wrong);
}

TEST_CASE("offline, variants of one kernel are verified once") {
  Problem problem = small_problem();
  problem.operation = Operation::chunk_forward;
  std::mutex mutex;
  std::vector<std::string> kernels;
  const auto tuned = tuned_offline(problem, [&](const Problem& asked, const Variant& variant) {
    const std::lock_guard lock(mutex);
    kernels.push_back(render(asked, variant).text);
    Answer<Verdict> answer;
    answer.value.fast = false;  // so that every kernel's turn comes
    return answer;
  });
  REQUIRE(tuned.ok());
  const Tally& tally = tuned->table.problems.at(0).tally;
  CHECK(std::set<std::string>(kernels.begin(), kernels.end()).size() == kernels.size());
  CHECK(tally.refused.at("wrong") > static_cast<int>(kernels.size()));
}

TEST_CASE("spilled registers cost predicted time") {
  const Architecture architecture = *parse_architecture("sm_90a");
  const Variant variant = space(small_problem(), architecture).front();
  const Workload workload{.sequences = 8, .heads = 32, .tokens = 1};
  KernelResources spilling;
  spilling.spill_bytes = 400;
  CHECK(
      predicted_seconds(small_problem(), variant, workload, architecture, Compiled{{spilling}, {"kernel"}}) >
      predicted_seconds(small_problem(), variant, workload, architecture,
                        Compiled{{KernelResources{}}, {"kernel"}}));
}

TEST_CASE("urgent compilations overtake those that wait, and cancelled ones are not made") {
  std::mutex mutex;
  std::condition_variable go;
  bool open = false, busy = false;
  std::vector<int> order;
  CompilePool pool(1, [&](const Problem&, const Variant& variant) -> Result<Compiled> {
    std::unique_lock lock(mutex);
    busy = true;
    go.notify_all();
    go.wait(lock, [&] { return open; });
    order.push_back(variant[Parameter::warps]);
    return Compiled{};
  });
  const auto numbered = [](int n) {
    Variant variant;
    variant.set(Parameter::warps, n);
    return variant;
  };
  Problem other;
  other.group = 2;
  const std::vector<Variant> first{numbered(1)}, waiting{numbered(2), numbered(3)},
      urgent{numbered(3), numbered(4)};
  pool.request(Problem{}, first);
  {
    std::unique_lock lock(mutex);
    go.wait(lock, [&] { return busy; });
  }
  pool.request(Problem{}, waiting);
  pool.request(other, waiting);
  pool.request(Problem{}, urgent, true);
  pool.cancel(other);
  {
    const std::lock_guard lock(mutex);
    open = true;
  }
  go.notify_all();
  while (!pool.first_ready(Problem{}, std::vector{numbered(2)}, 5)) {
  }
  const std::lock_guard lock(mutex);
  CHECK(order == std::vector<int>{1, 3, 4, 2});
  CHECK_FALSE(pool.first_ready(other, waiting, 0));
  CHECK_FALSE(pool.outcome(other, numbered(2)).ok());
}
