// cp.async.bulk.tensor, st.async and mbarrier as the PTX ISA specifies them. A load or send is queued at its
// barrier and arrives when nothing else keeps a thread that waits there; a store is queued at its thread and reads
// in the wait that covers its group.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>

#include "block.h"
#include "cluster.h"
#include "emulator.h"
#include "source_line.h"

namespace gla::emulator {
namespace {

constexpr int kBarrierBytes = 8, kMostTransactionBytes = (1 << 20) - 1, kMostArrivals = (1 << 20) - 1;
constexpr int kSentBytes = sizeof PendingSend::values;

TransactionBarrier& barrier_at(Block& block, const char* name, const void* address, void* site) {
  block.require_shared(name, address, kBarrierBytes, site);
  TransactionBarrier* barrier = block.barrier_at(address);
  if (barrier == nullptr)
    block.fail(std::string(name) + " at what barrier_init has not made a barrier", site);
  block.note_access(AccessKind::read, address, kBarrierBytes, site);
  return *barrier;
}

int bytes_in_flight(const TransactionBarrier& barrier) {
  return std::accumulate(barrier.loads.begin(), barrier.loads.end(),
                         static_cast<int>(barrier.sends.size()) * kSentBytes,
                         [](int sum, const PendingBox& load) { return sum + load.tensor.box_bytes(); });
}

/// Calls `move(offset in the box as it lies in shared memory, address)` for each of its elements; the address is null
/// outside the tensor.
template <class Move>
void for_each_element(const PendingBox& copy, Move move) {
  const TiledTensor& tensor = copy.tensor;
  int row = 0;
  for (int batch = 0; batch < tensor.box[3]; ++batch) {
    for (int head = 0; head < tensor.box[2]; ++head) {
      for (int token = 0; token < tensor.box[1]; ++token, ++row) {
        for (int channel = 0; channel < tensor.box[0]; ++channel) {
          const int steps[kTensorDimensions] = {channel, token, head, batch};
          std::int64_t offset = 0;
          bool inside = true;
          for (std::size_t d = 0; d < kTensorDimensions; ++d) {
            const std::int64_t place = std::int64_t{copy.place[d]} + steps[d];
            inside = inside && place >= 0 && place < tensor.sizes[d];
            offset += place * (d == 0 ? tensor.element_bytes : tensor.stride_bytes[d - 1]);
          }
          const int byte = channel * tensor.element_bytes;
          const int swizzled = tensor.swizzle == Swizzle::none ? byte : byte ^ (row % 8 * 16);
          move(row * tensor.row_bytes() + swizzled,
               inside ? static_cast<unsigned char*>(tensor.data) + offset : nullptr);
        }
      }
    }
  }
}

/// The running thread copies, so far as the box lies in the tensor.
void note_global_access(Block& block, AccessKind kind, const PendingBox& copy) {
  if (!block.notes_global_accesses()) return;
  for_each_element(copy, [&](int, const unsigned char* place) {
    if (place != nullptr)
      block.note_global_access(kind, place, static_cast<std::size_t>(copy.tensor.element_bytes),
                               copy.call_site);
  });
}

void deliver(const PendingBox& load) {
  const auto bytes = static_cast<std::size_t>(load.tensor.element_bytes);
  for_each_element(load, [&](int offset, const unsigned char* source) {
    unsigned char* target = load.shared + offset;
    if (source != nullptr) {
      std::memcpy(target, source, bytes);
    } else {
      std::memset(target, 0, bytes);
    }
  });
}

/// Ends the phase if it lacks nothing, or only loads and sends in flight that a thread waits for.
void advance(Block& block, TransactionBarrier& barrier) {
  if (barrier.arrived < barrier.arrivals || barrier.expected_bytes != bytes_in_flight(barrier)) return;
  if (bytes_in_flight(barrier) > 0 && barrier.waiting.empty()) return;
  for (const PendingBox& load : barrier.loads) {
    block.note_load(barrier, load);
    deliver(load);
  }
  for (const PendingSend& sent : barrier.sends) {
    block.note_arrival(barrier, sent);
    std::memcpy(sent.slot, sent.values.data(), kSentBytes);
  }
  barrier.loads.clear();
  barrier.sends.clear();
  barrier.arrived = barrier.expected_bytes = 0;
  ++barrier.phase;
  block.note_complete(barrier);
}

void arrive(const char* name, const void* address, int bytes, void* site) {
  Block& block = *current_block();
  TransactionBarrier& barrier = barrier_at(block, name, address, site);
  if (barrier.arrived == barrier.arrivals)
    block.fail(std::string(name) + " once more than the " + std::to_string(barrier.arrivals) +
                   " times of a phase that is not complete",
               site);
  if (bytes < 0 || barrier.expected_bytes + bytes > kMostTransactionBytes)
    block.fail(std::string(name) + ": more bytes than a barrier can count", site);
  ++barrier.arrived;
  barrier.expected_bytes += bytes;
  block.note_arrival(barrier);
  advance(block, barrier);
}

/// The box that a thread names; `shared` and `map` must be what the instruction takes.
PendingBox box_of(Block& block, const char* name, const void* map, const void* shared, TensorPlace place,
                  void* site) {
  if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0)
    block.fail(std::string(name) + " by a tensor map that is not 64-byte aligned", site);
  const std::optional<TiledTensor> tensor = decode_tensor_map(map);
  if (!tensor) block.fail(std::string(name) + " by what is no tensor map", site);
  block.require_shared(name, shared, tensor->box_bytes(), tensor->swizzle == Swizzle::none ? 128 : 1024,
                       site);
  return {static_cast<unsigned char*>(const_cast<void*>(shared)),
          *tensor,
          {place.channel, place.token, place.head, place.batch},
          0,
          site};
}

}  // namespace

