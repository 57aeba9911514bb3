// Pieces of generated text that every family uses.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gla/generator/problem.h"
#include "gla/generator/render.h"

namespace gla {

/// The element type's name in templates/device/numeric.cuh.
std::string_view type_name(DType dtype);

/// The headers' #includes and a Config that says everything about the problem; `more` holds further lines of it.
std::string config_text(const Problem& problem, const std::vector<std::string_view>& headers,
                        std::string_view more);

/// Appends a kernel that waits for earlier ones and calls gla::`call` with its argument struct `args`. TensorArgs stay where
/// they are passed, since copies take the addresses of the maps, and their kernels wait by themselves. `cluster`: blocks of one.
void add_entry(Source& source, std::string_view entry, int threads, int min_blocks, std::string_view call,
               std::string_view args_type = "KernelArgs", int cluster = 1);

}  // namespace gla
