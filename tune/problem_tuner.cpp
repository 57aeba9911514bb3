#include "problem_tuner.h"

#include <fmt/format.h>

#include <algorithm>

#include "bars.h"
#include "check.h"
#include "gla/generator/model.h"
#include "gla/generator/space.h"
#include "judgement.h"
#include "search.h"
#include "text_table.h"
#include "workload_inputs.h"

namespace gla {
namespace {

// Shares of a problem's time: the ranking, then neighbours; the rest is for the race.
constexpr double kRankingShare = 0.55, kSearchShare = 0.9;
constexpr std::size_t kFirstVariants = 32;  // of the ranking, before neighbours get their turn
constexpr std::size_t kLaterVariants = 12;  // of the ranking, when neighbours have run out
constexpr double kHopeless = 1.5;           // times the best: such a variant is not timed to the end
constexpr double kFinalistMargin = 1.04;
constexpr std::size_t kMostFinalists = 3;
constexpr int kRefusalsShown = 2;  // of each reason; the tally counts them all

}  // namespace

bool ProblemTuner::Record::measured() const {
  return std::any_of(timings.begin(), timings.end(), [](const Timing& timing) { return timing.seconds > 0; });
}

bool ProblemTuner::Record::complete() const {
  return refusal || (verdict && std::all_of(timings.begin(), timings.end(),
                                            [](const Timing& timing) { return timing.seconds > 0; }));
}

ProblemTuner::ProblemTuner(const TuningBench& bench, TuningTask task)
    : bench_(bench), task_(std::move(task)), space_(space(task_.problem, bench.architecture)) {
  if (task_.variants.empty()) {
    ranked_ = ranked(task_.problem, space_, task_.workloads, bench.architecture);
  } else {
    for (const Variant& variant : task_.variants)
      if (is_legal(variant)) ranked_.push_back(variant);
  }
  absorb_journal();
}

void ProblemTuner::absorb_journal() {
  for (const Variant& variant : bench_.journal.variants(task_.problem)) {
    Record& record = record_of(variant);
    if (const Refusal* refusal = bench_.journal.refusal(task_.problem, variant)) record.refusal = *refusal;
    if (const Verdict* verdict = bench_.journal.verdict(task_.problem, variant)) record.verdict = *verdict;
    if (!record.verdict) continue;
    for (std::size_t w = 0; w < task_.workloads.size(); ++w)
      if (const Timing* timing = bench_.journal.timing(task_.problem, variant, task_.workloads[w]))
        record.timings[w] = *timing;
  }
}

ProblemTuner::Record& ProblemTuner::record_of(const Variant& variant) {
  Record& record = records_[variant];
  record.timings.resize(task_.workloads.size());
  return record;
}

bool ProblemTuner::known(const Variant& variant) const {
  const auto found = records_.find(variant);
  return found != records_.end() && found->second.complete();
}

std::size_t ProblemTuner::tries_left() const {
  const auto tried = static_cast<std::size_t>(std::count_if(
      records_.begin(), records_.end(), [](const auto& entry) { return entry.second.complete(); }));
  return bench_.most_variants - std::min(tried, bench_.most_variants);
}

std::vector<Variant> ProblemTuner::untried(std::size_t most) const {
  most = std::min(most, tries_left());
  std::vector<Variant> found;
  for (const Variant& variant : ranked_) {
    if (found.size() == most) break;
    if (!known(variant)) found.push_back(variant);
  }
  return found;
}

std::vector<Variant> ProblemTuner::winners_neighbours() const {
  std::vector<std::vector<Variant>> lists;
  for (const Variant& winner : all_winners()) lists.push_back(neighbours(winner, space_));
  std::vector<Variant> found = taken_in_turn(lists);
  std::erase_if(found, [this](const Variant& variant) { return known(variant); });
  if (found.size() > tries_left()) found.resize(tries_left());
  return found;
}

bool ProblemTuner::finished() const {
  // A resumed run may ask for workloads that the interrupted one did not have.
  return bench_.journal.finished(task_.problem) && every_point_served();
}

void ProblemTuner::compile_ahead() {
  if (finished()) return;
  bench_.pool.request(task_.problem, untried(kFirstVariants));
}

Status ProblemTuner::run(double deadline, double run_deadline, const std::string& label) {
  label_ = label;
  run_deadline_ = run_deadline;
  if (finished()) return {};
  const double start = bench_.progress.elapsed(), share = deadline - start;
  compile_ahead();
  GLA_RETURN_IF_ERROR(explore(untried(kFirstVariants), start + kRankingShare * share));
  while (bench_.progress.elapsed() < start + kSearchShare * share) {
    std::vector<Variant> candidates;
    if (task_.variants.empty()) candidates = winners_neighbours();
    if (candidates.empty()) candidates = untried(kLaterVariants);
    if (candidates.empty()) break;
    bench_.pool.request(task_.problem, candidates, true);
    GLA_RETURN_IF_ERROR(explore(std::move(candidates), start + kSearchShare * share));
  }
  bench_.pool.cancel(task_.problem);
  GLA_RETURN_IF_ERROR(race(deadline));
  GLA_RETURN_IF_ERROR(check_packed_forms());
  if (!task_.variants.empty()) GLA_RETURN_IF_ERROR(check_renewed());
  return bench_.journal.finish(task_.problem);
}

Status ProblemTuner::explore(std::vector<Variant> candidates, double until) {
  while (!candidates.empty()) {
    // A problem that has no winner yet may borrow from the rest of the run.
    const double limit = every_point_served() ? until : std::max(until, run_deadline_);
    const double left = limit - bench_.progress.elapsed();
    if (left <= 0) return {};
    show_progress();
    const auto ready = bench_.pool.first_ready(task_.problem, candidates, std::min(left, 0.5));
    if (!ready) continue;
    const Variant variant = candidates[*ready];
    candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(*ready));
    GLA_RETURN_IF_ERROR(try_variant(variant));
  }
  return {};
}

