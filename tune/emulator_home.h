// Where gla-tune compiles the programs that it runs on the emulator: no source tree is needed, only a C++ compiler.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "gla/generator/render.h"
#include "gla/generator/status.h"
#include "program.h"

namespace gla {

/// The emulator's header, embedded at build time, and its digest.
std::span<const EmbeddedFile> embedded_emulator();
std::string_view emulator_hash();

/// The command in the environment variable CXX if it is set, else the compiler that built gla-tune if it is on this machine,
/// else c++.
std::string host_compiler();

/// Writes the embedded headers into a folder inside `folder` that is theirs alone, unless they are there, and keeps programs
/// beside them. A compiler that does not run, or does not take what the emulator asks of it, is a `compile` status.
Result<emulator::Toolchain> emulator_toolchain(const std::filesystem::path& folder);

}  // namespace gla
