// Emulated programs of the tests: compiled from the source tree.
#pragma once

#include "program.h"

namespace gla {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr emulator::Checks kChecks = emulator::Checks::addresses;
#else
inline constexpr emulator::Checks kChecks = emulator::Checks::accesses;
#endif

/// The compiler of this build, templates/ and emulator.h as they lie in the source tree, a cache in the build folder.
inline const emulator::Toolchain& source_toolchain() {
  static const emulator::Toolchain toolchain = [] {
    emulator::Toolchain made(GLA_HOST_COMPILER, {GLA_TEMPLATES_FOLDER, GLA_EMULATOR_FOLDER},
                             GLA_EMULATOR_CACHE, kChecks);
    made.precompile_headers();
    return made;
  }();
  return toolchain;
}

}  // namespace gla
