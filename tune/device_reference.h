// The fp64 reference's answer to a call, on the GPU.
#pragma once

#include <vector>

#include "gpu.h"
#include "outputs.h"
#include "tools.h"

namespace gla {

/// Every output of a problem, in fp32.
class DeviceReference {
 public:
  /// Waits for the GPU. `call`: its inputs; what it says of outputs is not looked at.
  static Result<DeviceReference> make(const Gpu& gpu, const Tools& tools, const Problem& problem,
                                      const BackwardArgs& call);

  /// Sums of squared errors of what a call has written, [sequences, heads of the output]. `value` of a state: its address.
  Result<std::vector<CompareSums>> compare(const Tools& tools, Output output, Tensor value) const;

 private:
  DeviceReference(const Problem& problem, const BackwardArgs& call) : problem_(problem), call_(call) {}
  std::int64_t batch() const { return call_.cu_seqlens == nullptr ? call_.sequences : 1; }
  /// A dense tensor of the output's shape; a state's rows are its tokens.
  Tensor dense(Output output) const;

  Problem problem_;
  BackwardArgs call_;
  PerOutput<DeviceBuffer> answers_;
};

}  // namespace gla
