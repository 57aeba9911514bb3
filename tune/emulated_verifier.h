// Verification without a GPU: a variant on the emulator against the fp64 reference, on the same cases as on a GPU.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "emulated_case.h"
#include "judgement.h"
#include "program.h"
#include "verification_case.h"

namespace gla {

/// The seed that draws the same inputs as verification on a GPU does.
inline constexpr std::uint64_t kGpuSeed = 1;

/// A verification case for the emulator: threads take turns forward, backward, or as `seed` draws.
KernelCase kernel_case_of(const VerificationCase& spec, std::uint64_t seed, std::size_t index);

/// The cases of one problem, their inputs and the order of threads drawn by a seed. Inputs and references are made when first
/// needed and shared by all variants.
class EmulatedVerifier {
 public:
  EmulatedVerifier(const emulator::Toolchain& toolchain, const std::vector<VerificationCase>& cases,
                   std::uint64_t seed);

  /// `variant` must be legal. Several OS threads may verify variants at once. A refusal is "compile" or, when the emulator stops the kernel, "launch"
  /// with block, thread and source line.
  Answer<Verification> verify(const Variant& variant);

 private:
  struct Prepared {
    VerificationCase spec;
    KernelCase kernel_case;
    std::once_flag once;
    ReferenceInput inputs;
    ReferenceLoss loss;
    ExpectedOutputs expected;
  };
  void prepare(Prepared& one) const;

  emulator::Toolchain toolchain_;
  Problem problem_;
  std::uint64_t seed_;
  std::deque<Prepared> cases_;
};

}  // namespace gla
