// The block that runs on this OS thread: its fibers, who waits for whom, and how a collective meets.
#pragma once

#include <array>
#include <csetjmp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "fiber.h"
#include "guarded_memory.h"
#include "machine.h"
#include "shadow.h"

namespace gla::emulator {

inline constexpr int kLanes = 32;
using Operands = std::array<void*, kLanes>;

/// A cp.async whose data has not arrived.
struct PendingCopy {
  void* shared;
  const void* global;
  int bytes;
  bool valid;
  int group;
};

struct Thread {
  Context context;
  const char* waits_at = nullptr;  ///< the collective it waits in; null: it can run or is finished
  void* call_site = nullptr;       ///< of the latest collective
  bool finished = false;
  int copy_group = 0;  ///< groups committed so far
  std::vector<PendingCopy> copies;
};

/// Lanes or threads that wait for each other.
struct Meeting {
  const char* name = nullptr;
  int arrived = 0;
};

struct Warp {
  Meeting meeting;
  Operands operands{};
};

class Block {
 public:
  Block(const Shape& shape, const Options& options, const std::function<void()>& thread_program,
        Accesses accesses);

  /// Runs one block to its end. Throws Fault.
  void run(long long index);

  /// What one lane of a collective does to the operands of all 32, in lane order.
  using WarpAction = void (*)(Block& block, const Operands& operands);

  /// Returns when all lanes of the running thread's warp have come here with the same `name`. The last to
  /// come runs `action` first.
  void meet_warp(const char* name, void* call_site, void* operand, WarpAction action);
  /// The same for all threads of the block; the result is whether `value` was true in all.
  bool meet_block(const char* name, void* call_site, bool value);

  /// The running thread reads or writes memory; gives the block up if that is wrong.
  void note_access(AccessKind kind, const void* address, std::size_t bytes, void* call_site);

  /// Gives the block up with a Fault that blames the running thread. Does not return to it.
  [[noreturn]] void fail(const std::string& what, void* call_site);

  Thread& thread() { return threads_[static_cast<std::size_t>(running_)]; }
  int thread_index() const { return running_; }
  long long index() const { return index_; }
  const Shape& shape() const { return shape_; }
  GuardedMemory& shared() { return shared_; }

  /// Runs the program of the fiber that has just started, then never comes back.
  [[noreturn]] void run_thread();
  /// Called in a signal handler: abandons the fiber that trapped.
  [[noreturn]] void trap(int signal, void* address, void* call_site);

 private:
  /// Until none can run; a trap comes back here too.
  void run_fibers();
  void arrive(Meeting& meeting, const char* name, void* call_site);
  void set_ready(int thread, bool ready);
  int next_ready();
  /// Continues another thread, or the scheduler when none can run.
  void give_way(Context& from);
  std::string name() const;
  std::string deadlock() const;

  Shape shape_;
  Options options_;
  const std::function<void()>& program_;
  GuardedMemory shared_;
  std::optional<Shadow> shadow_;  ///< if the program tells of its accesses
  StackPool stacks_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<std::uint64_t> ready_;  ///< one bit per thread
  Meeting barrier_;
  bool barrier_all_ = true;
  bool barrier_result_ = true;
  Context scheduler_;
  sigjmp_buf escape_;  ///< out of a signal handler to the scheduler
  long long index_ = 0;
  int running_ = 0;
  std::uint64_t random_state_;
  std::string fault_;
};

/// The block that runs on this OS thread; null outside launch().
Block*& current_block();

}  // namespace gla::emulator
