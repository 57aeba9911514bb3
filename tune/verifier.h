// Verification on the GPU: a variant against the fp64 reference on a list of cases.
#pragma once

#include <optional>
#include <vector>

#include "case_inputs.h"
#include "judgement.h"
#include "laboratory.h"
#include "tools.h"
#include "verification_case.h"

namespace gla {

/// Inputs and references of one problem's cases, made once and used for every variant.
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
  std::optional<Tools> tools_;
  std::vector<CaseInputs> inputs_;
  DeviceBuffer workspace_;
};

/// The refusal of a status: its code decides the reason.
Refusal refusal_of(const Status& status);

}  // namespace gla
