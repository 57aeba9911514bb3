#include "trap.h"

#include <ucontext.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <mutex>

#include "block.h"

namespace gla::emulator {
namespace {

/// The address behind the instruction that trapped, give or take its length: what source_line() takes.
void* program_counter(const ucontext_t& context) {
#if defined(__x86_64__)
  const auto counter = static_cast<std::uintptr_t>(context.uc_mcontext.gregs[REG_RIP]);
#else
  const auto counter = static_cast<std::uintptr_t>(context.uc_mcontext.pc);
#endif
  return reinterpret_cast<void*>(counter + 1);
}

void handle(int signal, siginfo_t* info, void* context) {
  Block* block = current_block();
  if (block == nullptr) {
    // Another OS thread trapped, outside any kernel: let the default action end the process.
    ::signal(signal, SIG_DFL);
    return;
  }
  block->trap(signal, info->si_addr, program_counter(*static_cast<const ucontext_t*>(context)));
}

/// Handlers belong to the process, scopes to threads: the first scope installs ours, the last restores what was there.
class Handlers {
 public:
  void acquire() {
    const std::lock_guard lock(mutex_);
    if (scopes_++ > 0) return;
    struct sigaction action {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &earlier_[i]);
  }
  void release() {
    const std::lock_guard lock(mutex_);
    if (--scopes_ > 0) return;
    for (std::size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &earlier_[i], nullptr);
  }

 private:
  static constexpr std::array kSignals{SIGSEGV, SIGBUS, SIGFPE, SIGILL};
  std::mutex mutex_;
  int scopes_ = 0;
  std::array<struct sigaction, kSignals.size()> earlier_{};
};

Handlers& handlers() {
  static Handlers the_handlers;
  return the_handlers;
}

}  // namespace

TrapScope::TrapScope() : stack_(256 * 1024) {
  stack_t stack{};
  stack.ss_sp = stack_.data();
  stack.ss_size = stack_.size();
  sigaltstack(&stack, &old_stack_);
  handlers().acquire();
}

TrapScope::~TrapScope() {
  handlers().release();
  sigaltstack(&old_stack_, nullptr);
}

std::string describe_trap(int signal, const void* address, const GuardedMemory& shared) {
  if (signal == SIGFPE) return "integer division by zero";
  if (signal == SIGILL)
    return "undefined behaviour: an unaligned vector, an index past an array, an overflow or a shift";
  constexpr std::ptrdiff_t kNear = 64 * 1024;
  const std::ptrdiff_t offset = static_cast<const unsigned char*>(address) - shared.data();
  if (offset >= -kNear && offset < static_cast<std::ptrdiff_t>(shared.size()) + kNear) {
    return std::string("access to shared memory byte ").append(std::to_string(offset)) + " of " +
           std::to_string(shared.size());
  }
  char text[64];
  std::snprintf(text, sizeof text, "access to address %p, which is not mapped", address);
  return text;
}

}  // namespace gla::emulator
