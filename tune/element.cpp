#include "element.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace gla {
namespace {

std::uint32_t bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

std::uint32_t fp16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00u;
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  if (magnitude < 0x1p-14f) return sign | static_cast<std::uint32_t>(std::nearbyint(magnitude * 0x1p24f));
  const std::uint32_t absolute = bits & 0x7fffffffu;
  // 13 fewer mantissa bits, and an exponent bias of 15 instead of 127.
  return sign | ((absolute + 0xfffu + ((absolute >> 13) & 1u) - (112u << 23)) >> 13);
}

float fp16_value(std::uint32_t bits) {
  const float sign = (bits & 0x8000u) != 0 ? -1.0f : 1.0f;
  const int exponent = static_cast<int>((bits >> 10) & 31u);
  const auto mantissa = static_cast<float>(bits & 0x3ffu);
  if (exponent == 31) return mantissa != 0.0f ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * mantissa * 0x1p-24f;
  return sign * std::ldexp(1.0f + mantissa * 0x1p-10f, exponent - 15);
}

}  // namespace

std::uint32_t encode(DType dtype, float value) {
  switch (dtype) {
    case DType::fp16:
      return fp16_bits(value);
    case DType::bf16:
      return bf16_bits(value);
    case DType::fp32:
      break;
  }
  return std::bit_cast<std::uint32_t>(value);
}

float decode(DType dtype, std::uint32_t bits) {
  switch (dtype) {
    case DType::fp16:
      return fp16_value(bits);
    case DType::bf16:
      return std::bit_cast<float>(bits << 16);
    case DType::fp32:
      break;
  }
  return std::bit_cast<float>(bits);
}

float round_to(DType dtype, float value) {
  return decode(dtype, encode(dtype, value));
}

std::vector<std::byte> encode(DType dtype, std::span<const float> values) {
  const std::size_t size = dtype == DType::fp32 ? 4 : 2;
  std::vector<std::byte> bytes(values.size() * size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint32_t bits = encode(dtype, values[i]);
    std::memcpy(bytes.data() + i * size, &bits, size);  // little-endian hosts only, as CUDA's are
  }
  return bytes;
}

std::vector<float> decode(DType dtype, std::span<const std::byte> bytes) {
  const std::size_t size = dtype == DType::fp32 ? 4 : 2;
  std::vector<float> values(bytes.size() / size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + i * size, size);
    values[i] = decode(dtype, bits);
  }
  return values;
}

}  // namespace gla
