// One family's part of a space, declared in one place: the values of each parameter, the constraints between them, and
// how a variant is launched. A family or two have a file each, *_space.cpp.
#pragma once

#include <functional>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/model.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"

namespace gla {

/// The values that a parameter may take for a problem, ascending.
struct ParameterValues {
  Parameter parameter;
  std::vector<std::int16_t> values;
};

struct FamilySpace {
  Family family;
  std::vector<ParameterValues> parameters;  ///< in the order of parameters_of(family)
  /// The first constraint between parameters that fails, in words; ok if none does.
  std::function<Status(const Variant&)> constraints;
  /// Null, or true if constraints refuse every variant with the values so far, `parameter`'s the latest: a space is
  /// enumerated in a fraction of the time.
  bool (*hopeless)(const Variant&, Parameter parameter) = nullptr;
};

/// The longest chunk whose products with the state take two bf16 parts to reach the default accuracy: the shorter the
/// chunk, the more of o comes through the state, which one part rounds.
inline constexpr int kSplitStateChunk = 16;

/// The families that serve a problem's operation.
std::vector<FamilySpace> families_of(const Problem& problem, const Architecture& architecture);

/// Whether cp.async can fetch the rows of q, k, v and gk: 4 bytes at a time at the least.
bool copies_async(const Problem& problem);

/// How the variants of a family become kernels, are launched and ranked.
struct FamilyKernels {
  Source (*render)(const Problem&, const Variant&);
  /// `multiprocessors`: of the device; 0: not known.
  LaunchPlan (*plan)(const Problem&, const Variant&, const Workload&, int multiprocessors);
  std::vector<EntryShape> (*entry_shapes)(const Problem&, const Variant&);
  int (*estimated_registers)(const Problem&, const Variant&);
  double (*predicted_seconds)(const Problem&, const Variant&, const Workload&, const Architecture&);
};
const FamilyKernels& kernels_of(Family family);

/// Cuts the walks of a plan that can be and where it pays, and appends what they need to the workspace (relay.cpp).
void cut_into_legs(LaunchPlan& plan, const Problem& problem, const Workload& workload,
                   const Relaying& relaying);

// chunk_space.cpp
FamilySpace chunk_family(const Problem& problem, const Architecture& architecture, Family family);
const FamilyKernels& chunk_kernels();

// decode_space.cpp
FamilySpace decode_family(const Problem& problem, const Architecture& architecture);
const FamilyKernels& decode_kernels();

// walks_space.cpp
FamilySpace walks_family(const Problem& problem, const Architecture& architecture);
const FamilyKernels& walks_kernels();

// lines_space.cpp
FamilySpace lines_family(const Problem& problem, const Architecture& architecture);
const FamilyKernels& lines_kernels();

}  // namespace gla
