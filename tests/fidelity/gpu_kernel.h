// Programs and variants on the GPU, called as on the emulator: with arguments that point to host memory.
#pragma once

#include <memory>

#include "fidelity/primitive_program.h"
#include "kernel_case.h"
#include "tools.h"

namespace gla::test {

/// The first GPU and a folder of cubins of its own. Everything here throws where compiling, loading or running fails.
class GpuUnderTest {
 public:
  GpuUnderTest();

  /// As kernel_of() of the emulator: what lies in memory travels to the GPU and the outputs back.
  LaunchKernel kernel_of(const Problem& problem, const Variant& variant) const;
  RunPrimitive primitives(const Source& source) const;
  const Architecture& architecture() const;

 private:
  struct Machine;
  std::shared_ptr<Machine> machine_;
};

}  // namespace gla::test
