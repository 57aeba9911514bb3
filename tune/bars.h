// How exact an output must be: PEERS.md, "Accuracy". Standard is 1.1 times FLA's error, fast is twice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "gla/generator/problem.h"
#include "outputs.h"

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
using Bar = PerOutput<double>;

/// A single (sequence, head) is a small sample; it may be this many times above the bar of the whole tensor.
inline constexpr double kSingleHeadAllowance = 4;

constexpr Bar accuracy_bar(const Problem& problem, Gates gates, Accuracy accuracy) {
  const double factor = accuracy == Accuracy::standard ? 1.1 : 2.0;
  // bf16, of each output the loosest that is listed.
  Bar bar{.o = 0.00252,
          .final_state = 0.00158,
          .dq = 0.00191,
          .dk = 0.00208,
          .dv = 0.00227,
          .dgk = 0.00227,
          .dgv = 0.00227,
          .d_initial_state = 0.00246};
  if (problem.dtype == DType::fp16) {  // listed for logsigmoid/16 only
    bar = {0.00054, 0.00020, 0.00050, 0.00047, 0.00049, 0.00062, 0.00062, 0.00029};
  } else if (gates == Gates::sixteenth) {
    bar.d_initial_state = 0.00237;
  } else if (gates == Gates::one) {
    bar = {0.00234, 0.00088, 0.00167, 0.00183, 0.00188, 0.00187, 0.00187, 0.00233};
  } else if (gates == Gates::ten) {
    bar = {0.00232, 0.00011, 0.00166, 0.00182, 0.00183, 0.00176, 0.00176, 0.00246};
  }
  for (const Output output : kOutputs) bar[output] *= factor;
  if (problem.dtype == DType::fp32) {
    for (const Output output : kOutputs) bar[output] = accuracy == Accuracy::standard ? 1e-5 : 1e-3;
  }
  if (problem.operation == Operation::chunk_backward) {
    // dgk is a difference of sums over all later tokens, sum of q dq - k dk, and so collects the rounding of each of them:
    // over 500 tokens about 20 roundings. With logsigmoid it is about as large as its terms, with 10*logsigmoid a tenth.
    if (problem.dtype == DType::fp32) bar.dgk *= gates == Gates::ten ? 100 : 10;
    // Next to nothing passes these gates: dgk is 1e-3 of its terms and less, so that hardly more than its size is asked for.
    if (gates == Gates::hundred) bar.dgk = 0.5;
  }
  // fp16 has few digits for what is so small.
  if (gates == Gates::hundred && problem.dtype == DType::fp16) bar.dgk = bar.dgv = 0.5;
  // Short sequences have few gates among these that anything passes, and so few gradients that count; rounding one of them to
  // bf16 may take half a unit of its last place.
  const bool few = gates == Gates::ten || gates == Gates::hundred;
  if (problem.operation == Operation::recurrent_backward && problem.dtype == DType::bf16 && few)
    bar.dgk = bar.dgv = std::max(bar.dgk, 0x1p-8);
  // In fp32 they show what the walks know of them, but for what cancels where next to nothing passes a gate.
  const bool by_chunks = problem.operation == Operation::chunk_backward;
  if (problem.fp32_gate_gradients && !(by_chunks && gates == Gates::hundred)) {
    const double limit = (accuracy == Accuracy::standard ? 5e-4 : 1e-3) * (few ? 2 : 1);
    bar.dgk = bar.dgv = by_chunks ? limit : 1e-5;
  }
  // A state stored as bf16 is rounded like an output of that type.
  if (problem.state_dtype == DType::bf16) bar.final_state = std::max(bar.final_state, 0.00252 * factor);
  return bar;
}

}  // namespace gla
