// From the errors of a variant on each case, made on a GPU or on the emulator, to a verdict on the variant.
#pragma once

#include <string>
#include <vector>

#include "accuracy.h"
#include "laboratory.h"
#include "verification_case.h"

namespace gla {

/// What a run left behind, against the reference.
struct CaseErrors {
  ErrorReport o, final_state;
  std::string stray = {};  ///< where memory outside the outputs was written, if it was
};

/// What a variant did on one case.
struct CaseOutcome {
  std::string name;
  double error_o = 0;
  double error_state = 0;
  double worst_o = 0;  ///< of the worst single (sequence, head)
  double worst_state = 0;
  bool standard = false;  ///< within the bars of the class
  bool fast = false;
  std::string detail = {};  ///< what was wrong
};

struct Verification {
  Verdict verdict;
  std::vector<CaseOutcome> cases;
};

/// Judges the errors of one case against the bars of both classes.
CaseOutcome judge(const VerificationCase& spec, const CaseErrors& errors);
/// A verdict over all cases: a class is reached if every case reaches it.
Verdict conclude(const std::vector<CaseOutcome>& cases);

}  // namespace gla
