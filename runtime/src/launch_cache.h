// Launch plans of recent calls, per thread, in fixed storage: a call of a shape seen before allocates
// nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "gla/generator/problem.h"
#include "gla/generator/render.h"
#include "gla/generator/variant.h"

namespace gla {

/// A LaunchPlan without a vector.
struct FixedPlan {
  static constexpr std::size_t kMostLaunches = 4;

  std::array<Launch, kMostLaunches> storage{};
  std::size_t count = 0;
  std::size_t workspace_bytes = 0;
  std::int64_t segment_tokens = 0;
  std::int64_t segments = 0;
  std::size_t decays_offset = 0;

  std::span<const Launch> launches() const { return {storage.data(), count}; }
};

/// The plan of a variant for a workload. `id` names (problem, variant) uniquely in the process
/// (next_plan_id). The reference is good until this thread's next call.
const FixedPlan& recent_plan(std::uint64_t id, const Problem& problem, const Variant& variant,
                             const Workload& workload);

std::uint64_t next_plan_id();

}  // namespace gla
