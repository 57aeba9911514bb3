// The tensors of a verification case on the GPU, and the reference's answer to them.
#pragma once

#include <optional>
#include <string>

#include "device_reference.h"
#include "gpu.h"
#include "judgement.h"
#include "tools.h"
#include "verification_case.h"

namespace gla {

/// A tensor [batch, token, head, channel] in memory that is NaN wherever no element is. Of a state, only memory.
struct CaseTensor {
  DeviceBuffer buffer;
  Tensor view;
};

class CaseInputs {
 public:
  static Result<CaseInputs> make(const Gpu& gpu, const Tools& tools, const VerificationCase& spec);

  const VerificationCase& spec() const { return spec_; }

  /// The arguments of one run: outputs are poisoned first, and an in-place state is the initial one again.
  Result<BackwardArgs> poisoned_arguments();

  /// Errors of what the last run left behind.
  Result<CaseErrors> errors(const Tools& tools) const;

 private:
  explicit CaseInputs(const Gpu& gpu, VerificationCase spec) : gpu_(&gpu), spec_(std::move(spec)) {}
  /// The view of a tensor that is to be, and the elements that its memory has.
  Tensor view_of(std::int64_t heads, std::int64_t channels) const;
  std::size_t elements_of(const Tensor& view) const;
  Status make_inputs(const Tools& tools);
  Status make_tensor(const Tools& tools, CaseTensor& tensor, std::int64_t heads, std::int64_t channels,
                     DType dtype, const FillArgs& fill);
  Status make_state(const Tools& tools, DeviceBuffer& state, unsigned long long seed) const;
  Status make_outputs();
  Status make_cu_seqlens();
  /// The call without its outputs.
  BackwardArgs inputs() const;
  std::size_t state_elements() const;
  Result<std::string> stray_writes(Output output) const;

  const Gpu* gpu_;
  VerificationCase spec_;
  CaseTensor q_, k_, v_, gk_, gv_, d_o_;
  DeviceBuffer initial_state_, d_final_state_, cu_seqlens_;
  PerOutput<CaseTensor> outputs_;  ///< those that are wanted
  std::optional<DeviceReference> reference_;
};

}  // namespace gla
