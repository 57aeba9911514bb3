// A kernel whose blocks send to each other, for sm_90 and later. It goes on from primitives.cuh, which comes before it.
#ifndef GLA_TESTS_FIDELITY_SEND_PRIMITIVES_CUH
#define GLA_TESTS_FIDELITY_SEND_PRIMITIVES_CUH

#include "device/cluster.cuh"
#include "device/thread.cuh"

namespace gla {

inline constexpr int kTradeThreads = 64, kTradeSharedBytes = 2 * kTradeThreads * 16 + 2 * 8;

/// Clusters of two blocks, rounds through two slots. In: four words per thread and round, an item. Out, five per item: the
/// words of the other block's thread, and the rank.
GLA_DEVICE void trade(const PrimitiveArgs& args) {
  auto* slots = reinterpret_cast<float*>(shared_memory());
  auto* arriving = reinterpret_cast<unsigned long long*>(slots + 2 * kTradeThreads * 4);
  if (thread_index() < 2) barrier_init(arriving + thread_index(), 1);
  cluster_sync();
  int round = 0;
  const int rank = static_cast<int>(block_index() % 2), other = 1 - rank;
  each_item(args, kTradeThreads, [&](long long i) {
    const int which = round % 2, parity = round / 2 % 2;
    float* slot = slots + (which * kTradeThreads + thread_index()) * 4;
    float mine[4];
    for (int j = 0; j < 4; ++j) mine[j] = bits_to_float(args.in[4 * i + j]);
    if (thread_index() == 0) barrier_arrive_expect(arriving + which, kTradeThreads * 16);
    send(RemoteAddress(slot, other), mine, RemoteAddress(arriving + which, other));
    barrier_wait_for_cluster(arriving + which, parity);
    for (int j = 0; j < 4; ++j) args.out[5 * i + j] = float_to_bits(slot[j]);
    args.out[5 * i + 4] = static_cast<Bits32>(rank);
    ++round;
  });
}

}  // namespace gla

#endif
