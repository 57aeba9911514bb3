// What `-fsanitize=thread` makes a compiler call at every access to memory, here for the shared memory of the running
// block (shadow.h). The names and their meaning are the compilers' interface to ThreadSanitizer's runtime, which is not
// linked: it knows OS threads, not fibers.
#include <cstddef>

#include "block.h"

namespace gla::emulator {
namespace {

void note(AccessKind kind, const void* address, std::size_t bytes, void* site) {
  Block* block = current_block();
  if (block != nullptr) block->note_access(kind, address, bytes, site);
}

}  // namespace
}  // namespace gla::emulator

#define GLA_NOTE(name, kind, bytes)                                                                    \
  void name(void* address) {                                                                           \
    gla::emulator::note(gla::emulator::AccessKind::kind, address, bytes, __builtin_return_address(0)); \
  }
#define GLA_NOTE_SIZE(bytes)                          \
  GLA_NOTE(__tsan_read##bytes, read, bytes)           \
  GLA_NOTE(__tsan_write##bytes, write, bytes)         \
  GLA_NOTE(__tsan_unaligned_read##bytes, read, bytes) \
  GLA_NOTE(__tsan_unaligned_write##bytes, write, bytes)

extern "C" {

void __tsan_init() {}
GLA_NOTE_SIZE(1)
GLA_NOTE_SIZE(2)
GLA_NOTE_SIZE(4)
GLA_NOTE_SIZE(8)
GLA_NOTE_SIZE(16)
void __tsan_read_range(void* address, std::size_t bytes) {
  gla::emulator::note(gla::emulator::AccessKind::read, address, bytes, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
  gla::emulator::note(gla::emulator::AccessKind::write, address, bytes, __builtin_return_address(0));
}
}
