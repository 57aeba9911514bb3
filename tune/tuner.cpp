#include "tuner.h"

#include <fmt/format.h>

#include "check.h"

namespace gla {
namespace {

constexpr double kReserveSeconds = 3;  // for the last answer to arrive and the table to be written

}  // namespace

Result<TunedTable> tune_tasks(const TuningBench& bench, const std::vector<TuningTask>& tasks,
                              double budget_seconds) {
  std::vector<ProblemTuner> tuners;
  tuners.reserve(tasks.size());
  for (const TuningTask& task : tasks) tuners.emplace_back(bench, task);
  const double run_deadline = budget_seconds - kReserveSeconds;
  for (std::size_t i = 0; i < tuners.size(); ++i) {
    tuners[i].compile_ahead();
    if (i + 1 < tuners.size()) tuners[i + 1].compile_ahead();
    const double now = bench.progress.elapsed();
    const double deadline = now + (run_deadline - now) / static_cast<double>(tuners.size() - i);
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
