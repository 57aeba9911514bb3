// The blocks of a cluster, which run on this OS thread by turns and reach each other's shared memory.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "block.h"
#include "machine.h"

namespace gla::emulator {

class Cluster {
 public:
  Cluster(const Shape& shape, const Options& options, const std::function<void()>& thread_program,
          Accesses accesses);
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  /// Runs the cluster whose first block is `first` to its end. Throws Fault.
  void run(long long first);

  int size() const { return static_cast<int>(blocks_.size()); }
  Block& block(int rank) { return blocks_[static_cast<std::size_t>(rank)]; }
  /// Of all its threads.
  Meeting& meeting() { return meeting_; }

 private:
  /// One with a thread that can run; null if there is none.
  Block* next_ready();

  Order order_;
  std::uint64_t random_state_;
  std::deque<Block> blocks_;  ///< by rank
  Meeting meeting_;
};

}  // namespace gla::emulator
