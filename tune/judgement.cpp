#include "judgement.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "bars.h"

namespace gla {
namespace {

std::string describe(std::string_view output, const ErrorReport& report, double bar) {
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
  for (const Output output : outputs_of(spec.problem)) {
    std::string fault = describe(to_string(output), errors[output], bar[output]);
    if (!fault.empty()) return fault;
  }
  return errors.stray;
}

}  // namespace

CaseOutcome judge(const VerificationCase& spec, const CaseErrors& errors) {
  CaseOutcome outcome{.name = spec.name};
  for (const Output output : kOutputs) {
    outcome.errors[output] = errors[output].overall;
    outcome.worst[output] = errors[output].worst;
  }
  const std::string not_standard = describe(spec, errors, Accuracy::standard);
  const std::string not_fast = describe(spec, errors, Accuracy::fast);
  outcome.standard = not_standard.empty();
  outcome.fast = not_fast.empty();
  outcome.detail = outcome.fast ? not_standard : not_fast;
  return outcome;
}

void set_errors(Json& json, const CaseOutcome& outcome, const Problem& problem) {
  for (const Output output : outputs_of(problem)) {
    json.set(fmt::format("error_{}", key_of(output)), outcome.errors[output]);
    json.set(fmt::format("worst_{}", key_of(output)), outcome.worst[output]);
  }
}

Verdict conclude(const std::vector<CaseOutcome>& cases) {
  Verdict verdict{.standard = true, .fast = true};
  for (const CaseOutcome& outcome : cases) {
    verdict.standard = verdict.standard && outcome.standard;
    // The detail worth keeping is the worse fault: one that keeps out of both classes.
    if (!outcome.detail.empty() && (verdict.detail.empty() || (verdict.fast && !outcome.fast)))
      verdict.detail = outcome.name + ": " + outcome.detail;
    verdict.fast = verdict.fast && outcome.fast;
    for (const Output output : kOutputs) {
      double& worst = is_state(output) ? verdict.error_state : verdict.error_o;
      worst = std::max(worst, outcome.errors[output]);
    }
  }
  return verdict;
}

std::optional<Refusal> refusal_of_packed_form(const Verdict& verdict, const Variant& form,
                                              const Answer<Verdict>& packed) {
  const std::string what = fmt::format("packed sequences, which it serves as '{}': ", to_string(form));
  if (packed.refused()) return Refusal{packed.refusal.reason, what + packed.refusal.detail};
  if (!packed.value.fast || (verdict.standard && !packed.value.standard))
    return Refusal{"wrong", what + packed.value.detail};
  return std::nullopt;
}

}  // namespace gla
