// Memory that a kernel cannot leave unnoticed: a block's shared memory, and the tensors of tests.
#pragma once

#include <cstddef>

namespace gla::emulator {

/// Inaccessible bytes before and behind it, and below a fiber's stack: a multiple of every page size in use.
inline constexpr std::size_t kGuardBytes = 64 * 1024;

/// `bytes` bytes aligned to `alignment` and no more, with inaccessible pages before and, at once, behind them.
class GuardedMemory {
 public:
  GuardedMemory(std::size_t bytes, std::size_t alignment);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;
  GuardedMemory(GuardedMemory&& other) noexcept;

  unsigned char* data() const { return data_; }
  std::size_t size() const { return bytes_; }
  bool contains(const void* address, std::size_t bytes) const {
    const auto* first = static_cast<const unsigned char*>(address);
    return first >= data_ && first + bytes <= data_ + bytes_;
  }

  /// Every byte 0xff: NaN as fp16, bf16, fp32 and fp64, -1 as an integer.
  void poison();
  /// Alignment leaves up to alignment - 1 accessible bytes behind the end; true if they are as poison() left them.
  bool end_intact() const;

 private:
  std::size_t bytes_;
  std::size_t accessible_;  ///< bytes_, rounded up to the alignment
  std::size_t mapped_;
  unsigned char* mapping_;
  unsigned char* data_;
};

}  // namespace gla::emulator
