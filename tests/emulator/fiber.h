// A fiber: a stack of its own that runs until it switches to another one. Fibers of one OS thread only.
#pragma once

#include <cstddef>
#include <vector>

namespace gla::emulator {

/// Where a suspended fiber continues; its registers lie on its own stack.
struct Context {
  void* stack_pointer = nullptr;
  const void* stack_bottom = nullptr;  ///< for AddressSanitizer, which must know what stack it is on
  std::size_t stack_bytes = 0;
};

/// The calling OS thread's own context, not suspended yet.
Context thread_context();

/// Suspends the caller into `from` and continues `to`.
void switch_context(Context& from, const Context& to);

/// To be called first thing by a fiber that has just started, and with the thread's context after a jump out of a fiber.
void fiber_entered();
void fiber_left_by_jump(const Context& thread);

/// Equal stacks with an inaccessible page below each, so that an overflow faults.
class StackPool {
 public:
  StackPool() = default;
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;

  /// A context that starts `entry` on stack `index`, which must be idle. `entry` never returns.
  Context start(std::size_t index, void (*entry)());

 private:
  std::vector<std::byte*> stacks_;
};

}  // namespace gla::emulator
