// The block that runs on this OS thread: its fibers, who waits for whom, and how a collective meets.
#pragma once

#include <array>
#include <csetjmp>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "emulator.h"
#include "fiber.h"
#include "guarded_memory.h"
#include "machine.h"
#include "shadow.h"
#include "stream.h"
#include "tensor_map.h"

namespace gla::emulator {

class Cluster;

inline constexpr int kWarpgroupThreads = 128;
/// Named barriers, the first of which is block_sync's.
inline constexpr int kPartBarriers = 16;
/// Of the threads that meet, in their order.
using Operands = std::span<void* const>;

/// A cp.async whose data has not arrived.
struct PendingCopy {
  void* shared;
  const void* global;
  int bytes;
  bool valid;
  int group;
};

/// A wgmma that may still be running, as one thread has issued it. `registers`: of A, null if that is in shared memory.
struct PendingProduct {
  float* d;
  int n;
  const unsigned int* registers;
  SharedOperand a, b;
  bool accumulate;
  int group;
  void* call_site;
};

/// Sums of products that have not been waited for: what `d` will hold.
struct PendingSums {
  float* d;
  std::vector<float> value;
  int products;
};

/// A tensor copy under way.
struct PendingBox {
  unsigned char* shared;
  TiledTensor tensor;
  std::array<int, kTensorDimensions> place;
  int group;  ///< of a store
  void* call_site;
};

/// What another block has sent and has not arrived.
struct PendingSend {
  unsigned char* slot;
  std::array<float, 4> values;
  void* call_site;
};

/// An mbarrier.
struct TransactionBarrier {
  std::ptrdiff_t offset;  ///< in shared memory
  int number;             ///< among the block's
  int arrivals;           ///< that end a phase, with
  int expected_bytes = 0;
  int arrived = 0;
  int phase = 0;                  ///< how many are complete
  bool known_to_cluster = false;  ///< a cluster_sync has followed its creation
  std::vector<PendingBox> loads = {};
  std::vector<PendingSend> sends = {};
  std::vector<int> waiting = {};  ///< threads
};
/// In words: what it has and lacks.
std::string state_of(const TransactionBarrier& barrier);
/// In words: what the block should not have left behind; empty if it did not.
std::string left_over(const TransactionBarrier& barrier);

struct Thread {
  Context context;
  const char* waits_at = nullptr;  ///< the collective it waits in; null: it can run or is finished
  void* call_site = nullptr;       ///< of the latest collective
  bool finished = false;
  int copy_group = 0;  ///< groups committed so far
  std::vector<PendingCopy> copies;
  bool products_fenced = false;  ///< by wgmma.fence since the latest wait and use of registers
  int product_group = 0;         ///< groups committed so far
  int pending_groups = 0;        ///< that its latest wait left
  std::vector<PendingProduct> products;
  std::vector<PendingSums> sums;
  int store_group = 0;  ///< groups committed so far
  std::vector<PendingBox> stores;
  int part = 0;                     ///< the named barrier it waits in
  bool all_agree = true;            ///< in its latest named barrier
  void* let_next_start = nullptr;   ///< where it let the next kernel start
  bool waited_for_earlier = false;  ///< kernels, before that or after
};

/// Lanes or threads that wait for each other.
struct Meeting {
  const char* name = nullptr;
  int arrived = 0;
};

/// A named barrier.
struct PartBarrier {
  Meeting meeting;
  int threads = 0;  ///< that meet
  std::vector<int> waiting;
  bool all_agree = true;
};

/// A warp or a warpgroup.
struct Group {
  Meeting meeting;
  std::vector<void*> operands;
};

class Block {
 public:
  Block(Cluster& cluster, int rank, const Shape& shape, const Options& options,
        const std::function<void()>& thread_program, Accesses accesses);

  /// Makes it block `index` of the grid, all of whose threads can run.
  void start(long long index);
  bool is_ready() const;
  /// Until none of its threads can run; a trap comes back here too.
  void run_fibers();
  /// What has ended it; empty if nothing has.
  const std::string& fault() const { return fault_; }
  bool is_finished() const;
  /// In words: who waits where.
  std::string deadlock() const;
  /// In words: what is wrong with it now that it is finished; empty if nothing is.
  std::string left_behind() const;

  /// What one thread of a collective does to the operands of all.
  using GroupAction = void (*)(Block& block, const Operands& operands);

  /// Returns when all lanes of the running thread's warp have come here with the same `name`. The last to
  /// come runs `action` first.
  void meet_warp(const char* name, void* call_site, void* operand, GroupAction action);
  /// The same for its warpgroup.
  void meet_warpgroup(const char* name, void* call_site, void* operand, GroupAction action);
  /// The same for all threads of the block; the result is whether `value` was true in all.
  bool meet_block(const char* name, void* call_site, bool value);
  /// The same for `threads` threads, whole warps, at named barrier `id`.
  bool meet_part(const char* name, void* call_site, int id, int threads, bool value);
  /// The same for all threads of the cluster.
  void meet_cluster(const char* name, void* call_site);

  /// Returns when the running thread has been made ready again.
  void wait(const char* name, void* call_site);