Status ProblemTuner::try_variant(const Variant& variant) {
  Record& record = record_of(variant);
  if (record.complete()) return {};
  GLA_RETURN_IF_ERROR(verify(variant, record));
  return record.refusal ? Status{} : time_variant(variant, record);
}

Status ProblemTuner::verify(const Variant& variant, Record& record) {
  if (record.verdict || record.refusal) return {};
  const auto compiled = bench_.pool.outcome(task_.problem, variant);
  if (!compiled.ok()) return refuse(variant, record, {"compile", compiled.status().message()});
  const auto answer = bench_.laboratory.verify(task_.problem, variant);
  if (answer.refused()) return refuse(variant, record, answer.refusal);
  if (!answer.value.fast) return refuse(variant, record, {"wrong", answer.value.detail});
  record.verdict = answer.value;
  return bench_.journal.add(task_.problem, variant, answer.value);
}

Status ProblemTuner::refuse(const Variant& variant, Record& record, Refusal refusal) {
  // A laboratory that is gone says nothing about the variant.
  GLA_RETURN_IF_ERROR(bench_.laboratory.health());
  record.refusal = refusal;
  if (++refusals_shown_[refusal.reason] <= kRefusalsShown)
    bench_.progress.note(fmt::format("refused ({}): {}: {}\n  {}", refusal.reason, to_string(task_.problem),
                                     to_string(variant), refusal.detail));
  return bench_.journal.add(task_.problem, variant, refusal);
}

Status ProblemTuner::time_variant(const Variant& variant, Record& record) {
  std::vector<MeasureRequest> requests;
  std::vector<std::size_t> indices;
  const Accuracy accuracy = record.verdict->standard ? Accuracy::standard : Accuracy::fast;
  for (std::size_t w = 0; w < task_.workloads.size(); ++w) {
    if (record.timings[w].seconds > 0) continue;
    indices.push_back(w);
    requests.push_back({task_.workloads[w], kHopeless * best(w, accuracy).seconds});
  }
  const auto answer = bench_.laboratory.measure(task_.problem, variant, requests);
  if (answer.refused()) return refuse(variant, record, answer.refusal);
  std::vector<WorkloadTiming> lines;
  for (std::size_t i = 0; i < indices.size() && i < answer.value.size(); ++i) {
    record.timings[indices[i]] = answer.value[i];
    lines.push_back({task_.workloads[indices[i]], answer.value[i]});
  }
  return bench_.journal.add(task_.problem, variant, lines);
}

