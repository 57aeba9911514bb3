// "B1,T8192,H96,D128": a problem's head dims and a workload in one word, as benchmarks write them.
#pragma once

#include <string>
#include <string_view>

#include "gla/generator/problem.h"

namespace gla {

struct Shape {
  Problem problem;  ///< operation, head dims and group are set
  Workload workload;
};

/// B or N sequences, T tokens, H key/value heads, G query heads per key/value head, D or K and V head dims. The
/// operation is recurrent_forward up to 64 tokens and chunk_forward above.
Result<Shape> parse_shape(std::string_view text);
std::string to_string(const Shape& shape);

}  // namespace gla
