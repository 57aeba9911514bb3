// What has happened to each byte of a block's shared memory, and between which barriers: tells races, reads of what
// nobody wrote, and uses of a tile that an asynchronous copy is still filling, whatever the order of the threads.
// Barriers of block and warp order all that came before; transaction barriers order what those who have arrived knew of
// before what those do who have waited, and named barriers what came before among those who meet (vector clocks, kept
// once there is such a barrier). What a block of a cluster sends to another brings along what its thread knew, of all
// blocks' threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

namespace gla::emulator {

inline constexpr int kLanes = 32;

enum class AccessKind {
  read,
  read_as_operand,  ///< by wgmma, which sees only what its writer has fenced
  write,
  atomic,               ///< reads and writes, in some order with others of its kind
  start_copy,           ///< an asynchronous copy writes at some time from here
  finish_copy,          ///< to here, the wait for it
  start_tensor_load,    ///< the same for a tensor copy, which overwrites only what its writer has fenced
  finish_tensor_load,   ///< by the copies of a barrier
  start_tensor_store,   ///< a tensor copy reads, as wgmma does, at some time from here
  finish_tensor_store,  ///< to here
};

class Shadow {
 public:
  /// By thread of the cluster, then by barrier whose loads they are: accesses before this time, as their block counts it,
  /// are ordered before what the clock is of.
  using Clock = std::vector<std::uint32_t>;

  /// Of block `rank` of a cluster of `blocks`. Accesses are told apart by two bytes, the smallest element.
  Shadow(std::size_t shared_bytes, int threads, int rank, int blocks);

  /// Forgets everything: a new block.
  void reset();
  /// All threads of the block have met: what came before is ordered before what comes now.
  void barrier();
  /// The same of all threads of the cluster.
  void cluster_barrier();
  /// The same among the lanes of `warp`.
  void warp_barrier(int warp);
  /// The same among `threads`, whole warps, who meet in named barrier `id`.
  void part_barrier(const std::vector<int>& threads, int id);
  /// Whether `thread` comes there after those who met there last, so that it cannot have been in their place.
  bool may_use_part(int thread, int id);
  /// After the next barrier, wgmma and tensor copies see what `thread` has written.
  void fence(int thread);

  /// A new transaction barrier: the number by which the following know it.
  int add_barrier();
  /// In the place of a thread: the tensor loads and sends that complete on `barrier`.
  int loads_of(int barrier) const { return first_load_ + barrier; }
  void arrive(int thread, int barrier);
  /// All have arrived, and the loads are finished.
  void complete(int barrier);
  /// `thread` has waited for what is complete.
  void pass(int thread, int barrier);

  /// `thread` sends to another block: what it knows.
  Clock send(int thread);
  /// Another block, whose thread knows `sender`, sends bytes [first, first + bytes) that complete on `barrier`: they
  /// are written at some time from here to finish_tensor_load. Returns what is wrong with that, as note() does.
  std::string receive(int barrier, const Clock& sender, std::size_t first, std::size_t bytes, void* site);

  /// `thread` accesses bytes [first, first + bytes) from `site`. Returns what is wrong with that, as "reads shared
  /// memory byte 64, which thread 3 wrote at chunk_gates.cuh:80 and no barrier has followed"; empty if nothing is.
  std::string note(AccessKind kind, int thread, std::size_t first, std::size_t bytes, void* site);

 private:
  static constexpr std::size_t kCellBytes = 2;
  /// Instead of a thread. Several lanes of warp w: kSeveralOfWarp - w.
  static constexpr int kNobody = -1, kSeveral = -2, kSeveralOfWarp = -3;

  /// 12 bytes, of which there are two for each cell: an address has 48 bits.
  struct Access {
    Access() = default;
    Access(int by, std::uint32_t when, const void* where)
        : time(when),
          thread(static_cast<std::int16_t>(by)),
          site_high(static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(where) >> 32)),
          site_low(static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(where))) {}
    void* site() const {
      return reinterpret_cast<void*>(std::uintptr_t{site_high} << 32 | std::uintptr_t{site_low});
    }

