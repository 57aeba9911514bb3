// What gla-tune's exit codes mean. Scripts rely on them; `gla-tune --help` lists them.
#pragma once

#include "gla/generator/status.h"

namespace gla {

enum ExitCode : int {
  kExitOk = 0,
  kExitCheckFailed = 1,  ///< a variant is wrong, nothing was verified, a table is invalid
  kExitUsage = 2,        ///< the command line
  kExitNoGpu = 3,        ///< a GPU or its driver is needed and missing, or failed
  kExitCompile = 4,      ///< NVRTC (or, to emulate, a C++ compiler) is missing or refused a kernel
  kExitIo = 5,           ///< a file cannot be read or written
  kExitInternal = 6,     ///< a fault of gla-tune
};

ExitCode exit_code_of(const Status& status);

/// Prints "gla-tune: message" to stderr.
ExitCode fail(const Status& status);

}  // namespace gla
