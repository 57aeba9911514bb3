#include "commands/verify_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "gla/generator/space.h"
#include "problem_json.h"

namespace gla {
namespace {

/// Each variant must reach the classes that it is meant for. What is wrong, empty if nothing is.
std::string fault_of(const Problem& problem, const Variant& variant, const Answer<Verification>& answer) {
  if (answer.refused()) return answer.refusal.reason + ": " + answer.refusal.detail;
  const Verdict& verdict = answer.value.verdict;
  const bool standard = meant_for(problem, variant, Accuracy::standard);
  return (standard ? verdict.standard : verdict.fast) ? "" : verdict.detail;
}

}  // namespace

VerifyReport::VerifyReport(const std::vector<Subject>& subjects, Form form, double budget_seconds,
                           Progress& progress)
    : subjects_(subjects),
      form_(form),
      budget_seconds_(budget_seconds),
      progress_(progress),
      results_(subjects.size()) {
  for (const Subject& subject : subjects) total_ += subject.variants.size();
}

void VerifyReport::now_at(std::size_t subject) {
  const std::lock_guard lock(mutex_);
  const double elapsed = progress_.elapsed();
  const double at_this_pace =
      elapsed / static_cast<double>(std::max<std::size_t>(1, done_)) * static_cast<double>(total_ - done_);
  progress_.update(fmt::format("{} of {} variants, {} failed; now {}", done_, total_, failures_,
                               to_string(subjects_[subject].problem)),
                   done_ == 0 ? -1.0 : std::min(budget_seconds_ - elapsed, at_this_pace));
}

void VerifyReport::add(std::size_t subject, const Variant& variant, Answer<Verification> answer) {
  const std::lock_guard lock(mutex_);
  const Problem& problem = subjects_[subject].problem;
  Verified verified{variant, std::move(answer), {}};
  verified.fault = fault_of(problem, variant, verified.answer);
  ++done_;
  if (!verified.fault.empty()) {
    ++failures_;
    progress_.note(
        fmt::format("FAILED {}\n  {}\n  {}", to_string(problem), to_string(variant), verified.fault));
  }
  results_[subject].push_back(std::move(verified));
}

void VerifyReport::close(std::size_t subject) {
  const std::lock_guard lock(mutex_);
  if (form_ == Form::json) return;
  const std::vector<Verified>& results = results_[subject];
  std::size_t passed = 0;
  double worst_o = 0, worst_state = 0;
  for (const Verified& one : results) {
    passed += one.fault.empty() ? 1 : 0;
    worst_o = std::max(worst_o, one.answer.value.verdict.error_o);
    worst_state = std::max(worst_state, one.answer.value.verdict.error_state);
  }
  const Problem& problem = subjects_[subject].problem;
  fmt::print("{}: {} of {} verified variants pass ({} in all), worst errors {} {:.2e}, {} {:.2e}\n",
             to_string(problem), passed, results.size(), subjects_[subject].variants.size(),
             is_backward(problem.operation) ? "of the tensors" : "o", worst_o,
             is_backward(problem.operation) ? "of the state" : "final state", worst_state);
  if (form_ == Form::every_case) {
    for (const Verified& one : results) {
      fmt::print("  {}\n", to_string(one.variant));
      print_cases(problem, one);
    }
  }
  std::fflush(stdout);
}

ExitCode VerifyReport::finish(const VerifiedOn& on) {
  const std::lock_guard lock(mutex_);
  if (form_ == Form::json) {
    Json problems = Json::array();
    for (std::size_t s = 0; s < subjects_.size(); ++s) {
      Json variants = Json::array();
      for (const Verified& one : results_[s]) variants.push(to_json(subjects_[s].problem, one));
      problems.push(Json::object({{"problem", gla::to_json(subjects_[s].problem)}, {"variants", variants}}));
    }
    fmt::print("{}\n", Json::object({{"device", on.device},
                                     {"architecture", on.architecture},
                                     {"seed", static_cast<std::int64_t>(on.seed)},
                                     {"variants", total_},
                                     {"verified", done_},
                                     {"failures", failures_},
                                     {"problems", problems}})
                           .dump(2));
  } else {
    fmt::print("{} of {} variants verified in {} ({}, {}, seed {}), {} failed\n", done_, total_,
               format_duration(progress_.elapsed()), on.device, on.architecture, on.seed, failures_);
  }
  if (done_ == 0)
    fmt::print(stderr, "gla-tune: nothing was verified: the budget ended before the first of {} variants\n",
               total_);
  return failures_ == 0 && done_ > 0 ? kExitOk : kExitCheckFailed;
}

Json VerifyReport::to_json(const Problem& problem, const Verified& verified) {
  Json cases = Json::array();
  for (const CaseOutcome& outcome : verified.answer.value.cases) {
    Json one = Json::object({{"name", outcome.name}});
    set_errors(one, outcome, problem);
    one.set("default", outcome.standard);
    one.set("fast", outcome.fast);
    one.set("detail", outcome.detail);
    cases.push(std::move(one));
  }
  return Json::object({{"variant", to_string(verified.variant)},
                       {"passed", verified.fault.empty()},
                       {"fault", verified.fault},
                       {"cases", cases}});
}

void VerifyReport::print_cases(const Problem& problem, const Verified& verified) {
  for (const CaseOutcome& outcome : verified.answer.value.cases) {
    std::string errors;
    for (const Output output : outputs_of(problem))
      errors +=
          fmt::format("{}{} {:.2e} ({}{:.2e})", errors.empty() ? "" : ", ", key_of(output),
                      outcome.errors[output], errors.empty() ? "worst head " : "", outcome.worst[output]);
    fmt::print("    {:<48} {}{}\n", outcome.name, errors,
               outcome.standard ? ""
               : outcome.fast   ? "  fast only"
                                : "  FAILS");
  }
}

}  // namespace gla
