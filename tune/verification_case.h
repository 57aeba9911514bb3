// The inputs on which a variant must be right before it is timed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "accuracy.h"
#include "bars.h"
#include "gla/generator/problem.h"
#include "outputs.h"

namespace gla {

struct VerificationCase {
  std::string name;
  Problem problem;
  std::int64_t batch = 1;
  std::int64_t tokens = 1;               ///< T, or the packed total
  std::int64_t heads = 2;                ///< H
  std::vector<std::int64_t> cu_seqlens;  ///< empty: dense
  bool cu_seqlens_is_int64 = false;
  Gates gates = Gates::sixteenth;
  bool initial_state = true;
  bool final_state = true;             ///< wanted; of a backward operation: its gradient is given
  unsigned gradients = kAllGradients;  ///< wanted of a backward operation, bits of Gradient
  bool in_place = false;               ///< final_state is initial_state
  bool padded = false;                 ///< NaN between rows and heads and behind the last row
  bool nan_gate =
      false;        ///< one sequence's first gate is NaN in head 0: it, and nothing else, must be NaN in o
  int legs = 0;     ///< of every walk that can be cut into legs (generator/render.h, Relaying); 0: none is
  float scale = 0;  ///< 0: K^-0.5

  std::int64_t sequences() const;
  Workload workload() const;
  /// Sequence lengths, and what is compared.
  std::vector<std::int64_t> lengths() const;
  Extent extent_of(Output output) const { return gla::extent_of(problem, output, lengths(), heads); }
  bool wants(Output output) const { return is_wanted(output, final_state, gradients); }
  /// The sequence whose first gate is NaN.
  std::int64_t nan_sequence() const { return sequences() - 1; }
};

/// What `tune` checks before timing: seconds for a whole space.
std::vector<VerificationCase> quick_cases(const Problem& problem);
/// What `verify` checks: every gate distribution, state and packing.
std::vector<VerificationCase> full_cases(const Problem& problem);
/// The problems that differ from this one in a layout: of the states, or the type of the gates' gradients, and of recurrent
/// problems also the direction, which gates there are, and the type of the states. Their kernels are others.
std::vector<Problem> other_layouts(const Problem& problem);

}  // namespace gla
