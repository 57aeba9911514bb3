// How the tensors of a verification case are drawn, on the GPU and on the host alike.
#pragma once

#include "args.h"
#include "bars.h"

namespace gla {

/// The draw that the accuracy bars are applied to as they are: tensor i of q, k, v, gk, gv, initial_state takes
/// kFirstCaseSeed + i.
inline constexpr unsigned long long kFirstCaseSeed = 20261123;

/// q and k of unit variance over K would make o of size sqrt(K): it is scaled by K^-0.5, as models do.
inline FillArgs normal_fill(unsigned long long seed) {
  return {.seed = seed, .fill = static_cast<int>(Fill::normal)};
}

inline FillArgs gate_fill(Gates gates, unsigned long long seed) {
  FillArgs fill{.seed = seed, .fill = static_cast<int>(Fill::log_gate)};
  switch (gates) {
    case Gates::sixteenth:
      fill.scale = 1.0f / 16;
      break;
    case Gates::one:
      break;
    case Gates::ten:
      fill.scale = 10;
      break;
    case Gates::hundred:
      fill.scale = 100;
      break;
    case Gates::resets:
      fill.reset_probability = 0.02f;
      break;
    case Gates::growth:
      fill.scale = 1.0f / 16, fill.growth_probability = 0.02f;
      break;
  }
  return fill;
}

}  // namespace gla
