// Clusters on the emulator: blocks that meet, that send to each other in every order, and what is wrong is noticed. Races
// between them are among seeded_fault_test's.
#define GLA_EMULATOR
#include "device/cluster.cuh"

#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "catch.h"
#include "device/thread.cuh"
#include "machine.h"
#include "tensor_map.h"

using namespace gla;
using emulator::launch;
using emulator::Options;
using emulator::Order;
using emulator::Shape;

namespace {

constexpr int kSlotsBytes = 8192, kSharedBytes = kSlotsBytes + 128;

std::vector<Options> all_orders() {
  std::vector<Options> options{{Order::forward, 0}, {Order::backward, 0}};
  for (std::uint64_t seed = 1; seed <= 8; ++seed) options.push_back({Order::random, seed});
  return options;
}

float* slot(int index) {
  return reinterpret_cast<float*>(shared_memory()) + 4 * index;
}
unsigned long long* barriers() {
  return reinterpret_cast<unsigned long long*>(shared_memory() + kSlotsBytes);
}

/// Of this block in a cluster of so many.
int rank_in(int cluster) {
  return static_cast<int>(block_index() % cluster);
}

void send_to(int block, float* at, const float (&values)[4], unsigned long long* arriving) {
  send(RemoteAddress(at, block), values, RemoteAddress(arriving, block));
}

/// What block `block` sends from thread `thread` in a round.
float value(long long block, int thread, int round) {
  return static_cast<float>(1000 * round + 100 * static_cast<int>(block) + thread);
}

/// Rounds in which thread t of every block sends to thread t of each other block of its cluster; returns how many floats
/// of how many are right.
std::pair<int, int> exchange(int grid, int cluster, const Options& options) {
  constexpr int kThreads = 64, kSlots = 2, kRounds = 7;
  int right = 0;
  launch({grid, kThreads, kSharedBytes, cluster}, options, [&] {
    const int me = thread_index(), rank = rank_in(cluster);
    if (me < kSlots) barrier_init(barriers() + me, 1);
    cluster_sync();
    for (int round = 0; round < kRounds; ++round) {
      const int which = round % kSlots, parity = round / kSlots % 2;
      unsigned long long* arriving = barriers() + which;
      const auto slot_of = [&](int sender) { return slot((which * cluster + sender) * kThreads + me); };
      if (me == 5) barrier_arrive_expect(arriving, (cluster - 1) * kThreads * 16);
      const float first = value(block_index(), me, round);
      for (int peer = 0; peer < cluster; ++peer)
        if (peer != rank) send_to(peer, slot_of(rank), {first, -first, first + 0.5f, 2 * first}, arriving);
      barrier_wait_for_cluster(arriving, parity);
      for (int peer = 0; peer < cluster; ++peer) {
        if (peer == rank) continue;
        const float expected = value(block_index() - rank + peer, me, round);
        const float* got = slot_of(peer);
        right += (got[0] == expected) + (got[1] == -expected) + (got[2] == expected + 0.5f) +
                 (got[3] == 2 * expected);
      }
    }
  });
  return {right, grid * (cluster - 1) * kThreads * kRounds * 4};
}

/// What the kernel of a pair of blocks ends in, where thread 0 of each has a barrier of one arrival and runs it alone.
std::string fault_of(const std::function<void(int rank)>& kernel, const Options& options = {}) {
  try {
    launch({2, 32, kSharedBytes, 2}, options, [&] {
      if (thread_index() == 0) barrier_init(barriers(), 1);
      cluster_sync();
      if (thread_index() == 0) kernel(rank_in(2));
    });
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return {};
}

/// In every order.
void reports(const std::string& part, const std::function<void(int rank)>& kernel) {
  for (const Options& options : all_orders()) {
    const std::string fault = fault_of(kernel, options);
    INFO(fault);
    CHECK(fault.find(part) != std::string::npos);
  }
}

void send_to(int block, int index = 0) {
  send_to(block, slot(index), {1, 2, 3, 4}, barriers());
}

}  // namespace

TEST_CASE("a grid that is not of whole clusters, or of clusters of no size, is refused") {
  for (const Shape& shape :
       {Shape{3, 32, 0, 2}, Shape{2, 32, 0, 0}, Shape{2, 32, 0, -1}, Shape{16, 32, 0, 16}})
    CHECK_THROWS_AS(launch(shape, {}, [] {}), std::invalid_argument);
}

TEST_CASE("cluster_sync waits for all threads of all blocks of the cluster, again and again") {
  constexpr int kBlocks = 3, kThreads = 96, kRounds = 4;
  for (const Options& options : all_orders()) {
    int wrong = 0;
    std::vector<int> arrived(2);
    launch({2 * kBlocks, kThreads, 0, kBlocks}, options, [&] {
      int& mine = arrived[static_cast<std::size_t>(block_index() / kBlocks)];
      for (int round = 1; round <= kRounds; ++round) {
        ++mine;
        if (rank_in(kBlocks) == 1) block_sync();
        cluster_sync();
        wrong += mine == round * kBlocks * kThreads ? 0 : 1;
        cluster_sync();
      }
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("a block on its own is a cluster") {
  int visits = 0;
  launch({2, 64, 0}, {}, [&] {
    cluster_sync();
    ++visits;
  });
  CHECK(visits == 128);
}

TEST_CASE("two blocks exchange floats through slots that alternate") {
  for (const Options& options : all_orders()) {
    const auto [right, all] = exchange(4, 2, options);
    CHECK(right == all);
  }
}

TEST_CASE("each of several blocks sends to all others") {
  for (const Options& options : all_orders()) {
    const auto [right, all] = exchange(6, 3, options);
    CHECK(right == all);
  }
}

TEST_CASE("what is sent reads as NaN until a thread has waited for it") {
  int wrong = 0;
  float early = 0;
  for (const Options& options : all_orders()) {
    launch({2, 1, kSharedBytes, 2}, options, [&] {
      barrier_init(barriers(), 1);
      if (rank_in(2) == 1) slot(0)[0] = 5;
      cluster_sync();
      if (rank_in(2) == 0) send_to(1);
      cluster_sync();
      if (rank_in(2) == 0) return;
      early = slot(0)[0];
      barrier_arrive_expect(barriers(), 16);
      barrier_wait_for_cluster(barriers(), 0);
      wrong += slot(0)[0] == 1 ? 0 : 1;
    });
    CHECK(std::isnan(early));
  }
  CHECK(wrong == 0);
}

TEST_CASE(
    "one phase takes what several blocks send and what a tensor load brings, expected before or after") {
  alignas(16) static float in[64];
  for (int i = 0; i < 64; ++i) in[i] = static_cast<float>(i);
  TensorMap map;
  emulator::encode_tensor_map(&map, {in, {64, 1, 1, 1}, {256, 256, 256}, {64, 1, 1, 1}, sizeof(float)});
  for (const bool late : {false, true}) {
    for (const Options& options : all_orders()) {
      int right = 0;
      launch({3, 32, kSharedBytes, 3}, options, [&] {
        if (thread_index() == 0) barrier_init(barriers(), 2);
        cluster_sync();
        if (late && rank_in(3) != 0 && thread_index() == 1) send_to(0, 64 + rank_in(3));
        if (late) cluster_sync();
        if (rank_in(3) == 0) {
          if (thread_index() == 3) {
            barrier_arrive_expect(barriers(), 256);
            tensor_load(slot(0), &map, 0, 0, 0, 0, barriers());
          }
          if (thread_index() == 4) barrier_arrive_expect(barriers(), 32);
          barrier_wait_for_cluster(barriers(), 0);
          right += slot(0)[63] == 63 && slot(65)[1] == 2 && slot(66)[3] == 4 ? 1 : 0;
        } else if (!late && thread_index() == 1) {
          send_to(0, 64 + rank_in(3));
        }
      });
      CHECK(right == 32);
    }
  }
}

TEST_CASE("misuse of send is reported") {
  const auto by_0 = [](const std::function<void()>& kernel) {
    return [=](int rank) {
      if (rank == 0) kernel();
    };
  };
  reports("block 0, thread 0: send to block 2 of a cluster of 2", by_0([] { send_to(2); }));
  reports("send to block -1 of a cluster of 2", by_0([] { send_to(-1); }));
  reports("send to block 0 of a cluster of 2, which sends", by_0([] { send_to(0); }));
  reports("send at byte 4 of shared memory, not a multiple of 16",
          by_0([] { send_to(1, slot(0) + 1, {}, barriers()); }));
  reports("send outside shared memory (byte 8320 of 8320)",
          by_0([] { send_to(1, slot(kSharedBytes / 16), {}, barriers()); }));
  reports("send at byte 4 of shared memory, not a multiple of 8",
          by_0([] { send_to(1, slot(0), {}, reinterpret_cast<unsigned long long*>(slot(0) + 1)); }));
  reports("send to block 1 of a cluster of 2 at what barrier_init has not made a barrier there",
          by_0([] { send_to(1, slot(0), {}, barriers() + 1); }));
  reports("send to block 1 of a cluster of 2 at what barrier_init has not made a barrier there", by_0([] {
            barrier_init(barriers() + 1, 1);
            send_to(1, slot(0), {}, barriers() + 1);
          }));
}

TEST_CASE("a barrier is sent to after a cluster_sync that follows its barrier_init, and not before") {
  for (const bool synced : {false, true}) {
    for (const Options& options : all_orders()) {
      std::string fault;
      try {
        launch({2, 32, kSharedBytes, 2}, options, [&] {
          cluster_sync();
          if (thread_index() == 0) barrier_init(barriers(), 1);
          block_sync();
          if (synced) cluster_sync();
          if (thread_index() != 0) return;
          send_to(1 - rank_in(2));
          barrier_arrive_expect(barriers(), 16);
          barrier_wait_for_cluster(barriers(), 0);
        });
      } catch (const emulator::Fault& caught) {
        fault = caught.what();
      }
      INFO(fault);
      CHECK((fault.find("barrier_init") == std::string::npos) == synced);
      CHECK(fault.empty() == synced);
    }
  }
}

TEST_CASE("waits that nothing sent can end are reported for every block, with what the barrier lacks") {
  const std::string waiting =
      "block 0 cannot go on: 31 threads (first: 1) finished; 1 threads (first: 0) waiting at ";
  const std::string at_0 = "; the barrier at byte 8192 of shared memory, phase 0: ";
  const auto receives = [](int rank, int bytes) {
    if (rank != 0) return;
    barrier_arrive_expect(barriers(), bytes);
    barrier_wait_for_cluster(barriers(), 0);
  };
  reports(waiting + "barrier_wait", [&](int rank) { receives(rank, 16); });
  reports(at_0 + "1 of 1 arrivals, expects 16 bytes, is sent 0", [&](int rank) { receives(rank, 16); });
  reports(at_0 + "1 of 1 arrivals, expects 32 bytes, is sent 16", [&](int rank) {
    if (rank == 1) send_to(0);
    receives(rank, 32);
  });
  reports(waiting + "cluster_sync", [](int rank) {
    if (rank == 0) cluster_sync();
  });
  reports("; block 1 cannot go on: ", [](int) { barrier_wait_for_cluster(barriers(), 0); });
}

TEST_CASE("what is left at the end of the cluster is reported") {
  reports("block 1 ends before anybody has waited for a send", [](int rank) {
    if (rank == 0) send_to(1);
    if (rank == 1) barrier_arrive_expect(barriers(), 16);
  });
  reports("block 1 ends before anybody has waited for a send", [](int rank) {
    if (rank == 0) send_to(1);
  });
  reports("block 0 ends before bytes have come", [](int rank) {
    if (rank == 0) barrier_arrive_expect(barriers(), 16);
  });
}

TEST_CASE("a fault of one block ends its cluster, and the next launch works") {
  for (const Options& options : all_orders()) {
    const std::string fault = fault_of(
        [](int rank) __attribute__((no_sanitize("undefined"))) {
          volatile int* volatile nowhere = nullptr;
          if (rank == 1) *nowhere = 1;
        },
        options);
    INFO(fault);
    CHECK(fault.find("block 1, thread 0: access to address") != std::string::npos);
    const auto [right, all] = exchange(2, 2, options);
    CHECK(right == all);
  }
}
