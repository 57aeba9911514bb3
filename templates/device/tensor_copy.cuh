// Tensor copies: boxes of 4-D global tensors to and from shared memory, one thread a box (PTX ISA, "Tensors" and
// "cp.async.bulk.tensor"; sm_90 and later), and the transaction barriers (PTX ISA, "mbarrier") that tell when they have
// come. Loads, in order:
//   barrier_init(barrier, arrivals), block_sync()        once, the former by one thread
//   barrier_arrive_expect(barrier, bytes)                by one thread, which is one of the arrivals of a phase
//   tensor_load(tile, map, ..., barrier)...              bytes together; writes the tile at some time from here
//   barrier_wait(barrier, parity)                        to here, by every thread that reads it; parities are 0, 1, 0...
// A tile may be loaded again once its readers have met the loading thread, by a barrier of any kind; what threads wrote to
// it needs fence_for_warpgroup() before that. Wgmma may read it at once. Stores:
//   fence_for_warpgroup(), block_sync()                  after the tile was written, by those who wrote
//   tensor_store(map, tile, ...), bulk_commit()          by one thread; reads the tile at some time from here
//   bulk_wait_read<0>()                                  to here, by the same thread
// A box lies in shared memory row after row, the innermost dimension first. Swizzled as the hardware's 128-byte mode, its
// rows are 128 bytes and lie as warpgroup.cuh's panels have them.
#pragma once

#include "platform.cuh"
#include "tensor_map.h"

namespace gla {

#if !defined(GLA_EMULATOR)
/// As instructions for shared memory take it.
GLA_DEVICE unsigned int in_shared(const void* address) {
  return static_cast<unsigned int>(__cvta_generic_to_shared(address));
}
#endif

/// Fetches a map ahead of the copies that need it.
GLA_DEVICE void prefetch_map([[maybe_unused]] const TensorMap& map) {
#if !defined(GLA_EMULATOR)
  asm volatile("prefetch.tensormap [%0];\n" ::"l"(&map) : "memory");
#endif
}

/// Makes 8 bytes of shared memory a barrier of `arrivals` arrivals a phase. Others, and copies, may use it after a
/// block_sync.
GLA_DEVICE void barrier_init(unsigned long long* barrier, int arrivals) {
#if defined(GLA_EMULATOR)
  emulator::mbarrier_init(barrier, arrivals);
#else
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], %1;\nfence.proxy.async.shared::cta;\n" ::"r"(in_shared(barrier)),
      "r"(arrivals)
      : "memory");
#endif
}

/// One of the arrivals of this phase, which lasts until all are in and `bytes` more have come (1048575 at most a phase).
GLA_DEVICE void barrier_arrive_expect(unsigned long long* barrier, int bytes) {
#if defined(GLA_EMULATOR)
  emulator::mbarrier_arrive_expect_tx(barrier, bytes);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(in_shared(barrier)),
               "r"(bytes)
               : "memory");
#endif
}

/// The same without bytes. What this thread has read and written is ordered before what those do who have waited for
/// the phase; for other lanes too, if a warp_sync came before.
GLA_DEVICE void barrier_arrive(unsigned long long* barrier) {
#if defined(GLA_EMULATOR)
  emulator::mbarrier_arrive(barrier);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(in_shared(barrier)) : "memory");
#endif
}

/// How long a thread that waits for a barrier may sleep until it looks again, in ns: it wakes up when the phase ends.
inline constexpr unsigned int kLongestSleep = 1000000;

/// Waits for the end of the phase under way if it is of this parity; else the one before it is, and has ended. Phases count
/// from 0, so parity 1 does not wait at first.
GLA_DEVICE void barrier_wait(unsigned long long* barrier, int parity) {
#if defined(GLA_EMULATOR)
  emulator::mbarrier_wait_parity(barrier, parity);
#else
  unsigned int complete = 0;
  while (complete == 0) {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, %3;\nselp.u32 %0, 1, 0, "
        "p;\n}\n"
        : "=r"(complete)
        : "r"(in_shared(barrier)), "r"(parity), "r"(kLongestSleep)
        : "memory");
  }
#endif
}

/// Starts the copy of the box whose first element is at these places, which may lie outside the tensor: zeros come from
/// there, and count. `shared`: 128-byte aligned, 1024 if the map swizzles. `map`: in global memory, or in a parameter of
/// the kernel that is GLA_GRID_CONSTANT.
GLA_DEVICE void tensor_load(void* shared, const TensorMap* map, int channel, int token, int head, int batch,
                            unsigned long long* barrier) {
#if defined(GLA_EMULATOR)
  emulator::tensor_load(shared, map, {channel, token, head, batch}, barrier);
#else
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];\n" ::"r"(in_shared(shared)),
      "l"(map), "r"(channel), "r"(token), "r"(head), "r"(batch), "r"(in_shared(barrier))
      : "memory");
#endif
}

/// The way back: what lies outside the tensor is not written.
GLA_DEVICE void tensor_store(const TensorMap* map, const void* shared, int channel, int token, int head,
                             int batch) {
#if defined(GLA_EMULATOR)
  emulator::tensor_store(map, shared, {channel, token, head, batch});
#else
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3, %4}], [%5];\n" ::"l"(map),
      "r"(channel), "r"(token), "r"(head), "r"(batch), "r"(in_shared(shared))
      : "memory");
#endif
}

/// Closes this thread's group of stores since the last commit; empty groups count.
GLA_DEVICE void bulk_commit() {
#if defined(GLA_EMULATOR)
  emulator::bulk_commit_group();
#else
  asm volatile("cp.async.bulk.commit_group;\n" ::: "memory");
#endif
}

/// Waits until at most `Pending` of this thread's groups have not read all of their tiles. The end of the kernel tells
/// when all is written.
template <int Pending>
GLA_DEVICE void bulk_wait_read() {
#if defined(GLA_EMULATOR)
  emulator::bulk_wait_group_read(Pending);
#else
  asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(Pending) : "memory");
#endif
}

}  // namespace gla
