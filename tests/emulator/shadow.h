// What has happened to each byte of a block's shared memory, and between which barriers: tells races, reads of what
// nobody wrote, and uses of a tile that an asynchronous copy is still filling, whatever the order of the threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gla::emulator {

inline constexpr int kLanes = 32;

enum class AccessKind {
  read,
  read_as_operand,  ///< by wgmma, which sees only what its writer has fenced
  write,
  start_copy,   ///< an asynchronous copy writes at some time from here
  finish_copy,  ///< to here, the wait for it
};

class Shadow {
 public:
  /// Accesses are told apart by two bytes, the smallest element.
  Shadow(std::size_t shared_bytes, int threads);

  /// Forgets everything: a new block.
  void reset();
  /// All threads of the block have met: what came before is ordered before what comes now.
  void barrier() { last_barrier_ = ++now_; }
  /// The same among the lanes of `warp`.
  void warp_barrier(int warp) { last_warp_barrier_[static_cast<std::size_t>(warp)] = ++now_; }
  /// After the next barrier, wgmma sees what `thread` has written.
  void fence(int thread);

  /// `thread` accesses bytes [first, first + bytes) from `site`. Returns what is wrong with that, as "reads shared
  /// memory byte 64, which thread 3 wrote at chunk_gates.cuh:80 and no barrier has followed"; empty if nothing is.
  std::string note(AccessKind kind, int thread, std::size_t first, std::size_t bytes, void* site);

 private:
  static constexpr std::size_t kCellBytes = 2;
  /// Instead of a thread. Several lanes of warp w: kSeveralOfWarp - w.
  static constexpr int kNobody = -1, kSeveral = -2, kSeveralOfWarp = -3;

  struct Access {
    int thread = kNobody;
    std::uint32_t time = 0;
    void* site = nullptr;
  };
  struct Cell {
    Access write, read;
    bool copying = false;
  };

  /// A thread's latest fences: of all, and of those that a barrier has followed. 0: none.
  struct Fences {
    std::uint32_t latest = 0, shown = 0;
  };

  static bool is_of_warp(const Access& access, int warp);
  /// Whether nothing orders it before an access by `thread` now.
  bool collides(const Access& earlier, int thread) const;
  bool is_fenced(const Access& write) const;
  /// What is wrong with an access to a cell, in words that follow "which".
  std::string fault_of_read(const Cell& cell, int thread, AccessKind kind) const;
  std::string fault_of_write(const Cell& cell, int thread) const;
  static std::string still_copying(const Access& copy);
  static std::string did_without(const Access& earlier, const char* did, const char* missing);

  std::vector<Cell> cells_;
  std::uint32_t now_ = 0;  ///< how many barriers, of block or warp, and fences there have been
  std::uint32_t last_barrier_ = 0;
  std::vector<std::uint32_t> last_warp_barrier_;
  std::vector<Fences> fences_;  ///< of each thread
};

}  // namespace gla::emulator
