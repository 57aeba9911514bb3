// A compiled variant loaded on a device, ready to launch.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "args.h"
#include "backward_args.h"
#include "compiler.h"
#include "driver.h"
#include "gla/generator/render.h"
#include "side_streams.h"

namespace gla {

/// Functions of one cubin in one context. Unloads on destruction (the context must still exist).
class LoadedKernels {
 public:
  /// Nothing loaded.
  LoadedKernels() = default;
  /// The context must be current. Raises the dynamic shared memory limit of each entry to what `shapes` asks.
  static Result<LoadedKernels> load(const Cubin& cubin, const std::vector<EntryShape>& shapes);
  LoadedKernels(LoadedKernels&& other) noexcept;
  LoadedKernels& operator=(LoadedKernels&& other) noexcept;
  ~LoadedKernels();

  /// Enqueues every launch of the plan with the same arguments.
  template <class Args>
  Status launch(const LaunchPlan& plan, const Args& args, CUstream stream) const {
    return launch_raw(plan, ~0u, &args, nullptr, stream);
  }
  /// Those that the call needs; where the plan has boxes, with the maps of encode_maps(), whose errors it passes on before
  /// anything is enqueued.
  Status launch(const LaunchPlan& plan, const KernelArgs& args, CUstream stream) const;
  Status launch(const LaunchPlan& plan, const BackwardArgs& args, CUstream stream) const;

  CUfunction function(int entry) const { return functions_[static_cast<std::size_t>(entry)]; }

 private:
  /// `counters`: of the plan, null without.
  Status launch_raw(const LaunchPlan& plan, unsigned needed, const void* args, const void* counters,
                    CUstream stream) const;
  struct Manner {
    bool early, high_priority;
  };
  Status launch_one(const Launch& launch, void** parameters, const Manner& manner, CUstream stream) const;

  const driver::Api* api_ = nullptr;
  std::vector<CUmodule> modules_;
  std::vector<CUfunction> functions_;
  std::unique_ptr<SideStreams> side_streams_;
  int high_priority_ = 0;
  /// Before the kernel ahead has ended, for which they wait by themselves (templates/device/launch.cuh).
  bool start_early_ = false;
};

/// Whether the call's final state takes the initial one's place, where it may be there before all who read that have.
inline bool is_in_place(const void* initial_state, const void* final_state) {
  return initial_state != nullptr && initial_state == final_state;
}
/// Whether the call needs a copy of its initial state, which blocks read at any time.
inline bool needs_state_copy(const LaunchPlan& plan, bool in_place) {
  return in_place && plan.reads_late;
}

/// The Relay of a kind of walk in the workspace.
inline Relay relay_in(void* workspace, const LaunchPlan& plan, WalkKind kind) {
  const RelayPlan& relay = plan.relays[static_cast<std::size_t>(kind)];
  if (relay.legs == 0) return {};
  char* const base = static_cast<char*>(workspace);
  return {relay.legs, relay.leg_tokens, reinterpret_cast<float*>(base + relay.states_offset),
          reinterpret_cast<float*>(base + relay.flows_offset),
          reinterpret_cast<unsigned int*>(base + relay.counters_offset)};
}

/// The Schedule of packed sequences.
inline Schedule schedule_in(void* workspace, const SchedulePlan& plan) {
  if (plan.walks == 0) return {};
  Piece* const walks = reinterpret_cast<Piece*>(static_cast<char*>(workspace) + plan.offset);
  return {walks, walks + plan.walks, walks + plan.walks + plan.segments, plan.segments, plan.share};
}

/// The segments of those families that have some, and their place in the workspace. A call that needs a copy of its initial state has
/// that by now, or overlapping segments are one.
inline void place_workspace(KernelArgs& args, const LaunchPlan& plan, void* workspace) {
  const bool in_place = is_in_place(args.initial_state, args.final_state);
  args.segments = needs_state_copy(plan, in_place) ? 1 : plan.segments;
  args.relay = relay_in(workspace, plan, WalkKind::inputs);
  if (plan.segment_tokens == 0) return;
  args.segment_tokens = plan.segment_tokens;
  args.schedule = schedule_in(workspace, plan.schedule);
  args.segments_chain = plan.may_chain && !in_place ? 1 : 0;
  args.segment_states = static_cast<float*>(workspace);
  args.segment_decays = reinterpret_cast<float*>(static_cast<char*>(workspace) + plan.decays_offset);
}

/// The plan's counters, of arguments that have their place in the workspace.
inline const void* counters_of(const KernelArgs& args) {
  return args.relay.counters;
}
inline const void* counters_of(const BackwardArgs& args) {
  // In the order of the launches.
  for (const Relay* relay : {&args.relay, &args.value_relay, &args.key_relay})
    if (relay->counters != nullptr) return relay->counters;
  return nullptr;
}

/// The gradients that have memory: bits of Gradient.
inline unsigned wanted_gradients(const BackwardArgs& args) {
  unsigned wanted = 0;
  if (args.dq.data != nullptr) wanted |= kGradientQ;
  if (args.dk.data != nullptr) wanted |= kGradientK;
  if (args.dv.data != nullptr) wanted |= kGradientV;
  if (args.dgk.data != nullptr) wanted |= kGradientGk;
  if (args.dgv.data != nullptr) wanted |= kGradientGv;
  if (args.d_initial_state != nullptr) wanted |= kGradientState;
  return wanted;
}

/// Of what the launches of a plan are for (Launch::needs), that which a call with these arguments needs.
inline unsigned needed_by(const KernelArgs& args) {
  return args.segments_chain != 0 ? 0 : kSegmentScan;
}
inline unsigned needed_by(const BackwardArgs& args) {
  return wanted_gradients(args);
}

inline void place_workspace(BackwardArgs& args, const LaunchPlan& plan, void* workspace) {
  place_workspace(static_cast<KernelArgs&>(args), plan, workspace);
  if (plan.workspace_bytes == 0) return;
  const auto at = [&](std::size_t offset) {
    return reinterpret_cast<float*>(static_cast<char*>(workspace) + offset);
  };
  args.flows = at(plan.flows_offset);
  args.value_relay = relay_in(workspace, plan, WalkKind::values);
  args.key_relay = relay_in(workspace, plan, WalkKind::keys);
  for (const Launch& launch : plan.launches)
    if (launch.aside) args.values_aside = 1;
  if (plan.segment_tokens == 0) return;
  args.segment_gradients = at(plan.gradients_offset);
  args.segment_gradient_decays = at(plan.gradient_decays_offset);
}

}  // namespace gla
