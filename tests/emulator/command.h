// A shell command and what it said.
#pragma once

#include <string>

namespace gla::emulator {

struct CommandResult {
  int status = 0;      ///< as of wait(2)
  std::string output;  ///< standard output; add 2>&1 for both
};

/// Throws std::runtime_error when no shell can be started.
CommandResult run_command(const std::string& command);

}  // namespace gla::emulator
