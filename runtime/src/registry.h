// The kernels that a context has loaded, and the lock-free way from a call to them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compiler.h"
#include "dispatch.h"
#include "gla/gla.hpp"
#include "kernel.h"

namespace gla {

/// A variant of a problem, loaded.
struct Prepared {
  std::uint64_t id;  ///< for recent_plan()
  Problem problem;
  Variant variant;
  LoadedKernels kernels;
};

/// Makes a variant of a problem ready to launch; tests put their own in place of NVRTC and a GPU.
using Loader = std::function<Result<LoadedKernels>(const Problem&, const Variant&)>;

/// Readers take no lock: they follow one atomic pointer to an immutable snapshot. A change copies the
/// snapshot and publishes the copy; replaced ones are kept until the registry dies, since a reader may still
/// look at them. There are as many as (problem, class, site) ever prepared, and two per pin.
class Registry {
 public:
  Registry(Dispatcher dispatcher, Loader loader, LogCallback log);
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  const Dispatcher& dispatcher() const { return dispatcher_; }

  /// What a call gets if it is loaded; otherwise null. Wait-free.
  const Prepared* find(const Problem& problem, const Workload& workload, Accuracy accuracy) const;

  Result<Choice> choose(const Problem& problem, const Workload& workload, Accuracy accuracy) const;

  /// Chooses, loads where necessary, and publishes, so that find() finds it.
  Result<const Prepared*> prepare(const Problem& problem, const Workload& workload, Accuracy accuracy);

  /// Loads only; several threads may load different variants at once.
  Result<const Prepared*> load(const Problem& problem, const Variant& variant);

  Status pin(const Problem& problem, const Variant& variant);
  void unpin(const Problem& problem);

 private:
  struct LiveRoute;
  struct Snapshot;
  struct Slot;

  std::optional<Variant> pinned(const Problem& problem) const;
  /// False if there was nothing to change.
  bool publish(const Problem& problem, const Workload& workload, Accuracy accuracy, const Choice& choice,
               const Prepared* prepared);
  void forget(const Problem& problem);
  void log(LogLevel level, const std::string& message) const;

  Dispatcher dispatcher_;
  Loader loader_;
  LogCallback log_;

  std::atomic<const Snapshot*> snapshot_;
  mutable std::mutex mutex_;  ///< guards everything below
  std::vector<std::unique_ptr<const Snapshot>> snapshots_;
  std::map<Problem, Variant> pins_;
  std::map<std::pair<Problem, Variant>, std::unique_ptr<Slot>> slots_;
};

}  // namespace gla
