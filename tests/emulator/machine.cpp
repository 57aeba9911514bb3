#include "machine.h"

#include <string>

#include "cluster.h"
#include "stream.h"
#include "trap.h"

namespace gla::emulator {
namespace {

constexpr int kLargestCluster =
    8;  // that every GPU takes ("CUDA C++ Programming Guide", "Thread Block Clusters")

}  // namespace

void launch(const Shape& shape, const Options& options, const std::function<void()>& thread_program,
            Accesses accesses) {
  if (shape.cluster < 1 || shape.cluster > kLargestCluster || shape.grid % shape.cluster != 0)
    throw std::invalid_argument("a grid of " + std::to_string(shape.grid) + " blocks in clusters of " +
                                std::to_string(shape.cluster));
  Cluster cluster(shape, options, thread_program, accesses);
  const TrapScope traps;
  if (options.stream != nullptr) options.stream->start();
  for (long long first = 0; first < shape.grid; first += shape.cluster) cluster.run(first);
}

}  // namespace gla::emulator
