#include "tuner.h"

#include <fmt/format.h>

#include <algorithm>

#include "check.h"

namespace gla {
namespace {

// For the last answer to arrive, compilations to end and the table to be written; of a short budget only a part.
constexpr double kReserveSeconds = 5, kReserveShare = 0.1;

/// Spaces of chunk kernels are larger and their variants slower to compile and to run.
double weight(const TuningTask& task) {
  return is_recurrent(task.problem.operation) ? 1.0 : 2.5;
}

}  // namespace

Result<TunedTable> tune_tasks(const TuningBench& bench, const std::vector<TuningTask>& tasks,
                              double budget_seconds) {
  std::vector<ProblemTuner> tuners;
  tuners.reserve(tasks.size());
  for (const TuningTask& task : tasks) tuners.emplace_back(bench, task);
  const double run_deadline = budget_seconds - std::min(kReserveSeconds, kReserveShare * budget_seconds);
  double weights_left = 0;
  for (const TuningTask& task : tasks) weights_left += weight(task);
  for (std::size_t i = 0; i < tuners.size(); ++i) {
    tuners[i].compile_ahead();
    if (i + 1 < tuners.size()) tuners[i + 1].compile_ahead();
    const double now = bench.progress.elapsed();
    // A renewal leaves out nothing that its table has: what is left of the budget is each problem's.
    const bool searches = tasks[i].variants.empty();
    const double deadline =
        searches ? now + (run_deadline - now) * weight(tasks[i]) / weights_left : run_deadline;
    weights_left -= weight(tasks[i]);
    const std::string label = fmt::format("[{}/{}] {}", i + 1, tuners.size(), to_string(tasks[i].problem));
    GLA_RETURN_IF_ERROR(tuners[i].run(deadline, run_deadline, label));
  }
  TunedTable tuned;
  for (const ProblemTuner& tuner : tuners) {
    ProblemResult result = tuner.result();
    tuned.table.problems.push_back(std::move(result.table));
    tuned.runner_up_seconds.push_back(std::move(result.runner_up_seconds));
  }
  return tuned;
}

}  // namespace gla
