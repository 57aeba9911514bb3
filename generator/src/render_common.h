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

/// When a kernel waits for those ahead of it (templates/device/launch.cuh).
enum class Start {
  early,      ///< once it has let the next one start
  waited,     ///< before it does, for that one may run beside it
  by_itself,  ///< the template says when, with something to do before that
};

/// A kernel of a source: it calls gla::`call` with its argument struct `args`.
struct KernelEntry {
  std::string_view name;
  int threads = 1, min_blocks = 1;
  std::string_view call;
  std::string_view args_type =
      "KernelArgs";  ///< those with maps stay where they are passed: copies take the addresses
  int cluster = 1;   ///< blocks of one
  Start start = Start::early;
};
void add_entry(Source& source, const KernelEntry& entry);

}  // namespace gla
