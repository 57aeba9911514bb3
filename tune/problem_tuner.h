// The search on one problem: try what the model ranks first, then the neighbours of what won, then let the finalists
// race. Everything learned goes to the journal first, and what the journal knows is not done again.
#pragma once

#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "compile_pool.h"
#include "gla/generator/architecture.h"
#include "journal.h"
#include "laboratory.h"
#include "progress.h"
#include "table.h"
#include "tuning_task.h"

namespace gla {

/// What a search works with. All of it outlives the search.
struct TuningBench {
  Laboratory& laboratory;
  CompilePool& pool;
  Journal& journal;
  Progress& progress;
  const Architecture& architecture;
  double copy_bandwidth = 0;  ///< bytes per second
  /// Variants of a problem that are tried at most: with time enough a run ends in the same place on any host.
  std::size_t most_variants = std::numeric_limits<std::size_t>::max();
};

/// A problem's part of the table, and by how much each point won.
struct ProblemResult {
  TableProblem table;
  std::vector<double> runner_up_seconds;  ///< per point; 0: nothing else reached the class
};

class ProblemTuner {
 public:
  ProblemTuner(const TuningBench& bench, TuningTask task);

  /// Queues the first variants of the ranking for compilation.
  void compile_ahead();
  /// Searches until progress.elapsed() reaches `deadline` or nothing is left to try. `label` and `seconds_left` are
  /// for the progress line. An error ends the run; the journal keeps what was learned.
  Status run(double deadline, double run_deadline, const std::string& label);
  ProblemResult result() const;

 private:
  struct Record {
    std::optional<Refusal> refusal;
    std::optional<Verdict> verdict;
    std::vector<Timing> timings;  ///< per workload; seconds 0: not measured
    bool measured() const;
    bool complete() const;  ///< nothing left to learn
  };
  struct Best {
    const Variant* variant = nullptr;
    double seconds = 0;
    double runner_up_seconds = 0;
  };

  void absorb_journal();
  Record& record_of(const Variant& variant);
  bool known(const Variant& variant) const;  ///< nothing left to learn of it
  std::size_t tries_left() const;
  std::vector<Variant> untried(std::size_t most) const;
  std::vector<Variant> winners_neighbours() const;
  Status explore(std::vector<Variant> candidates, double until);
  Status try_variant(const Variant& variant);
  /// Of a variant that is compiled or refused.
  Status verify(const Variant& variant, Record& record);
  Status refuse(const Variant& variant, Record& record, Refusal refusal);
  Status time_variant(const Variant& variant, Record& record);
  Status race(double deadline);
  /// Refuses winners whose form for packed sequences, which serves those calls, is not right.
  Status check_packed_forms();
  Status check_packed_form(const Variant& winner, const Variant& form);
  std::vector<Variant> all_winners() const;
  /// An error if a renewal would leave out something that its table has.
  Status check_renewed() const;
  bool is_legal(const Variant& variant) const;
  Best best(std::size_t workload, Accuracy accuracy) const;
  bool every_point_served() const;
  bool finished() const;
  void show_progress() const;

  TuningBench bench_;
  TuningTask task_;
  std::vector<Variant> space_, ranked_;
  std::map<Variant, Record> records_;  ///< of variants that were tried
  std::map<std::string, int> refusals_shown_;
  std::string label_;
  double run_deadline_ = 0;
};

}  // namespace gla
