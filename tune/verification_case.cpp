#include "verification_case.h"

#include <fmt/format.h>

#include <cmath>

namespace gla {
namespace {

// Not a multiple of any chunk size, and close to the 512 tokens that PEERS.md states errors for.
constexpr std::int64_t kChunkTokens = 500;
constexpr std::int64_t kRecurrentTokens = 75;
const std::vector<std::int64_t> kPacked{0, 0, 1, 16, 17, 1000, 1063};
const std::vector<std::int64_t> kPackedRecurrent{0, 0, 1, 16, 17, 60, 63};

bool is_chunk(const Problem& problem) {
  return !is_recurrent(problem.operation);
}

VerificationCase dense_case(const Problem& problem, Gates gates) {
  VerificationCase dense;
  dense.name = fmt::format("dense {}", to_string(gates));
  dense.problem = problem;
  dense.batch = 2;
  dense.tokens = is_chunk(problem) ? kChunkTokens : kRecurrentTokens;
  dense.gates = gates;
  return dense;
}

VerificationCase packed_case(const Problem& problem, Gates gates, bool int64) {
  VerificationCase packed;
  packed.name = fmt::format("packed {} int{} padded", to_string(gates), int64 ? 64 : 32);
  packed.problem = problem;
  packed.cu_seqlens = is_chunk(problem) ? kPacked : kPackedRecurrent;
  packed.tokens = packed.cu_seqlens.back();
  packed.cu_seqlens_is_int64 = int64;
  packed.gates = gates;
  packed.padded = true;
  return packed;
}

/// The same, of chunk operations with every walk that can be in legs.
VerificationCase in_legs(VerificationCase whole) {
  if (!is_chunk(whole.problem)) return whole;
  whole.legs = 3;
  whole.name += " in 3 legs";
  return whole;
}

/// Cases in which only some gradients are wanted: what a kernel leaves behind for another must not need the others' memory. Of
/// 16 bits, chunk_backward's dgk comes with dk (templates/backward_args.h).
template <class Add>
void add_partial_cases(const Problem& problem, Add add) {
  const auto only = [&](unsigned gradients, const char* names) {
    if (!problem.gate_k && (gradients & kGradientGk) != 0) return;
    if (!problem.gate_v && (gradients & kGradientGv) != 0) return;
    add(packed_case(problem, Gates::one, false), names).gradients = gradients;
  };
  only(kGradientQ, " dq only");
  only(kGradientK, " dk only");
  only(kGradientV, " dv only");
  only(kGradientState, " d_initial_state only");
  only(kGradientK | kGradientGk, " dk and dgk only");
  only(kGradientQ | kGradientK | kGradientV, " dq, dk and dv only");
  only(kAllGradients & ~kGradientQ, " without dq");
  if (gate_gradient_dtype(problem) == DType::fp32 || is_recurrent(problem.operation))
    only(kGradientGk, " dgk only");
  only(kGradientGv, " dgv only");
}

}  // namespace

std::int64_t VerificationCase::sequences() const {
  return cu_seqlens.empty() ? batch : static_cast<std::int64_t>(cu_seqlens.size()) - 1;
}

Workload VerificationCase::workload() const {
  return {.sequences = sequences(), .heads = heads, .tokens = tokens, .packed = !cu_seqlens.empty()};
}

std::vector<std::int64_t> VerificationCase::lengths() const {
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(sequences()), tokens);
  for (std::size_t n = 0; n + 1 < cu_seqlens.size(); ++n) lengths[n] = cu_seqlens[n + 1] - cu_seqlens[n];
  return lengths;
}

std::vector<VerificationCase> quick_cases(const Problem& problem) {
  return {dense_case(problem, Gates::sixteenth), in_legs(dense_case(problem, Gates::one)),
          packed_case(problem, Gates::sixteenth, false)};
}

std::vector<VerificationCase> full_cases(const Problem& problem) {
  std::vector<VerificationCase> cases;
  const auto add = [&](VerificationCase one, const char* suffix = "") -> VerificationCase& {
    one.name += suffix;
    cases.push_back(std::move(one));
    return cases.back();
  };
  for (const Gates gates : kAllGates) add(dense_case(problem, gates));
  if (is_chunk(problem))
    for (const Gates gates : {Gates::sixteenth, Gates::resets}) add(in_legs(dense_case(problem, gates)));
  for (const Gates gates : {Gates::sixteenth, Gates::one, Gates::resets}) {
    add(packed_case(problem, gates, false));
    add(packed_case(problem, gates, true), " scaled").scale = 0.3f;
  }
  auto& stateless = add(dense_case(problem, Gates::sixteenth), " without states");
  stateless.initial_state = stateless.final_state = false;
  add(dense_case(problem, Gates::one), " without initial state").initial_state = false;
  add(packed_case(problem, Gates::one, false), " without final state").final_state = false;
  if (is_backward(problem.operation))
    add_partial_cases(problem, add);
  else
    add(in_legs(dense_case(problem, Gates::one)), " in place").in_place = true;
  if (problem.gate_k) add(packed_case(problem, Gates::one, false), " NaN gate").nan_gate = true;

  if (!is_chunk(problem)) {
    auto& step = add(dense_case(problem, Gates::one), " T=1");
    step.tokens = 1;
    step.batch = 16;  // of fewer numbers, rounding alone may be off by more than the bar
  }
  return cases;
}

std::vector<Problem> other_layouts(const Problem& problem) {
  std::vector<Problem> layouts;
  const auto add = [&](auto change) {
    Problem layout = problem;
    change(layout);
    if (layout != problem && check(layout).ok()) layouts.push_back(layout);
  };
  add([](Problem& layout) { layout.state_v_first = !layout.state_v_first; });
  add([](Problem& layout) { layout.fp32_gate_gradients = !layout.fp32_gate_gradients; });
  if (is_chunk(problem)) return layouts;
  add([](Problem& layout) { layout.reverse = !layout.reverse; });
  add([](Problem& layout) { layout.gate_v = !layout.gate_v; });
  add([](Problem& layout) { layout.gate_k = layout.gate_v = false; });
  if (problem.dtype == DType::bf16) add([](Problem& layout) { layout.state_dtype = DType::bf16; });
  return layouts;
}

}  // namespace gla
