// Runs a kernel on the CPU, cluster after cluster: the threads of its blocks are fibers in an order that the
// caller chooses. Shared memory starts as NaN and ends at an inaccessible page. Of a program that is compiled to
// tell of its accesses (program.h), races and reads of what nobody wrote are reported in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace gla::emulator {

class Stream;

/// Which of the threads that can run goes on; of a cluster, which block until all of its threads wait.
enum class Order {
  forward,   ///< the lowest index
  backward,  ///< the highest index
  random,    ///< drawn with Options::seed
};

/// What kernels have done. Bytes of global memory as threads name them, whichever caches they meet there: what several lanes
/// of a warp read counts for each of them.
struct Work {
  std::int64_t loaded_bytes = 0;   ///< with ordinary loads only of a program that tells of its accesses
  std::int64_t stored_bytes = 0;   ///< likewise
  std::int64_t multiply_adds = 0;  ///< of matrix products (mma, wgmma), masked ones included
};

struct Options {
  Order order = Order::forward;
  std::uint64_t seed = 1;
  Work* work = nullptr;      ///< what the launch does is added there
  Stream* stream = nullptr;  ///< that the launch follows others in
};

/// The launch: blocks and threads along x, dynamic shared memory in bytes.
struct Shape {
  long long grid = 1;
  int threads = 32;
  std::size_t shared_bytes = 0;
  int cluster = 1;  ///< blocks of one, which `grid` is a multiple of; 8 at most
};

/// A kernel that cannot go on. The message names the block, the threads, what they did and the source line.
/// Reported: threads that wait for others which never come (also because those finished), different
/// collectives in one warp or at one barrier, an unaligned or foreign shared address in copy_async or
/// ldmatrix, misused barriers, tensor copies and sends, a write past the shared memory, what shadow.h tells, and
/// whatever the CPU traps.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Whether the program tells of its accesses to memory.
enum class Accesses { unseen, told };

/// Runs `thread_program` once per thread of every block. Throws Fault, or std::invalid_argument if the grid is not
/// of whole clusters. Not reentrant within an OS thread; several OS threads may each launch. What a faulty kernel
/// keeps on its stacks is abandoned, not destroyed.
void launch(const Shape& shape, const Options& options, const std::function<void()>& thread_program,
            Accesses accesses = Accesses::unseen);

}  // namespace gla::emulator
