// Device time of enqueued work with the host out of the way: everything is queued behind a blocked stream, then let go.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "gpu.h"

namespace gla {

class Timer {
 public:
  static Result<Timer> create(const Gpu& gpu);
  Timer(Timer&& other) noexcept;
  Timer& operator=(Timer&& other) noexcept;
  ~Timer();

  /// Enqueues work on the Gpu's stream.
  using Enqueue = std::function<Status(int round)>;

  /// Seconds of each round. The driver's queue holds about a thousand launches: rounds that make many belong in a Graph.
  Result<std::vector<double>> time(int rounds, const Enqueue& enqueue);

 private:
  explicit Timer(const Gpu& gpu) : gpu_(&gpu) {}
  Status block();
  void release();

  const Gpu* gpu_;
  std::vector<CUevent> events_;  ///< two per round
  /// Mapped host memory that the stream waits on; null where that is not supported.
  std::uint32_t* gate_ = nullptr;
  std::uint32_t generation_ = 0;
};

/// Work recorded once and replayed: many short launches at the price of one.
class Graph {
 public:
  /// Records what `enqueue` puts on the Gpu's stream. The first replay has been made when this returns.
  static Result<Graph> record(const Gpu& gpu, const std::function<Status()>& enqueue);
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  ~Graph();

  Status launch() const;

 private:
  explicit Graph(const Gpu& gpu) : gpu_(&gpu) {}
  const Gpu* gpu_;
  CUgraphExec executable_ = nullptr;
};

}  // namespace gla
