// Host-side values of the three element types: rounding to them, and buffers of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gla/generator/problem.h"

namespace gla {

/// The nearest value of the type (ties to even; overflow becomes infinity, NaN stays NaN).
float round_to(DType dtype, float value);

/// The bits that a buffer of the type holds for a value, and back. fp16 and bf16 use the low 16 bits.
std::uint32_t encode(DType dtype, float value);
float decode(DType dtype, std::uint32_t bits);

/// A buffer of the type, and back.
std::vector<std::byte> encode(DType dtype, std::span<const float> values);
std::vector<float> decode(DType dtype, std::span<const std::byte> bytes);

}  // namespace gla
