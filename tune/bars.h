// How exact an output must be: PEERS.md, "Accuracy". Standard is 1.1 times FLA's error, fast is twice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "gla/generator/problem.h"

namespace gla {

/// The gates that accuracy is stated for: logsigmoid(normal) times a factor, some with special values mixed
/// in.
enum class Gates : std::uint8_t {
  sixteenth,  ///< logsigmoid/16: what GLA layers have
  one,        ///< logsigmoid
  ten,        ///< 10*logsigmoid
  hundred,    ///< 100*logsigmoid
  resets,     ///< logsigmoid, 1 in 50 gates -inf
  growth,     ///< logsigmoid/16, 1 in 50 gates above 0
};
inline constexpr Gates kAllGates[] = {Gates::sixteenth, Gates::one,    Gates::ten,
                                      Gates::hundred,   Gates::resets, Gates::growth};

constexpr std::string_view to_string(Gates gates) {
  switch (gates) {
    case Gates::sixteenth:
      return "logsigmoid/16";
    case Gates::one:
      return "logsigmoid";
    case Gates::ten:
      return "10*logsigmoid";
    case Gates::hundred:
      return "100*logsigmoid";
    case Gates::resets:
      return "resets";
    case Gates::growth:
      return "growth";
  }
  return "";
}

/// Largest relative error of each output over the whole tensor.
struct Bar {
  double o = 0;
  double final_state = 0;
};

/// A single (sequence, head) is a small sample; it may be this many times above the bar of the whole tensor.
inline constexpr double kSingleHeadAllowance = 4;

constexpr Bar accuracy_bar(const Problem& problem, Gates gates, Accuracy accuracy) {
  const double factor = accuracy == Accuracy::standard ? 1.1 : 2.0;
  Bar fla{0.00252, 0.00158};  // bf16, the loosest that is listed
  if (problem.dtype == DType::fp16) {
    fla = {0.00054, 0.00020};  // listed for logsigmoid/16 only
  } else if (gates == Gates::one) {
    fla = {0.00234, 0.00088};
  } else if (gates == Gates::ten) {
    fla = {0.00232, 0.00011};
  }
  Bar bar{fla.o * factor, fla.final_state * factor};
  if (problem.dtype == DType::fp32) {
    const double fp32 = accuracy == Accuracy::standard ? 1e-5 : 1e-3;
    bar = {fp32, fp32};
  }
  // A state stored as bf16 is rounded like an output of that type.
  if (problem.state_dtype == DType::bf16) bar.final_state = std::max(bar.final_state, 0.00252 * factor);
  return bar;
}

}  // namespace gla
