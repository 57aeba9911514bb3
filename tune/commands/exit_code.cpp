#include "commands/exit_code.h"

#include <fmt/format.h>

#include <cstdio>

namespace gla {

ExitCode exit_code_of(const Status& status) {
  switch (status.code()) {
    case StatusCode::ok:
      return kExitOk;
    case StatusCode::invalid_argument:
    case StatusCode::unsupported:
      return kExitUsage;
    case StatusCode::cuda:
      return kExitNoGpu;
    case StatusCode::compile:
      return kExitCompile;
    case StatusCode::io:
      return kExitIo;
    case StatusCode::format:
      return kExitCheckFailed;
    case StatusCode::not_prepared:
    case StatusCode::workspace:
    case StatusCode::internal:
      break;
  }
  return kExitInternal;
}

ExitCode fail(const Status& status) {
  fmt::print(stderr, "gla-tune: {}\n", status.message());
  return exit_code_of(status);
}

}  // namespace gla
