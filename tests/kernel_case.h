// Cases of variants on the emulator, compiled from the source tree.
#pragma once

#include "catch.h"
#include "emulated_case.h"
#include "source_toolchain.h"

namespace gla {

inline LaunchKernel kernel_of(const Problem& problem, const Variant& variant) {
  return kernel_of(problem, variant, source_toolchain());
}

/// Holds a case to the fp64 reference. Small outputs are small samples, so it is held to the looser class; kernel_test has the
/// standard bars.
inline void expect_right(const Problem& problem, const KernelCase& c, const LaunchKernel& kernel) {
  INFO(to_string(problem) << ", " << to_string(c.gates) << ", T=" << c.tokens);
  CHECK(complaint(run_case(problem, c, kernel), accuracy_bar(problem, c.gates, Accuracy::fast)) == "");
}

}  // namespace gla
