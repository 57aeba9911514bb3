// Cases of variants on the emulator, compiled from the source tree.
#pragma once

#include "emulated_case.h"
#include "source_toolchain.h"

namespace gla {

inline LaunchKernel kernel_of(const Problem& problem, const Variant& variant) {
  return kernel_of(problem, variant, source_toolchain());
}

}  // namespace gla
