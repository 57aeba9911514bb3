#include "fidelity/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace gla::test {
namespace {

float float_of(Word word) {
  return std::bit_cast<float>(word);
}

bool same_special(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : a == b;
}

std::string difference(const char* name, std::span<const float> gpu, std::span<const float> emulated,
                       double limit) {
  if (gpu.size() != emulated.size()) return fmt::format("{}: other sizes; ", name);
  double squared_difference = 0, squared_norm = 0;
  std::int64_t specials = 0;
  for (std::size_t i = 0; i < gpu.size(); ++i) {
    if (std::isfinite(gpu[i]) && std::isfinite(emulated[i])) {
      const double value = emulated[i], off = gpu[i] - value;
      squared_difference += off * off;
      squared_norm += value * value;
    } else if (!same_special(gpu[i], emulated[i])) {
      ++specials;
    }
  }
  std::string text;
  if (specials != 0) text += fmt::format("{}: NaN or inf on one side in {} places; ", name, specials);
  if (!(std::sqrt(squared_difference) <= limit * std::sqrt(squared_norm))) {
    text += fmt::format("{}: differs by {:.2g}, more than {:.2g}; ", name,
                        std::sqrt(squared_difference / squared_norm), limit);
  }
  return text;
}

}  // namespace

std::string difference(std::span<const Word> gpu, std::span<const Word> emulated, const MayBe& may_be) {
  if (gpu.size() != emulated.size()) return "other sizes";
  std::size_t count = 0, first = 0;
  for (std::size_t i = 0; i < gpu.size(); ++i) {
    if (may_be(i, gpu[i], emulated[i])) continue;
    if (count++ == 0) first = i;
  }
  if (count == 0) return "";
  return fmt::format("{} of {} words differ; word {} is {:#010x} on the GPU, {:#010x} on the emulator", count,
                     gpu.size(), first, gpu[first], emulated[first]);
}

bool same_bits(std::size_t, Word gpu, Word emulated) {
  return gpu == emulated;
}

bool same_float(std::size_t, Word gpu, Word emulated) {
  return gpu == emulated || (std::isnan(float_of(gpu)) && std::isnan(float_of(emulated)));
}

bool same_power(std::size_t, Word gpu, Word emulated) {
  constexpr double kBound = 0x1p-22 + 0x1p-24;
  const double a = float_of(gpu), b = float_of(emulated);
  if (same_special(float_of(gpu), float_of(emulated))) return true;
  const double less = std::min(a, b), more = std::max(a, b);
  if (less == 0) return more <= std::numeric_limits<float>::min() * (1 + kBound);
  if (std::isinf(more)) return less >= std::numeric_limits<float>::max() * (1 - kBound);
  return more - less <= kBound * b;
}

MayBe same_sum(std::span<const Word> magnitudes) {
  return [magnitudes](std::size_t i, Word gpu, Word emulated) {
    return std::fabs(static_cast<double>(float_of(gpu)) - float_of(emulated)) <=
           0x1p-18 * float_of(magnitudes[i]);
  };
}

Bar fidelity_bar(const Problem& problem) {
  switch (problem.dtype) {
    case DType::bf16:
      return {.o = 0x1p-10, .final_state = 0x1p-12};
    case DType::fp16:
      return {.o = 0x1p-13, .final_state = 0x1p-16};
    case DType::fp32:
      return {.o = 0x1p-18, .final_state = 0x1p-18};
  }
  return {};
}

std::string difference(const KernelResult& gpu, const KernelResult& emulated, const Bar& bar) {
  std::string text = difference("o", gpu.o, emulated.o, bar.o) +
                     difference("final_state", gpu.final_state, emulated.final_state, bar.final_state);
  if (!gpu.untouched || !emulated.untouched) text += "something behind the last sequence was written; ";
  if (!std::equal(std::begin(gpu.paths), std::end(gpu.paths), std::begin(emulated.paths))) {
    text += fmt::format("paths: {} on the GPU, {} on the emulator; ", fmt::join(gpu.paths, " "),
                        fmt::join(emulated.paths, " "));
  }
  return text;
}

}  // namespace gla::test
