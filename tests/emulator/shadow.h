// What has happened to each byte of a block's shared memory, and between which barriers: tells races, reads of what
// nobody wrote, and uses of a tile that an asynchronous copy is still filling, whatever the order of the threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gla::emulator {

enum class AccessKind {
  read,
  write,
  start_copy,   ///< an asynchronous copy writes at some time from here
  finish_copy,  ///< to here, the wait for it
};

class Shadow {
 public:
  /// Accesses are told apart by two bytes, the smallest element.
  explicit Shadow(std::size_t shared_bytes);

  /// Forgets everything: a new block.
  void reset();
  /// All threads of the block have met: what came before is ordered before what comes now.
  void barrier() { ++phase_; }

  /// `thread` accesses bytes [first, first + bytes) from `site`. Returns what is wrong with that, as "reads shared
  /// memory byte 64, which thread 3 wrote at chunk_gates.cuh:80 and no barrier has followed"; empty if nothing is.
  std::string note(AccessKind kind, int thread, std::size_t first, std::size_t bytes, void* site);

 private:
  static constexpr std::size_t kCellBytes = 2;
  static constexpr int kNobody = -1, kSeveral = -2;

  struct Access {
    int thread = kNobody;
    std::uint32_t phase = 0;
    void* site = nullptr;
  };
  struct Cell {
    Access write, read;
    bool copying = false;
  };

  /// The access that one by `thread` in this phase collides with.
  bool collides(const Access& earlier, int thread) const {
    return earlier.thread != kNobody && earlier.thread != thread && earlier.phase == phase_;
  }
  /// What is wrong with an access to a cell, in words that follow "which".
  std::string fault_of_read(const Cell& cell, int thread) const;
  std::string fault_of_write(const Cell& cell, int thread) const;
  static std::string still_copying(const Access& copy);
  static std::string race(const Access& earlier, const char* did);

  std::vector<Cell> cells_;
  std::uint32_t phase_ = 0;
};

}  // namespace gla::emulator