Status ProblemTuner::race(double deadline) {
  for (std::size_t w = 0; w < task_.workloads.size(); ++w) {
    std::vector<Variant> finalists;
    for (const Accuracy accuracy : kAllAccuracies) {
      const Best winner = best(w, accuracy);
      if (winner.variant == nullptr) continue;
      std::vector<std::pair<double, Variant>> close;
      for (const auto& [variant, record] : records_) {
        const double seconds = record.timings[w].seconds;
        if (record.refusal || !record.verdict || !record.verdict->reaches(accuracy) || seconds <= 0) continue;
        if (seconds <= kFinalistMargin * winner.seconds) close.emplace_back(seconds, variant);
      }
      std::sort(close.begin(), close.end());
      close.resize(std::min(close.size(), kMostFinalists));
      for (const auto& [seconds, variant] : close)
        if (std::find(finalists.begin(), finalists.end(), variant) == finalists.end())
          finalists.push_back(variant);
    }
    if (finalists.size() < 2 || bench_.progress.elapsed() >= deadline) continue;
    show_progress();
    const auto answer = bench_.laboratory.contest(task_.problem, task_.workloads[w], finalists);
    GLA_RETURN_IF_ERROR(bench_.laboratory.health());
    if (answer.refused()) continue;  // their first timings stand
    for (std::size_t i = 0; i < finalists.size() && i < answer.value.size(); ++i) {
      Timing timing = answer.value[i];
      timing.fallback_share = records_.at(finalists[i]).timings[w].fallback_share;
      records_.at(finalists[i]).timings[w] = timing;
      const WorkloadTiming line{task_.workloads[w], timing};
      GLA_RETURN_IF_ERROR(bench_.journal.add(task_.problem, finalists[i], std::span(&line, 1)));
    }
  }
  return {};
}

Status ProblemTuner::check_packed_forms() {
  // Refusing one makes another one the winner.
  for (std::size_t refused = 1; refused > 0;) {
    std::vector<std::pair<Variant, Variant>> unchecked;
    std::vector<Variant> forms;
    for (const Variant& winner : all_winners()) {
      const Variant form = packed_form(winner);
      if (form == winner || !is_legal(form)) continue;
      unchecked.emplace_back(winner, form);
      if (!record_of(form).verdict && !record_of(form).refusal) forms.push_back(form);
    }
    bench_.pool.request(task_.problem, forms, true);
    refused = 0;
    for (const auto& [winner, form] : unchecked) {
      GLA_RETURN_IF_ERROR(check_packed_form(winner, form));
      if (record_of(winner).refusal) ++refused;
    }
  }
  return {};
}

Status ProblemTuner::check_packed_form(const Variant& winner, const Variant& form) {
  constexpr double kProgressSeconds = 0.5;
  Record& record = record_of(form);
  if (!record.verdict && !record.refusal) {
    while (!bench_.pool.first_ready(task_.problem, std::span(&form, 1), kProgressSeconds)) show_progress();
    GLA_RETURN_IF_ERROR(verify(form, record));
  }
  Record& winners = record_of(winner);
  Answer<Verdict> answer;
  // One may be right, and refused for want of memory for a batch.
  if (record.verdict)
    answer.value = *record.verdict;
  else
    answer.refusal = *record.refusal;
  const auto refusal = refusal_of_packed_form(*winners.verdict, form, answer);
  return refusal ? refuse(winner, winners, *refusal) : Status{};
}

