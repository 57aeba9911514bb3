// The space of a problem: every legal variant on an architecture.
#pragma once

#include <string>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla {

/// Ok if the variant is legal: a value of each parameter's list, every constraint met. Otherwise the first
/// constraint that fails, in words ("tile_v=64 is not a multiple of 16*warps_v=128").
Status check(const Problem& problem, const Architecture& architecture, const Variant& variant);

/// Every legal variant, in a fixed order. Never empty for a problem that check() accepts.
std::vector<Variant> space(const Problem& problem, const Architecture& architecture);

/// The variant that serves packed sequences where this one is best for a batch of their average length: the same kernels of a family
/// that balances their lengths, if its operation has one.
Variant packed_form(const Variant& variant);

/// True if the variant's operand precision is meant for the accuracy class (the verification decides).
bool meant_for(const Problem& problem, const Variant& variant, Accuracy accuracy);

}  // namespace gla
