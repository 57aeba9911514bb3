// A cost model that ranks variants before anything is measured, and serves where nothing was.
#pragma once

#include <cstdint>
#include <optional>

#include "gla/generator/architecture.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla {

/// What the compiler reports of one kernel; the estimate stands in until it has.
struct KernelResources {
  int registers = 0;
  int spill_bytes = 0;            ///< spill stores plus loads, static
  std::int64_t shared_bytes = 0;  ///< dynamic and static
  int threads = 0;
};

/// Bytes that must move: every input once, every output once (states included when `states`). A backward operation goes over
/// time twice, once in each direction, and so reads q, k, v, gk and d_o twice; it writes dq, dk, dv and dgk once. Those are
/// the 14 passes over a tensor of the comparisons (PEERS.md; bench/side_by_side/floor.py counts likewise); three states.
double floor_bytes(const Problem& problem, const Workload& workload, bool states);

/// Registers per thread that the main kernel of a variant is expected to need.
int estimated_registers(const Problem& problem, const Variant& variant);

/// Predicted seconds: bytes, tensor FLOPs, exponentials, barriers, occupancy and waves. Only the order is
/// trusted.
double predicted_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                         const Architecture& architecture);

/// The legal variant with the least predicted time among those meant for the accuracy class; none if the architecture has
/// none, as for the backward operation at the largest head dims.
std::optional<Variant> model_choice(const Problem& problem, const Workload& workload, Accuracy accuracy,
                                    const Architecture& architecture);

}  // namespace gla
