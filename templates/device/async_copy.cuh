// cp.async: global to shared memory without registers (PTX ISA, "Data movement: cp.async"; sm_80 and later).
#pragma once

#include "platform.cuh"

namespace gla {

/// Starts a copy of `Bytes` bytes (4, 8 or 16; both addresses aligned to it). Not `valid`: zeros are written
/// and nothing is read.
template <int Bytes>
GLA_DEVICE void copy_async(void* shared, const void* global, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
#if defined(GLA_EMULATOR)
  emulator::copy_async(shared, global, Bytes, valid);
#else
  const unsigned int target = static_cast<unsigned int>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(global), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(target), "l"(global), "n"(Bytes),
                 "r"(bytes)
                 : "memory");
  }
#endif
}

/// Closes this thread's group of copies started since the last commit; empty groups count.
GLA_DEVICE void copy_async_commit() {
#if defined(GLA_EMULATOR)
  emulator::copy_async_commit();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

/// Waits until at most `Pending` of this thread's groups are unfinished. Other threads see the data after a
/// barrier, those of its warp after a warp_sync.
template <int Pending>
GLA_DEVICE void copy_async_wait() {
#if defined(GLA_EMULATOR)
  emulator::copy_async_wait(Pending);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Pending) : "memory");
#endif
}

}  // namespace gla
