// The project's one random-input maker: a counter-based generator, so element i of a buffer depends on (seed,
// i) only and the host, the GPU and the emulator draw the same numbers.
#pragma once

#include "device/platform.cuh"

namespace gla {

/// Mixes a 64-bit counter; the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) over seed and
/// counter.
GLA_HOST_DEVICE inline unsigned long long random_bits(unsigned long long seed, unsigned long long counter) {
  unsigned long long z =
      seed * 0xd1342543de82ef95ull + counter * 0x9e3779b97f4a7c15ull + 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/// Uniform in (0, 1).
GLA_HOST_DEVICE inline float random_uniform(unsigned int bits) {
  return (static_cast<float>(bits >> 8) + 0.5f) * 0x1p-24f;
}

/// Standard normal, Box-Muller on the two halves of one draw.
GLA_HOST_DEVICE inline float random_normal(unsigned long long seed, unsigned long long counter) {
  const unsigned long long bits = random_bits(seed, counter);
  const float radius = sqrtf(-2.0f * logf(random_uniform(static_cast<unsigned int>(bits))));
  return radius * cosf(6.283185307179586f * random_uniform(static_cast<unsigned int>(bits >> 32)));
}

/// logsigmoid(x), stable on both sides.
GLA_HOST_DEVICE inline float log_sigmoid(float x) {
  return fminf(x, 0.0f) - log1pf(expf(-fabsf(x)));
}

}  // namespace gla
