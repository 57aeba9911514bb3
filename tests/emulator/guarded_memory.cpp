#include "guarded_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace gla::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

GuardedMemory::GuardedMemory(std::size_t bytes, std::size_t alignment)
    : bytes_(bytes),
      accessible_(round_up(bytes, alignment)),
      mapped_(2 * kGuardBytes + round_up(bytes, kGuardBytes)) {
  void* memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<unsigned char*>(memory);
  data_ = mapping_ + mapped_ - kGuardBytes - accessible_;
  if (mprotect(mapping_ + kGuardBytes, mapped_ - 2 * kGuardBytes, PROT_READ | PROT_WRITE) != 0)
    throw std::bad_alloc();
  poison();
}

GuardedMemory::GuardedMemory(GuardedMemory&& other) noexcept
    : bytes_(other.bytes_),
      accessible_(other.accessible_),
      mapped_(other.mapped_),
      mapping_(std::exchange(other.mapping_, nullptr)),
      data_(other.data_) {}

GuardedMemory::~GuardedMemory() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

void GuardedMemory::poison() {
  std::memset(data_, kPoison, accessible_);
}

bool GuardedMemory::end_intact() const {
  return std::all_of(data_ + bytes_, data_ + accessible_, [](unsigned char byte) { return byte == kPoison; });
}

}  // namespace gla::emulator
