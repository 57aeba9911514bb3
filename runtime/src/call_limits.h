// The most of what a call may have, as gla.hpp documents it.
#pragma once

#include <cstdint>
#include <limits>

namespace gla {

inline constexpr std::int64_t kMostCount = std::numeric_limits<std::int32_t>::max();  ///< sequences, heads
inline constexpr std::int64_t kMostTokens = std::int64_t{1} << 40;
inline constexpr std::int64_t kMostRecurrentBackwardTokens = std::int64_t{1} << 30;

}  // namespace gla
