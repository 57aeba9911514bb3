// The same work on many things, on all cores.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace gla {

/// Calls work(0) to work(count - 1), in this order of starting, on `threads` OS threads; 0: one per core. Returns when all
/// are done. The work must not throw.
inline void in_parallel(std::size_t count, unsigned threads, const std::function<void(std::size_t)>& work) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  std::atomic<std::size_t> next{0};
  std::vector<std::thread> running;
  for (std::size_t t = 0; t < std::min<std::size_t>(count, threads); ++t) {
    running.emplace_back([&] {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    });
  }
  for (std::thread& thread : running) thread.join();
}

}  // namespace gla
