// Assumptions about indices that the emulator checks.
#pragma once

#include "platform.cuh"

namespace gla {

/// On the emulator a false `holds` ends the kernel, with block, thread and the line outside device/; elsewhere it is
/// nothing.
GLA_DEVICE void expect([[maybe_unused]] bool holds) {
#if defined(GLA_EMULATOR)
  emulator::expect(holds);
#endif
}

}  // namespace gla
