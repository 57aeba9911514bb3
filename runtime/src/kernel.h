// A compiled variant loaded on a device, ready to launch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "args.h"
#include "compiler.h"
#include "driver.h"
#include "gla/generator/render.h"

namespace gla {

/// Functions of one cubin in one context. Unloads on destruction (the context must still exist).
class LoadedKernels {
 public:
  /// The context must be current. Raises the dynamic shared memory limit of each entry to what `shapes` asks.
  static Result<LoadedKernels> load(const Cubin& cubin, const std::vector<EntryShape>& shapes);
  LoadedKernels(LoadedKernels&& other) noexcept;
  LoadedKernels& operator=(LoadedKernels&& other) noexcept;
  ~LoadedKernels();

  /// Enqueues every launch of the plan with the same arguments. `args` is a KernelArgs (or a tool's struct).
  template <class Args>
  Status launch(const LaunchPlan& plan, const Args& args, CUstream stream) const {
    return launch_raw(plan.launches, &args, stream);
  }
  template <class Args>
  Status launch(std::span<const Launch> launches, const Args& args, CUstream stream) const {
    return launch_raw(launches, &args, stream);
  }

  CUfunction function(int entry) const { return functions_[static_cast<std::size_t>(entry)]; }

 private:
  LoadedKernels() = default;
  Status launch_raw(std::span<const Launch> launches, const void* args, CUstream stream) const;
  const driver::Api* api_ = nullptr;
  CUmodule module_ = nullptr;
  std::vector<CUfunction> functions_;
};

/// Slots that the segmented family keeps for a workload: every sequence has as many as its segments, or one to spare.
std::int64_t segment_slots(const Workload& workload, std::int64_t segment_tokens);

/// Points the segmented family's arguments into the workspace: the states [slots, H, K, V] in fp32, then, 256-byte
/// aligned, the decays [slots, H, K]. Nothing for other families (segment_tokens is 0).
void place_workspace(KernelArgs& args, const Problem& problem, std::int64_t segment_tokens,
                     const Workload& workload, void* workspace);
void place_workspace(KernelArgs& args, const Problem& problem, const LaunchPlan& plan,
                     const Workload& workload, void* workspace);

}  // namespace gla
