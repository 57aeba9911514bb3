// Element types and their conversions. NVRTC runs without toolkit headers, so fp16 and bf16 are bit patterns
// here.
#pragma once

#include "platform.cuh"

namespace gla {

using Bits32 = unsigned int;
using Bits16 = unsigned short;

struct fp16 {
  Bits16 bits;
};
struct bf16 {
  Bits16 bits;
};

/// std::conditional; NVRTC has no standard library.
template <bool Condition, class Yes, class No>
struct Select {
  using type = Yes;
};
template <class Yes, class No>
struct Select<false, Yes, No> {
  using type = No;
};

/// N elements that move as one aligned access.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T item[N];
};

GLA_DEVICE float bits_to_float(Bits32 bits) {
#if defined(GLA_EMULATOR)
  return emulator::bits_to_float(bits);
#else
  return __uint_as_float(bits);
#endif
}

GLA_DEVICE Bits32 float_to_bits(float value) {
#if defined(GLA_EMULATOR)
  return emulator::float_to_bits(value);
#else
  return __float_as_uint(value);
#endif
}

GLA_DEVICE float to_float(float value) {
  return value;
}

GLA_DEVICE float to_float(bf16 value) {
  return bits_to_float(static_cast<Bits32>(value.bits) << 16);
}

GLA_DEVICE float to_float(fp16 value) {
#if defined(GLA_EMULATOR)
  return emulator::half_to_float(value.bits);
#else
  float result;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(result) : "h"(value.bits));
  return result;
#endif
}

/// Round to nearest even. NaN stays NaN.
template <class T>
GLA_DEVICE T from_float(float value);

template <>
GLA_DEVICE float from_float<float>(float value) {
  return value;
}

template <>
GLA_DEVICE bf16 from_float<bf16>(float value) {
#if defined(GLA_EMULATOR)
  return {emulator::float_to_bfloat(value)};
#else
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;\n" : "=h"(result.bits) : "f"(value));
  return result;
#endif
}

template <>
GLA_DEVICE fp16 from_float<fp16>(float value) {
#if defined(GLA_EMULATOR)
  return {emulator::float_to_half(value)};
#else
  fp16 result;
  asm("cvt.rn.f16.f32 %0, %1;\n" : "=h"(result.bits) : "f"(value));
  return result;
#endif
}

/// Two floats rounded to bf16 in one register: `low` in bits 0..15, `high` in bits 16..31, as MMA operands
/// want them.
GLA_DEVICE Bits32 pack_bf16(float low, float high) {
#if defined(GLA_EMULATOR)
  return emulator::float_to_bfloat(low) | static_cast<Bits32>(emulator::float_to_bfloat(high)) << 16;
#else
  Bits32 result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(result) : "f"(high), "f"(low));
  return result;
#endif
}

GLA_DEVICE float low_of(Bits32 packed) {
  return bits_to_float(packed << 16);
}
GLA_DEVICE float high_of(Bits32 packed) {
  return bits_to_float(packed & 0xffff0000u);
}

/// Two neighbouring 16-bit elements in one register, the first in bits 0..15.
template <class T>
GLA_DEVICE Bits32 pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<Bits32>(from_float<T>(high).bits) << 16;
}
template <>
GLA_DEVICE Bits32 pack<bf16>(float low, float high) {
  return pack_bf16(low, high);
}
template <>
GLA_DEVICE Bits32 pack<fp16>(float low, float high) {
#if defined(GLA_EMULATOR)
  return emulator::float_to_half(low) | static_cast<Bits32>(emulator::float_to_half(high)) << 16;
#else
  Bits32 result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(result) : "f"(high), "f"(low));
  return result;
#endif
}
template <class T>
GLA_DEVICE Vector<float, 2> unpack(Bits32 packed) {
  return {to_float(T{static_cast<Bits16>(packed)}), to_float(T{static_cast<Bits16>(packed >> 16)})};
}
template <>
GLA_DEVICE Vector<float, 2> unpack<bf16>(Bits32 packed) {
  return {low_of(packed), high_of(packed)};
}

/// The greater of each pair, NaN if either is NaN.
GLA_DEVICE Bits32 max_bf16(Bits32 a, Bits32 b) {
#if defined(GLA_EMULATOR)
  return emulator::max_bf16x2(a, b);
#else
  Bits32 result;
  asm("max.NaN.bf16x2 %0, %1, %2;\n" : "=r"(result) : "r"(a), "r"(b));
  return result;
#endif
}

/// The greater magnitude of each pair of fp16, NaN if either is NaN.
GLA_DEVICE Bits32 greater_magnitude(Bits32 a, Bits32 b) {
#if defined(GLA_EMULATOR)
  return emulator::max_abs_f16x2(a, b);
#else
  Bits32 result;
  asm("{\n.reg .b32 x, y;\nabs.f16x2 x, %1;\nabs.f16x2 y, %2;\nmax.NaN.f16x2 %0, x, y;\n}\n"
      : "=r"(result)
      : "r"(a), "r"(b));
  return result;
#endif
}

/// 0xffff for each of a pair of fp16 that is at least its counterpart in b, else 0.
GLA_DEVICE Bits32 mask_at_least(Bits32 a, Bits32 b) {
#if defined(GLA_EMULATOR)
  return emulator::mask_ge_f16x2(a, b);
#else
  Bits32 result;
  asm("set.ge.u32.f16x2 %0, %1, %2;\n" : "=r"(result) : "r"(a), "r"(b));
  return result;
#endif
}

/// Writes a pair of floats as the sum of `Parts` bf16 pairs, most significant first: 8, 16 or 24 bits of
/// mantissa.
template <int Parts>
GLA_DEVICE void split_bf16(float low, float high, Bits32 (&parts)[Parts]) {
  GLA_UNROLL
  for (int part = 0; part < Parts; ++part) {
    parts[part] = pack_bf16(low, high);
    low -= low_of(parts[part]);
    high -= high_of(parts[part]);
  }
}

/// The way back: what the parts add up to, the smallest first.
template <int Parts>
GLA_DEVICE void join_bf16(float& low, float& high, const Bits32 (&parts)[Parts]) {
  low = high = 0;
  GLA_UNROLL
  for (int part = Parts - 1; part >= 0; --part) {
    low += low_of(parts[part]);
    high += high_of(parts[part]);
  }
}

/// 2^x by the special-function unit: relative error 2^-22, results under 2^-126 become 0 (PTX
/// ex2.approx.ftz.f32).
GLA_DEVICE float exp2_fast(float x) {
#if defined(GLA_EMULATOR)
  return emulator::exp2_fast(x);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(x));
  return result;
#endif
}

inline constexpr float kLog2E = 1.4426950408889634f;

}  // namespace gla
