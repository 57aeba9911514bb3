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
#include "gla/generator/render.h"
#include "gla/generator/variant.h"
#include "machine.h"
#include "program.h"
#include "reference.h"

namespace gla {

struct KernelCase {
  std::int64_t batch = 1;   ///< B
  std::int64_t tokens = 1;  ///< T; with cu_seqlens the packed total
  std::int64_t heads = 1;   ///< H
  std::vector<std::int64_t>
      cu_seqlens{};  ///< tokens behind the last sequence are NaN and must not be touched
  bool cu_seqlens_is_int64 = false;
  Gates gates = Gates::one;
  bool initial_state = true;
  bool final_state = true;
  bool in_place = false;         ///< final_state is initial_state's memory
  bool padded = false;           ///< NaN between rows and heads, which must stay untouched
  bool nan_gate = false;         ///< the last sequence's first gk is NaN in head 0
  bool head_major = false;       ///< tensors lie in memory as [B, H, T, D], not as [B, T, H, D]
  std::optional<float> scale{};  ///< K^-0.5
  std::uint64_t seed = 1;
  emulator::Options options{};

  std::int64_t sequences() const;
};

struct KernelResult {
  std::vector<float> o;            ///< [B, T, G*H, V]
  std::vector<float> final_state;  ///< empty if none was asked for
  bool untouched =
      true;  ///< padding, and what lies behind the last sequence and the buffers' ends, is as it was
  std::int64_t paths[3] = {};  ///< KernelArgs::path_counts
};

struct KernelOutcome {
  ErrorReport o;
  ErrorReport final_state;  ///< all zero if none was asked for
  bool untouched = true;
  std::int64_t paths[3] = {};
};

/// What launches the kernel under test with arguments that miss only the workspace.
using LaunchKernel = std::function<void(KernelArgs, const Workload&, const emulator::Options&)>;

/// The inputs of a case, rounded to their dtypes: a function of its seed.
ReferenceInput make_inputs(const Problem& problem, const KernelCase& kernel_case);
/// The same, drawn with these seeds: the first for q, then k, v, gk, gv, initial_state.
ReferenceInput make_inputs(const Problem& problem, const KernelCase& kernel_case, std::uint64_t first_seed);

/// Runs a kernel on inputs of the case's shape. Every buffer is guarded, as large as documented, aligned to 16 bytes;
/// outputs are poisoned first.
KernelResult run_kernel(const ReferenceInput& inputs, const KernelCase& kernel_case,
                        const LaunchKernel& launch);

/// Holds a result to the reference's answer, which may be at hand. How far a NaN gate reaches into the state of its own
/// sequence and head is not promised, so that state is not compared.
KernelOutcome judge(const ReferenceInput& inputs, const ReferenceOutput& expected,
                    const KernelResult& result);
KernelOutcome judge(const ReferenceInput& inputs, const KernelResult& result);

/// All of that.
KernelOutcome run_case(const Problem& problem, const KernelCase& kernel_case, const LaunchKernel& launch);

/// Runs the launches of a plan, with tensor maps where it has boxes: LoadedKernels::launch for the emulator.
void run_plan(const emulator::Program& program, const std::vector<std::string>& entries,
              const LaunchPlan& plan, const KernelArgs& args, const emulator::Options& options);

/// Compiles a variant for the emulator and returns what launches it, workspace included. Throws std::runtime_error with the
/// compiler's messages.
LaunchKernel kernel_of(const Problem& problem, const Variant& variant, const emulator::Toolchain& toolchain);

/// Empty if the outcome meets the bar, else what is wrong.
std::string complaint(const KernelOutcome& outcome, const Bar& bar);

}  // namespace gla
