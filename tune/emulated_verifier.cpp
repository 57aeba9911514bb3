#include "emulated_verifier.h"

#include <exception>
#include <string>

#include "case_fill.h"
#include "random.h"

namespace gla {
namespace {

constexpr std::uint64_t kOrders = 3;
constexpr std::uint64_t kSeedsPerDraw = 10;  // more than a case has tensors

CaseErrors errors_of(const KernelOutcome& outcome) {
  return {outcome,
          outcome.untouched ? "" : "an output was written between its rows or behind the last sequence"};
}

}  // namespace

KernelCase kernel_case_of(const VerificationCase& spec, std::uint64_t seed, std::size_t index) {
  KernelCase one{.batch = spec.batch,
                 .tokens = spec.tokens,
                 .heads = spec.heads,
                 .cu_seqlens = spec.cu_seqlens,
                 .cu_seqlens_is_int64 = spec.cu_seqlens_is_int64,
                 .gates = spec.gates,
                 .initial_state = spec.initial_state,
                 .final_state = spec.final_state,
                 .gradients = spec.gradients,
                 .in_place = spec.in_place,
                 .padded = spec.padded,
                 .nan_gate = spec.nan_gate,
                 .legs = spec.legs};
  if (spec.scale != 0) one.scale = spec.scale;
  one.options = {static_cast<emulator::Order>((seed + index) % kOrders), random_bits(seed, index)};
  return one;
}

EmulatedVerifier::EmulatedVerifier(const emulator::Toolchain& toolchain,
                                   const std::vector<VerificationCase>& cases, std::uint64_t seed)
    : toolchain_(toolchain), problem_(cases.front().problem), seed_(seed) {
  for (const VerificationCase& spec : cases) {
    Prepared& one = cases_.emplace_back();
    one.spec = spec;
    one.kernel_case = kernel_case_of(spec, seed, cases_.size() - 1);
  }
}

void EmulatedVerifier::prepare(Prepared& one) const {
  std::call_once(one.once, [&] {
    const std::uint64_t first_seed = kFirstCaseSeed + kSeedsPerDraw * (seed_ - kGpuSeed);
    one.inputs = make_inputs(one.spec.problem, one.kernel_case, first_seed);
    one.loss = make_loss(one.inputs, one.kernel_case, first_seed);
    one.expected = expected_outputs(one.inputs, one.loss);
  });
}

Answer<Verification> EmulatedVerifier::verify(const Variant& variant) {
  Verification verification;
  std::string step;
  const auto refused = [&](const char* reason, const std::exception& error) {
    return Answer<Verification>{{}, {reason, step + error.what()}};
  };
  try {
    const LaunchKernel kernel = kernel_of(problem_, variant, toolchain_);
    for (Prepared& one : cases_) {
      step = one.spec.name + ": ";
      prepare(one);
      const KernelResult result = run_kernel(one.inputs, one.kernel_case, kernel, one.loss);
      const KernelOutcome outcome = judge(one.inputs, one.expected, result);
      verification.cases.push_back(judge(one.spec, errors_of(outcome)));
    }
  } catch (const emulator::Fault& fault) {
    return refused("launch", fault);
  } catch (const std::exception& error) {
    return refused(step.empty() ? "compile" : "error", error);
  }
  verification.verdict = conclude(verification.cases);
  return {std::move(verification), {}};
}

}  // namespace gla
