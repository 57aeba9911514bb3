// Enumerations and their written names: one table each serves printing and parsing.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "gla/generator/status.h"

namespace gla {

template <class Enum, std::size_t N>
std::string_view name_of(const std::array<std::string_view, N>& names, Enum value) {
  return names[static_cast<std::size_t>(value)];
}

/// The value whose name is `text`; otherwise a status that lists the names.
template <class Enum, std::size_t N>
Result<Enum> value_of(const std::array<std::string_view, N>& names, std::string_view what,
                      std::string_view text) {
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == text) return static_cast<Enum>(i);
  return invalid_argument(
      fmt::format("{} is '{}'; accepted: {}", what, text, fmt::join(names.begin(), names.end(), ", ")));
}

}  // namespace gla
