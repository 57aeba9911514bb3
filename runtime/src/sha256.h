// SHA-256 (FIPS 180-4): names and checks the entries of the cubin cache.
#pragma once

#include <string>
#include <string_view>

namespace gla {

/// 64 hexadecimal digits.
std::string sha256(std::string_view bytes);

}  // namespace gla
