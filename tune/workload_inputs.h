// Random tensors of a workload for timing: as many sets as it takes to outgrow the L2 four times.
#pragma once

#include <vector>

#include "backward_args.h"
#include "bars.h"
#include "gpu.h"
#include "tools.h"

namespace gla {

/// True if tuning gives calls of the operation states, of which a backward operation also takes and writes gradients: decode
/// has them always, training never.
constexpr bool timed_with_states(Operation operation) {
  return operation == Operation::recurrent_forward;
}

class WorkloadInputs {
 public:
  /// `states` as timed_with_states() unless a bench asks otherwise.
  static Result<WorkloadInputs> make(const Gpu& gpu, const Tools& tools, const Problem& problem,
                                     const Workload& workload, Gates gates, bool states);

  int sets() const { return static_cast<int>(sets_.size()); }
  /// Without workspace and counters. Of a backward operation every gradient is wanted, that of the initial state with `states`.
  const BackwardArgs& arguments(int set) const { return sets_[static_cast<std::size_t>(set)]; }
  /// Bytes of one set, outputs included.
  std::size_t set_bytes() const { return set_bytes_; }

 private:
  WorkloadInputs() = default;
  DeviceBuffer arena_;
  DeviceBuffer cu_seqlens_;
  std::vector<BackwardArgs> sets_;
  std::size_t set_bytes_ = 0;
};

}  // namespace gla
