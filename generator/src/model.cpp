#include "gla/generator/model.h"

#include "family_space.h"

namespace gla {

double floor_bytes(const Problem& problem, const Workload& workload, bool states) {
  const double heads = static_cast<double>(workload.heads);
  const double tokens = static_cast<double>(workload.tokens) *
                        static_cast<double>(workload.packed ? 1 : workload.sequences) * heads;
  const double element = static_cast<double>(size_of(problem.dtype));
  const double gate = static_cast<double>(size_of(problem.gate_dtype));
  const double k = problem.head_dim_k, v = problem.head_dim_v, group = problem.group;
  const double gate_channels = (problem.gate_k ? k : 0) + (problem.gate_v ? v : 0);
  const double gates = gate * gate_channels;
  const double state = static_cast<double>(workload.sequences) * heads * k * v *
                       static_cast<double>(size_of(problem.state_dtype));
  if (is_backward(problem.operation)) {
    const double inputs = element * (group * k + k + v + group * v) + gates;
    const double outputs = element * (group * k + k + v) +
                           static_cast<double>(size_of(gate_gradient_dtype(problem))) * gate_channels;
    return tokens * (2 * inputs + outputs) + (states ? 3 * state : 0);
  }
  const double rows = element * (k + v + group * (k + v)) + gates;
  return tokens * rows + (states ? 2 * state : 0);
}

int estimated_registers(const Problem& problem, const Variant& variant) {
  return kernels_of(variant.family).estimated_registers(problem, variant);
}

double predicted_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                         const Architecture& architecture) {
  return kernels_of(variant.family).predicted_seconds(problem, variant, workload, architecture);
}

std::optional<Variant> model_choice(const Problem& problem, const Workload& workload, Accuracy accuracy,
                                    const Architecture& architecture) {
  std::optional<Variant> best;
  double least = 0;
  for (const Variant& variant : space(problem, architecture)) {
    if (!meant_for(problem, variant, accuracy)) continue;
    const double seconds = predicted_seconds(problem, variant, workload, architecture);
    if (!best || seconds < least) {
      least = seconds;
      best = variant;
    }
  }
  return best;
}

}  // namespace gla