void mbarrier_init(unsigned long long* address, int arrivals) {
  Block& block = *current_block();
  void* site = __builtin_return_address(0);
  block.require_shared("barrier_init", address, kBarrierBytes, site);
  if (arrivals < 1 || arrivals > kMostArrivals)
    block.fail("barrier_init of " + std::to_string(arrivals) + " arrivals", site);
  if (block.barrier_at(address) != nullptr) block.fail("barrier_init of what is a barrier already", site);
  block.note_access(AccessKind::write, address, kBarrierBytes, site);
  block.add_barrier(address, arrivals);
}

void mbarrier_arrive_expect_tx(unsigned long long* barrier, int bytes) {
  arrive("barrier_arrive_expect", barrier, bytes, __builtin_return_address(0));
}

void mbarrier_arrive(unsigned long long* barrier) {
  arrive("barrier_arrive", barrier, 0, __builtin_return_address(0));
}

void mbarrier_wait_parity(unsigned long long* address, int parity) {
  Block& block = *current_block();
  void* site = __builtin_return_address(0);
  TransactionBarrier& barrier = barrier_at(block, "barrier_wait", address, site);
  if (parity != 0 && parity != 1) block.fail("barrier_wait for parity " + std::to_string(parity), site);
  while (barrier.phase % 2 == parity) {
    barrier.waiting.push_back(block.thread_index());
    advance(block, barrier);
    if (barrier.phase % 2 == parity) block.wait("barrier_wait", site);
  }
  block.note_pass(barrier);
}

void tensor_load(void* shared, const void* map, TensorPlace place, unsigned long long* address) {
  Block& block = *current_block();
  void* site = __builtin_return_address(0);
  const PendingBox load = box_of(block, "tensor_load", map, shared, place, site);
  TransactionBarrier& barrier = barrier_at(block, "tensor_load", address, site);
  const auto bytes = static_cast<std::size_t>(load.tensor.box_bytes());
  block.note_access(AccessKind::start_tensor_load, shared, bytes, site);
  std::memset(shared, 0xff, bytes);
  note_global_access(block, AccessKind::read, load);
  barrier.loads.push_back(load);
  advance(block, barrier);
}

