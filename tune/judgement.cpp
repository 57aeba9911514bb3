#include "judgement.h"

#include <fmt/format.h>

#include <algorithm>

#include "bars.h"

namespace gla {
namespace {

std::string describe(const char* output, const ErrorReport& report, double bar) {
  if (report.nan_mismatches > 0)
    return fmt::format("{} has {} NaN or inf elements where the reference has none, or none where it has",
                       output, report.nan_mismatches);
  if (!(report.overall <= bar))
    return fmt::format("{} is off by {:.2g}, more than {:.2g}", output, report.overall, bar);
  if (!(report.worst <= kSingleHeadAllowance * bar))
    return fmt::format("{} of sequence {}, head {} is off by {:.2g}, more than {:.2g}", output,
                       report.worst_sequence, report.worst_head, report.worst, kSingleHeadAllowance * bar);
  return {};
}

std::string describe(const VerificationCase& spec, const CaseErrors& errors, Accuracy accuracy) {
  const Bar bar = accuracy_bar(spec.problem, spec.gates, accuracy);
  std::string fault = describe("o", errors.o, bar.o);
  if (fault.empty()) fault = describe("final_state", errors.final_state, bar.final_state);
  if (fault.empty()) fault = errors.stray;
  return fault;
}

}  // namespace

CaseOutcome judge(const VerificationCase& spec, const CaseErrors& errors) {
  CaseOutcome outcome{.name = spec.name,
                      .error_o = errors.o.overall,
                      .error_state = errors.final_state.overall,
                      .worst_o = errors.o.worst,
                      .worst_state = errors.final_state.worst};
  const std::string not_standard = describe(spec, errors, Accuracy::standard);
  const std::string not_fast = describe(spec, errors, Accuracy::fast);
  outcome.standard = not_standard.empty();
  outcome.fast = not_fast.empty();
  outcome.detail = outcome.fast ? not_standard : not_fast;
  return outcome;
}

Verdict conclude(const std::vector<CaseOutcome>& cases) {
  Verdict verdict{.standard = true, .fast = true};
  for (const CaseOutcome& outcome : cases) {
    verdict.standard = verdict.standard && outcome.standard;
    // The detail worth keeping is the worse fault: one that keeps out of both classes.
    if (!outcome.detail.empty() && (verdict.detail.empty() || (verdict.fast && !outcome.fast)))
      verdict.detail = outcome.name + ": " + outcome.detail;
    verdict.fast = verdict.fast && outcome.fast;
    verdict.error_o = std::max(verdict.error_o, outcome.error_o);
    verdict.error_state = std::max(verdict.error_state, outcome.error_state);
  }
  return verdict;
}

}  // namespace gla
