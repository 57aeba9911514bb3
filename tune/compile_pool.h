// Compilation on all cores, ahead of whoever needs the result.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gla/generator/model.h"
#include "gla/generator/problem.h"
#include "gla/generator/status.h"
#include "gla/generator/variant.h"

namespace gla {

/// A compiled variant: what the compiler said of its kernels. The machine code is in the cubin cache.
struct Compiled {
  std::vector<KernelResources> resources;
  std::vector<std::string> entries;
};

class CompilePool {
 public:
  using Compile = std::function<Result<Compiled>(const Problem&, const Variant&)>;

  /// Threads: 0 means one per core.
  CompilePool(unsigned threads, Compile compile);
  ~CompilePool();
  CompilePool(const CompilePool&) = delete;
  CompilePool& operator=(const CompilePool&) = delete;

  /// Queues what is not queued or done yet, in order; urgent ones go before everything that waits.
  void request(const Problem& problem, std::span<const Variant> variants, bool urgent = false);
  /// Forgets what waits for this problem; what is being compiled is finished.
  void cancel(const Problem& problem);

  /// Index of the first of `variants` that is compiled or refused, waiting for one at most `seconds`; none otherwise.
  std::optional<std::size_t> first_ready(const Problem& problem, std::span<const Variant> variants,
                                         double seconds);
  /// The outcome of a variant that is ready.
  Result<Compiled> outcome(const Problem& problem, const Variant& variant);

 private:
  using Key = std::pair<Problem, Variant>;
  void work();

  Compile compile_;
  std::mutex mutex_;
  std::condition_variable wanted_, ready_;
  std::deque<Key> queue_;
  std::map<Key, std::optional<Result<Compiled>>> outcomes_;  ///< empty while queued or in work
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace gla