void tensor_store(const void* map, const void* shared, TensorPlace place) {
  Block& block = *current_block();
  void* site = __builtin_return_address(0);
  PendingBox store = box_of(block, "tensor_store", map, shared, place, site);
  block.note_access(AccessKind::start_tensor_store, shared,
                    static_cast<std::size_t>(store.tensor.box_bytes()), site);
  note_global_access(block, AccessKind::write, store);
  store.group = block.thread().store_group;
  block.thread().stores.push_back(store);
}

void bulk_commit_group() {
  ++current_block()->thread().store_group;
}

void bulk_wait_group_read(int pending) {
  Block& block = *current_block();
  Thread& thread = block.thread();
  const auto late = std::find_if(thread.stores.begin(), thread.stores.end(), [&](const PendingBox& store) {
    return store.group >= thread.store_group - pending;
  });
  std::for_each(thread.stores.begin(), late, [&](const PendingBox& store) {
    block.note_access(AccessKind::finish_tensor_store, store.shared,
                      static_cast<std::size_t>(store.tensor.box_bytes()), store.call_site);
    const auto bytes = static_cast<std::size_t>(store.tensor.element_bytes);
    for_each_element(store, [&](int offset, unsigned char* target) {
      if (target != nullptr) std::memcpy(target, store.shared + offset, bytes);
    });
  });
  thread.stores.erase(thread.stores.begin(), late);
}

void cluster_sync() {
  current_block()->meet_cluster("cluster_sync", __builtin_return_address(0));
}

void send(void* slot, const float (&values)[4], unsigned long long* arriving, int rank) {
  Block& block = *current_block();
  void* site = __builtin_return_address(0);
  const int blocks = block.cluster().size();
  const auto refuse = [&](const std::string& why) {
    block.fail("send to block " + std::to_string(rank) + " of a cluster of " + std::to_string(blocks) + why,
               site);
  };
  block.require_shared("send", slot, kSentBytes, site);
  block.require_shared("send", arriving, kBarrierBytes, site);
  if (rank < 0 || rank >= blocks) refuse("");
  if (rank == block.rank()) refuse(", which sends");
  Block& receiver = block.cluster().block(rank);
  TransactionBarrier* barrier = receiver.barrier_at(block.counterpart(arriving, receiver));
  if (barrier == nullptr) refuse(" at what barrier_init has not made a barrier there");
  if (!barrier->known_to_cluster) refuse(" at a barrier whose barrier_init no cluster_sync has followed");
  const PendingSend sent{block.counterpart(slot, receiver), std::to_array(values), site};
  if (const std::string fault = block.note_send(receiver, *barrier, sent); !fault.empty())
    refuse(": " + fault);
  std::memset(sent.slot, 0xff, kSentBytes);
  barrier->sends.push_back(sent);
  advance(receiver, *barrier);
}

std::string state_of(const TransactionBarrier& barrier) {
  return "the barrier at byte " + std::to_string(barrier.offset) + " of shared memory, phase " +
         std::to_string(barrier.phase) + ": " + std::to_string(barrier.arrived) + " of " +
         std::to_string(barrier.arrivals) + " arrivals, expects " + std::to_string(barrier.expected_bytes) +
         " bytes, is sent " + std::to_string(bytes_in_flight(barrier));
}

std::string left_over(const TransactionBarrier& barrier) {
  if (!barrier.loads.empty())
    return "ends before anybody has waited for a tensor_load" + source_line(barrier.loads.front().call_site) +
           " (" + state_of(barrier) + ")";
  if (!barrier.sends.empty())
    return "ends before anybody has waited for a send" + source_line(barrier.sends.front().call_site) + " (" +
           state_of(barrier) + ")";
  if (barrier.expected_bytes != 0) return "ends before bytes have come (" + state_of(barrier) + ")";
  return {};
}

}  // namespace gla::emulator
