// The seed of tests that draw: the same every time, unless somebody explores.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace gla::test {

/// GLA_TEST_SEED, else 1.
inline std::uint64_t test_seed() {
  const char* text = std::getenv("GLA_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

}  // namespace gla::test
