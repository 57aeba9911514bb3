#include "gla/generator/space.h"

#include <algorithm>

#include "family_space.h"
#include "names.h"

namespace gla {
namespace {

// Packed sequences that are cut are cut into halves of what each block that there is room for has to walk.
constexpr int kPackedSegments = 2;

/// Appends every legal variant that agrees with `variant` on the parameters before `index`.
void enumerate(const FamilySpace& family, std::size_t index, Variant& variant, std::vector<Variant>& found) {
  if (index == family.parameters.size()) {
    if (family.constraints(variant).ok()) found.push_back(variant);
    return;
  }
  for (std::int16_t value : family.parameters[index].values) {
    const Parameter parameter = family.parameters[index].parameter;
    variant.set(parameter, value);
    if (family.hopeless != nullptr && family.hopeless(variant, parameter)) continue;
    enumerate(family, index + 1, variant, found);
  }
}

}  // namespace

std::vector<FamilySpace> families_of(const Problem& problem, const Architecture& architecture) {
  if (problem.operation == Operation::recurrent_forward) return {decode_family(problem, architecture)};
  if (problem.operation == Operation::chunk_backward) return {walks_family(problem, architecture)};
  if (problem.operation == Operation::recurrent_backward) return {lines_family(problem, architecture)};
  return {chunk_family(problem, architecture, Family::fused),
          chunk_family(problem, architecture, Family::overlapped),
          chunk_family(problem, architecture, Family::segmented),
          // Exact fp32 products, and no head dim is too large for it.
          decode_family(problem, architecture)};
}

const FamilyKernels& kernels_of(Family family) {
  switch (family) {
    case Family::decode:
      return decode_kernels();
    case Family::walks:
      return walks_kernels();
    case Family::lines:
      return lines_kernels();
    case Family::fused:
    case Family::overlapped:
    case Family::segmented:
      break;
  }
  return chunk_kernels();
}

Status check(const Problem& problem, const Architecture& architecture, const Variant& variant) {
  if (Status status = check(problem); !status.ok()) return status;
  for (const FamilySpace& family : families_of(problem, architecture)) {
    if (family.family != variant.family) continue;
    Variant rest = variant;
    for (const ParameterValues& parameter : family.parameters) {
      const int value = variant[parameter.parameter];
      if (std::find(parameter.values.begin(), parameter.values.end(), value) == parameter.values.end()) {
        return invalid_argument(fmt::format("{} is {}; accepted for this problem: {}",
                                            to_string(parameter.parameter), value,
                                            fmt::join(parameter.values, ", ")));
      }
      rest.set(parameter.parameter, 0);
    }
    if (rest != Variant{variant.family, {}})
      return invalid_argument(
          fmt::format("variant sets a parameter that family {} does not have", to_string(variant.family)));
    return family.constraints(variant);
  }
  return invalid_argument(
      fmt::format("family {} does not serve {}", to_string(variant.family), to_string(problem.operation)));
}

std::vector<Variant> space(const Problem& problem, const Architecture& architecture) {
  std::vector<Variant> found;
  for (const FamilySpace& family : families_of(problem, architecture)) {
    Variant variant;
    variant.family = family.family;
    enumerate(family, 0, variant, found);
  }
  return found;
}

Variant packed_form(const Variant& variant) {
  Variant form = variant;
  switch (variant.family) {
    case Family::fused:
    case Family::overlapped:
    case Family::segmented:
      form.family = Family::segmented;
      form.set(Parameter::segments, kPackedSegments);
      return form;
    case Family::walks:
      form.set(Parameter::segments, kPackedSegments);
      return form;
    case Family::decode:
    case Family::lines:
      return form;
  }
  return form;
}

bool meant_for(const Problem& problem, const Variant& variant, Accuracy accuracy) {
  if (variant.family == Family::decode || variant.family == Family::lines) return true;  // fp32 throughout
  const int score_parts = variant[Parameter::score_parts];
  const int state_parts = variant[Parameter::state_parts];
  const bool standard = accuracy == Accuracy::standard;
  switch (problem.dtype) {  // DESIGN section 5, "Operand precision"
    case DType::bf16:
      return !standard ||
             (score_parts >= 2 && (state_parts >= 2 || variant[Parameter::chunk] > kSplitStateChunk));
    case DType::fp16:
      return score_parts >= 2 && state_parts >= 2;
    case DType::fp32:
      return state_parts >= (standard ? 3 : 2);
  }
  return false;
}

}  // namespace gla
