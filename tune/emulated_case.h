// One call of a kernel on made-up inputs, run on the emulator and held to the fp64 reference.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "accuracy.h"
#include "backward_args.h"
#include "bars.h"
#include "emulated_tensor.h"
#include "gla/generator/problem.h"
#include "gla/generator/render.h"
#include "gla/generator/variant.h"
#include "machine.h"
#include "outputs.h"
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
  bool final_state = true;  ///< wanted; of a backward operation: its gradient is given, else it is zero
  unsigned gradients = kAllGradients;  ///< wanted of a backward operation, bits of Gradient
  bool in_place = false;               ///< final_state is initial_state's memory
  bool padded = false;                 ///< NaN between rows and heads, which must stay untouched
  bool nan_gate = false;               ///< the last sequence's first gk is NaN in head 0
  bool head_major = false;             ///< tensors lie in memory as [B, H, T, D], not as [B, T, H, D]
  std::optional<float> scale{};        ///< K^-0.5
  int legs = 0;  ///< of every walk that can be cut into legs (generator/render.h, Relaying); 0: none is
  std::uint64_t seed = 1;
  emulator::Options options{};

  std::int64_t sequences() const;
  Layout::Style layout() const { return {padded, head_major}; }
};

/// Values of each output, rows in the order [B, T, heads]; empty if it was not asked for.
struct KernelResult : PerOutput<std::vector<float>> {
  bool untouched =
      true;  ///< padding, and what lies behind the last sequence and the buffers' ends, is as it was
  std::int64_t paths[kPathCounters] = {};  ///< KernelArgs::path_counts
};

/// Errors of each output; all zero if it was not asked for.
struct KernelOutcome : PerOutput<ErrorReport> {
  bool untouched = true;
  std::int64_t paths[kPathCounters] = {};
};

/// The reference's answer.
using ExpectedOutputs = PerOutput<std::vector<double>>;

/// How a kernel is run.
struct RunOptions {
  Relaying relaying;
  emulator::Options emulator;
};

/// What launches the kernel under test with arguments that miss only the workspace. A forward kernel takes the KernelArgs
/// that are in them.
using LaunchKernel = std::function<void(const BackwardArgs&, const Workload&, const RunOptions&)>;

/// The inputs of a case, rounded to their dtypes: a function of its seed.
ReferenceInput make_inputs(const Problem& problem, const KernelCase& kernel_case);
/// The same, drawn with these seeds: the first for q, then k, v, gk, gv, initial_state.
ReferenceInput make_inputs(const Problem& problem, const KernelCase& kernel_case, std::uint64_t first_seed);
/// Likewise the gradients that a backward operation starts from; none for others. They take the two seeds behind those.
ReferenceLoss make_loss(const ReferenceInput& inputs, const KernelCase& kernel_case);
ReferenceLoss make_loss(const ReferenceInput& inputs, const KernelCase& kernel_case,
                        std::uint64_t first_seed);

/// Runs a kernel on inputs of the case's shape. Every buffer is guarded, as large as documented, aligned to 16 bytes;
/// outputs are poisoned first. `loss` is for backward operations.
KernelResult run_kernel(const ReferenceInput& inputs, const KernelCase& kernel_case,
                        const LaunchKernel& launch, const ReferenceLoss& loss = {});

ExpectedOutputs expected_outputs(const ReferenceInput& inputs, const ReferenceLoss& loss = {});

/// Holds a result to the reference's answer, which may be at hand. How far a NaN gate reaches within its own sequence and head
/// is promised of o only, all of which it makes NaN; their other outputs are not compared.
KernelOutcome judge(const ReferenceInput& inputs, const ExpectedOutputs& expected,
                    const KernelResult& result);
KernelOutcome judge(const ReferenceInput& inputs, const KernelResult& result, const ReferenceLoss& loss = {});

/// All of that.
KernelOutcome run_case(const Problem& problem, const KernelCase& kernel_case, const LaunchKernel& launch);

/// Runs the launches of a plan, with tensor maps where it has boxes: LoadedKernels::launch for the emulator.
void run_plan(const emulator::Program& program, const std::vector<std::string>& entries,
              const LaunchPlan& plan, const KernelArgs& args, const emulator::Options& options);
/// The same of a backward operation: without the launches that are for no gradient that has memory.
void run_plan(const emulator::Program& program, const std::vector<std::string>& entries,
              const LaunchPlan& plan, const BackwardArgs& args, const emulator::Options& options);

/// Compiles a variant for the emulator and returns what launches it, workspace included. Throws std::runtime_error with the
/// compiler's messages.
LaunchKernel kernel_of(const Problem& problem, const Variant& variant, const emulator::Toolchain& toolchain);

/// Empty if the outcome meets the bar, else what is wrong.
std::string complaint(const KernelOutcome& outcome, const Bar& bar);

}  // namespace gla
