#include "cluster.h"

#include <string>

namespace gla::emulator {
namespace {

/// Makes a block the one that runs on this OS thread.
class CurrentBlock {
 public:
  explicit CurrentBlock(Block& block) { current_block() = &block; }
  ~CurrentBlock() { current_block() = nullptr; }
  CurrentBlock(const CurrentBlock&) = delete;
  CurrentBlock& operator=(const CurrentBlock&) = delete;
};

}  // namespace

Cluster::Cluster(const Shape& shape, const Options& options, const std::function<void()>& thread_program,
                 Accesses accesses)
    : order_(options.order), random_state_(options.seed) {
  for (int rank = 0; rank < shape.cluster; ++rank)
    blocks_.emplace_back(*this, rank, shape, options, thread_program, accesses);
}

void Cluster::run(long long first) {
  meeting_ = {};
  for (Block& block : blocks_) block.start(first++);
  while (Block* block = next_ready()) {
    const CurrentBlock current(*block);
    block->run_fibers();
    if (!block->fault().empty()) throw Fault(block->fault());
  }
  std::string stuck;
  for (const Block& block : blocks_) {
    if (block.is_finished()) continue;
    if (!stuck.empty()) stuck += "; ";
    stuck += block.deadlock();
  }
  if (!stuck.empty()) throw Fault(stuck);
  for (const Block& block : blocks_) {
    if (const std::string left = block.left_behind(); !left.empty()) throw Fault(left);
  }
}

Block* Cluster::next_ready() {
  const int count = size();
  const int first = order_ == Order::random ? static_cast<int>(draw(random_state_) >> 33) % count : 0;
  for (int i = 0; i < count; ++i) {
    Block& candidate = block(order_ == Order::backward ? count - 1 - i : (first + i) % count);
    if (candidate.is_ready()) return &candidate;
  }
  return nullptr;
}

}  // namespace gla::emulator
