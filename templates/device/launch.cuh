// Kernels that follow each other in a stream (programmatic dependent launch, sm_90 and later; PTX ISA, griddepcontrol). The
// runtime lets every kernel start before the one ahead of it has ended, so every kernel waits before it touches global
// memory, or is one of run_beside(). On the emulator one kernel runs after the other, and a thread that lets the next one
// start and never waits is reported.
#pragma once

#include "platform.cuh"

namespace gla {

/// Lets the next kernel's blocks start as soon as all blocks of this one have, and there is room.
GLA_DEVICE void let_next_kernel_start() {
#if defined(GLA_EMULATOR)
  emulator::launch_dependents();
#else
  if constexpr (kStartsEarly) asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

/// Waits until all kernels before this one are done and what they wrote is visible. Called by all threads of all blocks: a
/// kernel of which some went without could be done before them, and the next would not wait for them either.
GLA_DEVICE void wait_for_earlier_kernels() {
#if defined(GLA_EMULATOR)
  emulator::wait_for_prerequisites();
#else
  if constexpr (kStartsEarly) asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/// The same order for a kernel that, if `beside`, needs nothing of the kernel ahead of it, which must have waited before it let
/// this one start: the two run side by side where there is room. Whoever waits for this one has waited for both.
template <class Work>
GLA_DEVICE void run_beside(bool beside, Work work) {
  if (!beside) wait_for_earlier_kernels();
  let_next_kernel_start();
  work();
  wait_for_earlier_kernels();
}

}  // namespace gla
