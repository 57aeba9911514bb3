// Launch plans of recent calls, per thread: a call of a shape seen before allocates
// nothing.
#pragma once

#include <cstdint>

#include "gla/generator/problem.h"
#include "gla/generator/render.h"
#include "gla/generator/variant.h"

namespace gla {

/// The plan of a variant for a workload. `id` names (problem, variant) uniquely in the process
/// (next_plan_id); `relaying` is that of the process's device. The reference is good until this thread's next call.
const LaunchPlan& recent_plan(std::uint64_t id, const Problem& problem, const Variant& variant,
                              const Workload& workload, const Relaying& relaying);

std::uint64_t next_plan_id();

}  // namespace gla
