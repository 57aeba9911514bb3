// A fiber: a stack of its own that runs until it switches to another one. Fibers of one OS thread only.
#pragma once

#include <cstddef>
#include <vector>

namespace gla::emulator {

/// Where a suspended fiber continues; its registers lie on its own stack.
struct Context {
  void* stack_pointer = nullptr;
};

/// Suspends the caller into `from` and continues `to`.
void switch_context(Context& from, const Context& to);

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
