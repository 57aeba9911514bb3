#include "shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace gla::emulator {
namespace {

constexpr std::size_t kGuardBytes = 64 * 1024;  // a multiple of every page size in use
constexpr std::size_t kAlignment = 128;
constexpr unsigned char kPoison = 0xff;

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

SharedMemory::SharedMemory(std::size_t bytes)
    : bytes_(bytes), mapped_(2 * kGuardBytes + round_up(bytes, kGuardBytes)) {
  void* memory = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<unsigned char*>(memory);
  data_ = mapping_ + mapped_ - kGuardBytes - round_up(bytes, kAlignment);
  const std::size_t accessible = mapped_ - 2 * kGuardBytes;
  if (mprotect(mapping_ + kGuardBytes, accessible, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
}

SharedMemory::~SharedMemory() {
  munmap(mapping_, mapped_);
}

bool SharedMemory::contains(const void* address, std::size_t bytes) const {
  const auto* first = static_cast<const unsigned char*>(address);
  return first >= data_ && first + bytes <= data_ + bytes_;
}

void SharedMemory::poison() {
  std::memset(data_, kPoison, round_up(bytes_, kAlignment));
}

bool SharedMemory::end_intact() const {
  return std::all_of(data_ + bytes_, data_ + round_up(bytes_, kAlignment),
                     [](unsigned char byte) { return byte == kPoison; });
}

}  // namespace gla::emulator
