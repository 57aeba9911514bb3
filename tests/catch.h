// Catch2, version 2 or 3, under one set of names.
#pragma once

#include <string>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>

using Catch::Approx;

/// For CHECK_THROWS_WITH: the message contains `text`.
inline auto contains_text(const std::string& text) {
  return Catch::Matchers::ContainsSubstring(text);
}
#else
#include <catch2/catch.hpp>

/// For CHECK_THROWS_WITH: the message contains `text`.
inline auto contains_text(const std::string& text) {
  return Catch::Matchers::Contains(text);
}
#endif
