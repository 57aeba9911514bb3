// A whole tuning run: the time budget over the problems, compilation one problem ahead, and the table at the end.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "problem_tuner.h"

namespace gla {

struct TunedTable {
  Table table;
  std::vector<std::vector<double>> runner_up_seconds;  ///< per problem and point
};

/// Tunes each task within `budget_seconds` (on progress's clock, which started with the command).
Result<TunedTable> tune_tasks(const TuningBench& bench, const std::vector<TuningTask>& tasks,
                              double budget_seconds);

/// Says whether a variant is right, without a GPU. Called by several OS threads at once.
using VerifyVariant = std::function<Answer<Verdict>(const Problem&, const Variant&)>;

struct OfflineOptions {
  std::size_t compile_top = 4;  ///< variants per problem that are compiled
  double copy_bandwidth = 0;
  VerifyVariant verify = {};  ///< of each variant that a point recommends; none: nothing is verified
  unsigned jobs = 0;          ///< OS threads that verify; 0: one per core
};

/// Without a GPU: compiles the best-ranked variants of each problem, drops what does not fit, lets the model choose, and
/// chooses again where the choice is not verified.
Result<TunedTable> tune_offline(CompilePool& pool, Progress& progress, const Architecture& architecture,
                                const std::vector<TuningTask>& tasks, const OfflineOptions& options);

/// What the model predicts once registers and spills are known: a spilled byte is traffic that it did not count.
double predicted_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                         const Architecture& architecture, const Compiled& compiled);

}  // namespace gla
