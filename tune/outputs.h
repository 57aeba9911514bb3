// What an operation writes: names, types and extents of its outputs, so that who runs, judges and reports kernels need not
// know which operation they are of.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "accuracy.h"
#include "backward_args.h"
#include "gla/generator/problem.h"
#include "gla/generator/render.h"

namespace gla {

enum class Output : std::uint8_t { o, final_state, dq, dk, dv, dgk, dgv, d_initial_state };
inline constexpr Output kOutputs[] = {Output::o,  Output::final_state, Output::dq,  Output::dk,
                                      Output::dv, Output::dgk,         Output::dgv, Output::d_initial_state};

/// Something for each output. What an operation does not write stays as it was made.
template <class T>
struct PerOutput {
  T o{}, final_state{}, dq{}, dk{}, dv{}, dgk{}, dgv{}, d_initial_state{};

  constexpr T& operator[](Output output) { return this->*member(output); }
  constexpr const T& operator[](Output output) const { return this->*member(output); }

 private:
  static constexpr T PerOutput::*member(Output output) {
    constexpr T PerOutput::*kMembers[] = {
        &PerOutput::o,  &PerOutput::final_state, &PerOutput::dq,  &PerOutput::dk,
        &PerOutput::dv, &PerOutput::dgk,         &PerOutput::dgv, &PerOutput::d_initial_state};
    return kMembers[static_cast<std::size_t>(output)];
  }
};

std::string_view to_string(Output output);
/// What reports in JSON call it: "state" for final_state, else the name.
std::string_view key_of(Output output);

/// The problem whose outputs a backward problem differentiates.
Problem forward_of(const Problem& problem);

/// What the problem's operation writes if everything is asked for, o or dq first.
std::vector<Output> outputs_of(const Problem& problem);
/// Whether it is asked for: of forward operations final_state may be left out, of backward ones what is not in `gradients`.
bool is_wanted(Output output, bool final_state, unsigned gradients);

/// [N, H, K, V] or [N, H, V, K]; the others are [B, T, heads, channels].
constexpr bool is_state(Output output) {
  return output == Output::final_state || output == Output::d_initial_state;
}
DType dtype_of(const Problem& problem, Output output);
/// Of sequences of these lengths over `heads` key/value heads.
Extent extent_of(const Problem& problem, Output output, std::vector<std::int64_t> lengths,
                 std::int64_t heads);

/// Where an argument's memory is, and to say where; of a state only the address counts.
Tensor output_of(const BackwardArgs& args, Output output);
void set_output(BackwardArgs& args, Output output, const Tensor& memory);

}  // namespace gla
