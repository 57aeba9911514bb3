// Turns what the CPU traps while a kernel runs (null or guard pages, division by zero, the trap instructions of
// compiled checks) into the block's Fault.
#pragma once

#include <signal.h>

#include <string>
#include <vector>

#include "guarded_memory.h"

namespace gla::emulator {

/// While it lives, traps of this OS thread go to the block that it runs; when no scope lives, the earlier handlers are back.
class TrapScope {
 public:
  TrapScope();
  ~TrapScope();
  TrapScope(const TrapScope&) = delete;
  TrapScope& operator=(const TrapScope&) = delete;

 private:
  std::vector<unsigned char> stack_;  ///< of the handler: the fiber's own may have overflowed
  stack_t old_stack_{};
};

/// "access to shared memory byte 128 of 128", for a person.
std::string describe_trap(int signal, const void* address, const GuardedMemory& shared);

}  // namespace gla::emulator