Status ProblemTuner::check_renewed() const {
  std::size_t missing = 0;
  for (const Variant& variant : task_.variants) {
    if (!is_legal(variant))
      bench_.progress.note(fmt::format("left out: {}: {}: not legal on this GPU", to_string(task_.problem),
                                       to_string(variant)));
    else if (!known(variant))
      ++missing;
  }
  if (missing > 0)
    return invalid_argument(
        fmt::format("--budget ended before {} of {} variants of the table to renew were measured for {}; "
                    "what was measured is kept: the same command goes on from there",
                    missing, task_.variants.size(), to_string(task_.problem)));
  if (!every_point_served())
    return {StatusCode::unsupported,
            fmt::format("of the table to renew no variant is right for some points of {}; search for others: "
                        "gla-tune tune --op {} --head-dims {}x{}",
                        to_string(task_.problem), to_string(task_.problem.operation),
                        task_.problem.head_dim_k, task_.problem.head_dim_v)};
  return {};
}

bool ProblemTuner::is_legal(const Variant& variant) const {
  return std::find(space_.begin(), space_.end(), variant) != space_.end();
}

std::vector<Variant> ProblemTuner::all_winners() const {
  std::vector<Variant> winners;
  for (std::size_t w = 0; w < task_.workloads.size(); ++w)
    for (const Accuracy accuracy : kAllAccuracies)
      if (const Best winner = best(w, accuracy);
          winner.variant != nullptr &&
          std::find(winners.begin(), winners.end(), *winner.variant) == winners.end())
        winners.push_back(*winner.variant);
  return winners;
}

ProblemTuner::Best ProblemTuner::best(std::size_t workload, Accuracy accuracy) const {
  Best best;
  for (const auto& [variant, record] : records_) {
    const double seconds = record.timings[workload].seconds;
    if (record.refusal || !record.verdict || !record.verdict->reaches(accuracy) || seconds <= 0) continue;
    if (best.variant == nullptr || seconds < best.seconds) {
      best.runner_up_seconds = best.seconds;
      best.variant = &variant;
      best.seconds = seconds;
    } else if (best.runner_up_seconds <= 0 || seconds < best.runner_up_seconds) {
      best.runner_up_seconds = seconds;
    }
  }
  return best;
}

bool ProblemTuner::every_point_served() const {
  for (std::size_t w = 0; w < task_.workloads.size(); ++w)
    if (best(w, Accuracy::standard).variant == nullptr) return false;
  return true;
}

void ProblemTuner::show_progress() const {
  int tried = 0;
  for (const auto& [variant, record] : records_)
    if (record.refusal || record.measured()) ++tried;
  std::string line = fmt::format("{}: {} of {} variants tried", label_, tried, space_.size());
  if (const Best winner = best(0, Accuracy::standard); winner.variant != nullptr)
    line += fmt::format(", {} in {}", to_string(task_.workloads.front()), format_seconds(winner.seconds));
  bench_.progress.update(line, run_deadline_ - bench_.progress.elapsed());
}

ProblemResult ProblemTuner::result() const {
  ProblemResult result;
  result.table.problem = task_.problem;
  Tally& tally = result.table.tally;
  tally.space = static_cast<int>(space_.size());
  for (const auto& [variant, record] : records_) {
    if (record.refusal) ++tally.refused[record.refusal->reason];
    if (record.verdict) ++tally.verified;
    if (record.verdict || (record.refusal && record.refusal->reason != "compile")) ++tally.compiled;
    if (record.measured() && !record.refusal) ++tally.measured;
  }
  const bool states = timed_with_states(task_.problem.operation);
  for (std::size_t w = 0; w < task_.workloads.size(); ++w) {
    for (const Accuracy accuracy : kAllAccuracies) {
      const Best winner = best(w, accuracy);
      if (winner.variant == nullptr) continue;
      const Record& record = records_.at(*winner.variant);
      Point point;
      point.accuracy = accuracy;
      point.workload = task_.workloads[w];
      point.gates = to_string(Gates::sixteenth);
      point.variant = *winner.variant;
      point.seconds = winner.seconds;
      point.noise = record.timings[w].noise;
      point.fallback_share = record.timings[w].fallback_share;
      point.floor_share =
          floor_bytes(task_.problem, point.workload, states) / bench_.copy_bandwidth / winner.seconds;
      point.error_o = record.verdict->error_o;
      point.error_state = record.verdict->error_state;
      result.table.points.push_back(point);
      result.runner_up_seconds.push_back(winner.runner_up_seconds);
    }
  }
  return result;
}

}  // namespace gla
