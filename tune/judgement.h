// From the errors of a variant on each case, made on a GPU or on the emulator, to a verdict on the variant.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "accuracy.h"
#include "laboratory.h"
#include "outputs.h"
#include "verification_case.h"

namespace gla {

/// What a run left behind, against the reference.
struct CaseErrors : PerOutput<ErrorReport> {
  std::string stray = {};  ///< where memory outside the outputs was written, if it was
};

/// What a variant did on one case.
struct CaseOutcome {
  std::string name;
  PerOutput<double> errors = {};
  PerOutput<double> worst = {};  ///< of the worst single (sequence, head)
  bool standard = false;         ///< within the bars of the class
  bool fast = false;
  std::string detail = {};  ///< what was wrong
};

struct Verification {
  Verdict verdict;
  std::vector<CaseOutcome> cases;
};

/// Judges the errors of one case against the bars of both classes.
CaseOutcome judge(const VerificationCase& spec, const CaseErrors& errors);
/// Sets error_KEY and worst_KEY of a JSON object for each output of the problem.
void set_errors(Json& json, const CaseOutcome& outcome, const Problem& problem);
/// A verdict over all cases: a class is reached if every case reaches it.
Verdict conclude(const std::vector<CaseOutcome>& cases);
/// Why a variant of this verdict is out because of `form`, its form for packed sequences, which serves those calls; none if
/// that is as right as the variant itself.
std::optional<Refusal> refusal_of_packed_form(const Verdict& verdict, const Variant& form,
                                              const Answer<Verdict>& packed);

}  // namespace gla