    std::uint32_t time = 0;
    std::int16_t thread = kNobody;
    std::uint16_t site_high = 0;
    std::uint32_t site_low = 0;
  };
  enum class Copying : unsigned char { no, by_thread, by_load };
  static constexpr std::uint32_t kNoReaders = ~0u;
  struct Cell {
    Access write, read;
    /// If `read` is kSeveral: with clocks the place in readers_, without them a bit for each warp.
    std::uint32_t readers = kNoReaders;
    Copying copying = Copying::no;
    bool sent = false;         ///< by another block: `write` is
    bool is_added = false;     ///< atomically, since `write`: added_ says when
    unsigned char stores = 0;  ///< tensor stores that may still read it
  };
  static_assert(sizeof(Cell) == 32);  // of which there is one for each two bytes

  struct TransactionBarrier {
    Clock arriving, complete;
  };

  /// What is wrong with an access to a cell: words() says it. Nearly always nothing.
  enum class Wrong : unsigned char {
    nothing,
    copying,
    storing,
    unwritten,
    unordered_write,
    unfenced_write,
    unordered
  };
  struct Finding {
    Wrong wrong = Wrong::nothing;
    const Access* earlier = nullptr;  ///< if it is unordered:
    const char* did = "";             ///< what that one did
    const char* missing = "";         ///< what would order it
  };

  /// Of one warp's lanes; negative if that is not so.
  static int warp_of(const Access& access);
  static bool is_of_warp(const Access& access, int warp);
  static void merge(Clock& into, const Clock& from);
  /// Keeps clocks from now on.
  void keep_clocks();
  /// Where a clock has a thread of this block, or loads.
  std::size_t place_of(int thread) const;
  /// What is ordered before what `thread` does from here.
  Clock known_from_here(int thread);
  bool is_load(const Access& access) const { return access.thread >= first_load_; }
  /// Whether nothing orders it before an access by `thread` now.
  bool collides(const Access& earlier, int thread) const {
    return earlier.thread != kNobody && earlier.thread != thread && earlier.time >= last_barrier_ &&
           collides_since_barrier(earlier, thread);
  }
  bool collides_since_barrier(const Access& earlier, int thread) const;
  /// The same for what a block with this clock sends.
  bool collides(const Access& earlier, const Clock& sender) const;
  /// The reader of the cell that collides with a thread or sender; null if none does.
  template <class Later>
  const Access* colliding_reader(const Cell& cell, const Later& later) const;
  /// The atomic addition that collides with a thread; null if none does.
  const Access* colliding_addition(const Cell& cell, int thread) const {
    if (!cell.is_added) return nullptr;
    const Access& added = added_.at(&cell);
    return collides(added, thread) ? &added : nullptr;
  }
  void add_reader(Cell& cell, int thread, void* site);
  void add_reader_of_several(Cell& cell, const Access& reader);
  /// Whether wgmma or a tensor copy that `thread` starts sees what was written.
  bool is_fenced(const Cell& cell, int thread) const;
  Finding fault_of_read(const Cell& cell, int thread, AccessKind kind) const;
  Finding fault_of_write(const Cell& cell, int thread, AccessKind kind) const;
  Finding fault_of_send(const Cell& cell, const Clock& sender) const;
  /// The finding in words that follow "which".
  std::string words(const Cell& cell, const Finding& finding) const;
  static std::string still_copying(const Cell& cell);
  std::string did_without(const Access& earlier, const char* did, const char* missing) const;

  std::vector<Cell> cells_;
  std::unordered_map<const Cell*, Access> added_;
  int rank_, blocks_;
  std::uint32_t now_ = 0;  ///< how many barriers, of all kinds, sends and fences there have been
  std::uint32_t last_barrier_ = 0, last_cluster_barrier_ = 0;
  std::vector<std::uint32_t> last_warp_barrier_;
  std::vector<Clock>
      fences_;      ///< of each thread: when, from the last one that a barrier of the block has followed
  int first_load_;  ///< above all lanes of all warps
  std::vector<Clock> known_;  ///< of each thread; empty without transaction or named barriers
  std::vector<TransactionBarrier> barriers_;
  std::map<int, Access> parts_;               ///< by named barrier: one of those who met there last, and when
  std::vector<std::vector<Access>> readers_;  ///< one for each warp of a cell's readers
};

}  // namespace gla::emulator
