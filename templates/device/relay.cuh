// What blocks of one kernel say to each other through global memory, counters that are zero before it. A block waits only for
// blocks that have started before it (count_start), so it never waits for one that has no room to start. On the emulator
// blocks run one after the other, and a wait that is not over is reported.
#pragma once

#include "thread.cuh"

namespace gla {

/// Leaves in a word of shared memory, for all threads of the block, how many blocks have started before it.
GLA_DEVICE void count_start(unsigned int* before, unsigned int* started) {
  if (thread_index() == 0) *before = atomic_add(started, 1u);
  block_sync();
}

/// Counts the warp, and shows what its lanes have written to who waits for that (PTX ISA, red.release).
GLA_DEVICE void hand_on(unsigned int* handed_on) {
  warp_sync();
  if (lane_index() != 0) return;
#if defined(GLA_EMULATOR)
  (void)atomic_add(handed_on, 1u);
#else
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;\n" ::"l"(handed_on) : "memory");
#endif
}

/// Waits, as a warp, until `warps` have handed on. All lanes look, and go on by a vote: behind a loop of one lane the compiler
/// would take the warp for divided.
GLA_DEVICE void wait_for_hand_over(const unsigned int* handed_on, unsigned int warps) {
#if defined(GLA_EMULATOR)
  emulator::expect_count(handed_on, warps);
#else
  unsigned int found;
  while (true) {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(found) : "l"(handed_on) : "memory");
    if (warp_any(found >= warps)) break;
    __nanosleep(100);
  }
#endif
  warp_sync();
}

}  // namespace gla
