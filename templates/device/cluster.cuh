// Clusters: blocks that run at the same time and reach each other's shared memory (PTX ISA, "Cluster of CTAs"; sm_90 and
// later). A kernel is GLA_CLUSTER(size); its blocks 0 .. size - 1 are the first cluster, and so on. In order:
//   barrier_init(arriving, 1)..., cluster_sync()      once, by all blocks
//   barrier_arrive_expect(arriving, bytes)            by one thread of the receiving block, once a phase
//   send(slot, four values, arriving)                 by threads of another block, bytes together, earlier or later in the
//                                                     same phase; writes the receiver's slot at some time from here
//   barrier_wait_for_cluster(arriving, parity)        to here, by every thread of the receiver that reads the slot
// A slot may be sent to again once the sender knows that its readers are done, such as by what they sent afterwards. A block
// may end when all that is sent to it has come.
#pragma once

#include "platform.cuh"
#include "tensor_copy.cuh"

namespace gla {

/// A place in the shared memory of a block of the cluster, which is laid out like this block's.
struct RemoteAddress {
#if defined(GLA_EMULATOR)
  unsigned char* here;
  int block;

  RemoteAddress(void* place, int of_block) : here(static_cast<unsigned char*>(place)), block(of_block) {}
  RemoteAddress operator+(int bytes) const {
    return {here + bytes, block};
  }
#else
  unsigned int address;

  GLA_DEVICE explicit RemoteAddress(unsigned int at) : address(at) {}
  GLA_DEVICE RemoteAddress(const void* place, int block) {
    asm("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(address) : "r"(in_shared(place)), "r"(block));
  }
  GLA_DEVICE RemoteAddress operator+(int bytes) const {
    return RemoteAddress(address + bytes);
  }
#endif
};

/// Barrier of all threads of the cluster; orders shared and global memory among them.
GLA_DEVICE void cluster_sync() {
#if defined(GLA_EMULATOR)
  emulator::cluster_sync();
#else
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
#endif
}

/// Writes 16 bytes to `slot`, a multiple of 16, and counts them at the same block's barrier `arriving`.
GLA_DEVICE void send(RemoteAddress slot, const float (&values)[4], RemoteAddress arriving) {
#if defined(GLA_EMULATOR)
  emulator::send(slot.here, values, reinterpret_cast<unsigned long long*>(arriving.here), slot.block);
#else
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];\n" ::"r"(
          slot.address),
      "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "r"(arriving.address)
      : "memory");
#endif
}

/// barrier_wait for what other blocks have sent.
GLA_DEVICE void barrier_wait_for_cluster(unsigned long long* barrier, int parity) {
#if defined(GLA_EMULATOR)
  emulator::mbarrier_wait_parity(barrier, parity);
#else
  unsigned int complete = 0;
  while (complete == 0) {
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2, "
        "%3;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(complete)
        : "r"(in_shared(barrier)), "r"(parity), "r"(kLongestSleep)
        : "memory");
  }
#endif
}

}  // namespace gla
