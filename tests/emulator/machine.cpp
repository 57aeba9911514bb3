#include "machine.h"

#include "block.h"
#include "trap.h"

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

void launch(const Shape& shape, const Options& options, const std::function<void()>& thread_program,
            Accesses accesses) {
  Block block(shape, options, thread_program, accesses);
  const CurrentBlock current(block);
  const TrapScope traps;
  for (long long index = 0; index < shape.grid; ++index) block.run(index);
}

}  // namespace gla::emulator
