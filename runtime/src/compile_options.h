// What compiler.cpp tells NVRTC and reads from its log; the cache's key covers the first, tests cover the
// second.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/model.h"

namespace gla {

std::vector<std::string> compile_options(const Architecture& architecture);

/// Registers, spills and static shared memory per entry, from ptxas -v; zeros for an entry the log does not
/// mention.
std::vector<KernelResources> parse_resources(std::string_view log, const std::vector<std::string>& entries);

}  // namespace gla
