// One call of a forward kernel on made-up inputs, run on the emulator and held to the fp64 reference.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "accuracy.h"
#include "args.h"
#include "bars.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"
#include "machine.h"

namespace gla {

struct KernelCase {
  std::int64_t batch = 1;                ///< B
  std::int64_t tokens = 1;               ///< T; with cu_seqlens the packed total
  std::int64_t heads = 1;                ///< H
  std::vector<std::int64_t> cu_seqlens;  ///< tokens behind the last sequence are NaN and must not be touched
  bool cu_seqlens_is_int64 = false;
  Gates gates = Gates::one;
  bool initial_state = true;
  bool final_state = true;
  bool in_place = false;  ///< final_state is initial_state's memory
  std::optional<float> scale;
  std::int64_t nan_token = -1;  ///< k of this token (of the packed total) is NaN in head 0
  std::uint64_t seed = 1;
  emulator::Options options;

  std::int64_t sequences() const;
};

struct KernelOutcome {
  ErrorReport o;
  ErrorReport final_state;     ///< all zero if none was asked for
  bool untouched = true;       ///< what lies behind the last sequence is as it was
  std::int64_t paths[3] = {};  ///< KernelArgs::path_counts
};

/// What launches the kernel under test with arguments that miss only the workspace.
using LaunchKernel = std::function<void(KernelArgs, const Workload&, const emulator::Options&)>;

/// Runs a case. Every buffer is guarded, as large as documented, aligned to 16 bytes, and poisoned.
KernelOutcome run_case(const Problem& problem, const KernelCase& kernel_case, const LaunchKernel& launch);

/// Compiles a variant for the emulator and returns what launches it, workspace included. Rendered sources are
/// compiled once.
LaunchKernel kernel_of(const Problem& problem, const Variant& variant);

/// Empty if the outcome meets the bar, else what is wrong.
std::string complaint(const KernelOutcome& outcome, const Bar& bar);

}  // namespace gla
