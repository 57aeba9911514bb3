// The NVRTC library, opened at run time.
#pragma once

#include <nvrtc.h>

#include <filesystem>
#include <string>
#include <vector>

#include "gla/generator/status.h"

namespace gla::nvrtc {

// clang-format off
#define GLA_NVRTC_FUNCTIONS(X)                                                       \
  X(nvrtcVersion) X(nvrtcGetErrorString)                                             \
  X(nvrtcCreateProgram) X(nvrtcDestroyProgram) X(nvrtcCompileProgram)                \
  X(nvrtcGetProgramLogSize) X(nvrtcGetProgramLog) X(nvrtcGetCUBINSize) X(nvrtcGetCUBIN)
// clang-format on

struct Api {
#define GLA_DECLARE(name) decltype(&::name) name = nullptr;
  GLA_NVRTC_FUNCTIONS(GLA_DECLARE)
#undef GLA_DECLARE
  std::string path;     ///< the library's file
  std::string version;  ///< "13.0"
};

/// What is tried, in this order: names, which the loader looks for, and paths. `own_folder`: libgla's.
std::vector<std::string> candidates(const std::filesystem::path& own_folder);

/// The library, or why there is none (a `compile` status that lists what was tried). Opened once,
/// thread-safe.
Result<const Api*> api();

}  // namespace gla::nvrtc
