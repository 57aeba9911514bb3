#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "guarded_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the callee-saved registers of the System V and AAPCS64 calling conventions on the old stack and takes
// them from the new one. The floating-point control words are the same in all fibers.
#if defined(__x86_64__)
asm(R"(
.text
.globl gla_switch_stack
.type gla_switch_stack, @function
gla_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gla_switch_stack, .-gla_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl gla_switch_stack
.type gla_switch_stack, @function
gla_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size gla_switch_stack, .-gla_switch_stack
)");
#else
#error "the emulator's fibers know x86-64 and aarch64"
#endif

extern "C" void gla_switch_stack(void** save_stack_pointer, void* stack_pointer);

namespace gla::emulator {
namespace {

constexpr std::size_t kStackBytes = 128 * 1024;

#if defined(__x86_64__)
constexpr std::size_t kReturnWord = 6;
constexpr std::size_t kFrameWords =
    8;  // one word keeps `entry` aligned as after a call, and is its null caller
#else
constexpr std::size_t kReturnWord = 11;  // x30
constexpr std::size_t kFrameWords = 20;
#endif

}  // namespace

#if defined(__SANITIZE_ADDRESS__)

/// What a fiber keeps that was abandoned in a Fault is not told as a leak.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:gla::emulator::Block::run_thread\n";
}

namespace {

/// A fiber that was abandoned leaves AddressSanitizer's marks of its frames, which outlive the mapping.
void forget_frames(std::byte* bottom) {
  ASAN_UNPOISON_MEMORY_REGION(bottom, kStackBytes);
}

}  // namespace

Context thread_context() {
  pthread_attr_t attributes;
  void* bottom = nullptr;
  Context context;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &bottom, &context.stack_bytes);
  pthread_attr_destroy(&attributes);
  context.stack_bottom = bottom;
  return context;
}

void switch_context(Context& from, const Context& to) {
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, to.stack_bottom, to.stack_bytes);
  gla_switch_stack(&from.stack_pointer, to.stack_pointer);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void fiber_entered() {
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
}

void fiber_left_by_jump(const Context& thread) {
  __sanitizer_start_switch_fiber(nullptr, thread.stack_bottom, thread.stack_bytes);
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
}

#else

namespace {

void forget_frames(std::byte*) {}

}  // namespace

Context thread_context() {
  return {};
}

void switch_context(Context& from, const Context& to) {
  gla_switch_stack(&from.stack_pointer, to.stack_pointer);
}

void fiber_entered() {}
void fiber_left_by_jump(const Context&) {}

#endif

StackPool::~StackPool() {
  for (std::byte* stack : stacks_) {
    forget_frames(stack + kGuardBytes);
    munmap(stack, kGuardBytes + kStackBytes);
  }
}

Context StackPool::start(std::size_t index, void (*entry)()) {
  while (stacks_.size() <= index) {
    void* memory =
        mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks_.push_back(static_cast<std::byte*>(memory));
    if (mprotect(memory, kGuardBytes, PROT_NONE) != 0) throw std::bad_alloc();
  }
  std::byte* bottom = stacks_[index] + kGuardBytes;
  forget_frames(bottom);
  auto* top = reinterpret_cast<std::uintptr_t*>(bottom + kStackBytes);
  std::uintptr_t* frame = top - kFrameWords;
  for (std::size_t word = 0; word < kFrameWords; ++word) frame[word] = 0;
  frame[kReturnWord] = reinterpret_cast<std::uintptr_t>(entry);
  return {frame, bottom, kStackBytes};
}

}  // namespace gla::emulator
