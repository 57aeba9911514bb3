// In which order the variants of a problem are tried: the model's ranking first, then neighbours of what won.
#pragma once

#include <span>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla {

/// Variants of `space`, best predicted first: the rankings of all workloads, both accuracy classes and every family are
/// taken in turn, so that the first few hold the favourites of each. A family that the model puts far behind on a
/// workload has no turn there.
std::vector<Variant> ranked(const Problem& problem, std::span<const Variant> space,
                            std::span<const Workload> workloads, const Architecture& architecture);

/// The members of `space` that differ from `variant` in one parameter, by one step among the values that the space has
/// there with all else equal.
std::vector<Variant> neighbours(const Variant& variant, std::span<const Variant> space);

}  // namespace gla
