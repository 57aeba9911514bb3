// The tensors of a verification case on the GPU, and the reference's answer to them.
#pragma once

#include <vector>

#include "gpu.h"
#include "judgement.h"
#include "tools.h"
#include "verification_case.h"

namespace gla {

/// A tensor [batch, token, head, channel] in memory that is NaN wherever no element is.
struct CaseTensor {
  DeviceBuffer buffer;
  Tensor view;
  std::size_t bytes = 0;
};

class CaseInputs {
 public:
  static Result<CaseInputs> make(const Gpu& gpu, const Tools& tools, const VerificationCase& spec);

  const VerificationCase& spec() const { return spec_; }

  /// The arguments of one run: outputs are poisoned first, and an in-place state is the initial one again.
  Result<KernelArgs> poisoned_arguments();

  /// Errors of what the last run left behind.
  Result<CaseErrors> errors(const Tools& tools) const;

 private:
  explicit CaseInputs(const Gpu& gpu, VerificationCase spec) : gpu_(&gpu), spec_(std::move(spec)) {}
  Status make_tensor(const Tools& tools, CaseTensor& tensor, std::int64_t heads, std::int64_t channels,
                     DType dtype, const FillArgs& fill);
  Status make_states(const Tools& tools);
  Status make_cu_seqlens();
  Status make_reference(const Tools& tools);
  Result<std::string> stray_writes() const;

  const Gpu* gpu_;
  VerificationCase spec_;
  CaseTensor q_, k_, v_, gk_, gv_, o_;
  DeviceBuffer initial_state_, final_state_, cu_seqlens_;
  DeviceBuffer reference_o_, reference_state_;
  Tensor reference_view_;
  std::size_t state_elements_ = 0;
};

}  // namespace gla
