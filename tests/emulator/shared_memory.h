// A block's dynamic shared memory: exactly as large as asked, an inaccessible page on both sides.
#pragma once

#include <cstddef>

namespace gla::emulator {

class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// 128-byte aligned.
  unsigned char* data() const { return data_; }
  std::size_t size() const { return bytes_; }
  bool contains(const void* address, std::size_t bytes) const;

  /// Every byte 0xff: NaN as fp16, bf16, fp32 and fp64, -1 as an integer.
  void poison();
  /// Alignment leaves up to 127 accessible bytes behind the end; true if they are as poison() left them.
  bool end_intact() const;

 private:
  std::size_t bytes_;
  std::size_t mapped_;
  unsigned char* mapping_;
  unsigned char* data_;
};

}  // namespace gla::emulator