  /// `address` must lie in shared memory, aligned to `bytes`; `name` is who uses it.
  void require_shared(const char* name, const void* address, int bytes, void* call_site) {
    require_shared(name, address, bytes, bytes, call_site);
  }
  void require_shared(const char* name, const void* address, int bytes, int alignment, void* call_site);
  /// The running thread reads or writes memory; gives the block up if that is wrong.
  void note_access(AccessKind kind, const void* address, std::size_t bytes, void* call_site) {
    if (!shadow_) return;
    if (shared_.contains(address, bytes))
      note_shared_access(kind, address, bytes, call_site);
    else if (notes_global_accesses() && !is_of_stack(address))
      note_global_access(kind, address, bytes, call_site);
  }
  /// The same of global memory, which asynchronous copies read too, if anybody wants to know.
  void note_global_access(AccessKind kind, const void* address, std::size_t bytes, void* call_site);
  bool notes_global_accesses() const { return options_.work != nullptr || options_.stream != nullptr; }
  /// Where what it does is counted; null where nobody wants to know.
  Work* work() const { return options_.work; }
  /// The running thread lets the next kernel start.
  void let_next_start(void* call_site);
  /// The running thread's warp has met in a barrier.
  void note_warp_barrier();
  /// The running thread shows wgmma and tensor copies what it has written.
  void note_fence();

  /// The transaction barrier there; null if there is none.
  TransactionBarrier* barrier_at(const void* address);
  void add_barrier(const void* address, int arrivals);
  /// The running thread has arrived.
  void note_arrival(const TransactionBarrier& barrier);
  /// The load writes.
  void note_load(const TransactionBarrier& barrier, const PendingBox& load);
  /// The running thread sends. Returns what is wrong with that; empty if nothing is.
  std::string note_send(Block& receiver, const TransactionBarrier& barrier, const PendingSend& sent);
  /// What another block has sent arrives.
  void note_arrival(const TransactionBarrier& barrier, const PendingSend& sent);
  /// A phase is complete: who waits can go on.
  void note_complete(TransactionBarrier& barrier);
  /// The running thread has waited.
  void note_pass(const TransactionBarrier& barrier);

  /// Gives the block up with a Fault that blames the running thread. Does not return to it.
  [[noreturn]] void fail(const std::string& what, void* call_site);

  Thread& thread() { return threads_[static_cast<std::size_t>(running_)]; }
  int thread_index() const { return running_; }
  long long index() const { return index_; }
  int rank() const { return rank_; }
  Cluster& cluster() const { return cluster_; }
  const Shape& shape() const { return shape_; }
  GuardedMemory& shared() { return shared_; }
  /// Where `address` in this block's shared memory lies in that of `other`.
  unsigned char* counterpart(const void* address, Block& other) const {
    return other.shared_.data() + offset_of(address);
  }

  /// Runs the program of the fiber that has just started, then never comes back.
  [[noreturn]] void run_thread();
  /// Called in a signal handler: abandons the fiber that trapped.
  [[noreturn]] void trap(int signal, void* address, void* call_site);

 private:
  void note_shared_access(AccessKind kind, const void* address, std::size_t bytes, void* call_site);
  /// Whether it is the running thread's own. All else that is not shared memory is global.
  bool is_of_stack(const void* address) const {
    const auto* place = static_cast<const std::byte*>(address);
    return place >= stack_ && place < stack_ + stack_bytes_;
  }
  void arrive(Meeting& meeting, const char* name, void* call_site);
  /// Fails unless whole warps wait.
  void require_whole_warps(PartBarrier& part, const char* name, void* call_site);
  void set_ready(int thread, bool ready);
  void set_all_ready();
  template <int Size>
  void meet(std::vector<Group>& groups, const char* name, void* call_site, void* operand, GroupAction action);
  int next_ready();
  /// Continues another thread, or the scheduler when none can run.
  void give_way(Context& from);
  std::string name() const;
  std::ptrdiff_t offset_of(const void* address) const {
    return static_cast<const unsigned char*>(address) - shared_.data();
  }

  Cluster& cluster_;
  int rank_;
  Shape shape_;
  Options options_;
  const std::function<void()>& program_;
  GuardedMemory shared_;
  std::optional<Shadow> shadow_;  ///< if the program tells of its accesses
  StackPool stacks_;
  std::vector<Thread> threads_;
  std::vector<Group> warps_, warpgroups_;
  std::vector<std::uint64_t> ready_;                                   ///< one bit per thread
  std::map<std::ptrdiff_t, TransactionBarrier> transaction_barriers_;  ///< by their place in shared memory
  Meeting barrier_;
  std::array<PartBarrier, kPartBarriers> parts_;
  bool barrier_all_ = true;
  bool barrier_result_ = true;
  Context scheduler_;
  sigjmp_buf escape_;  ///< out of a signal handler to the scheduler
  long long index_ = 0;
  int running_ = 0;
  const std::byte* stack_ = nullptr;  ///< of the running thread
  std::size_t stack_bytes_ = 0;
  std::uint64_t random_state_;
  std::string fault_;
};

/// A random number, the upper half of its bits; `state` is the next one's.
std::uint64_t draw(std::uint64_t& state);

/// The block that runs on this OS thread; null outside launch().
inline Block*& current_block() {
  static thread_local constinit Block* block = nullptr;
  return block;
}

}  // namespace gla::emulator
