// Verification on the GPU: a variant against the fp64 reference on a list of cases.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "case_inputs.h"
#include "laboratory.h"
#include "tools.h"
#include "verification_case.h"

namespace gla {

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
CaseOutcome judge(const VerificationCase& spec, const CaseInputs::Errors& errors);
/// A verdict over all cases: a class is reached if every case reaches it.
Verdict conclude(const std::vector<CaseOutcome>& cases);

/// Inputs and references of a problem's cases, made once and used for every variant.
class Verifier {
 public:
  Verifier(const Gpu& gpu, CubinCache& cache, std::vector<VerificationCase> cases)
      : gpu_(&gpu), cache_(&cache), specs_(std::move(cases)) {}

  /// A refusal names the step that failed; a cuda status may have left the context unusable (Gpu::synchronize says).
  Answer<Verification> verify(const Variant& variant);

 private:
  Status make_inputs();
  Status run(const LoadedKernels& kernels, const Variant& variant, CaseInputs& inputs);

  const Gpu* gpu_;
  CubinCache* cache_;
  std::vector<VerificationCase> specs_;
  std::map<Problem, Tools> tools_;
  std::vector<CaseInputs> inputs_;
  DeviceBuffer workspace_;
};

/// The refusal of a status: its code decides the reason.
Refusal refusal_of(const Status& status);

}  // namespace gla
