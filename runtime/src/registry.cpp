#include "registry.h"

#include <fmt/format.h>

#include <algorithm>

#include "gla/generator/space.h"
#include "launch_cache.h"

namespace gla {
namespace {

/// A problem and class in one word: comparing a snapshot's entries costs one instruction each.
std::uint64_t key_of(const Problem& problem, Accuracy accuracy) {
  std::uint64_t key = 0;
  const auto add = [&](auto value, int bits) { key = key << bits | static_cast<std::uint64_t>(value); };
  add(problem.operation, 4);
  add(problem.dtype, 2);
  add(problem.gate_dtype, 2);
  add(problem.state_dtype, 2);
  add(problem.head_dim_k, 10);
  add(problem.head_dim_v, 10);
  add(problem.group, 7);
  add(problem.gate_k, 1);
  add(problem.gate_v, 1);
  add(problem.reverse, 1);
  add(problem.state_v_first, 1);
  add(problem.fp32_gate_gradients, 1);
  add(accuracy, 1);
  return key;
}

}  // namespace

/// A route with what is loaded of it. The model's sites are buckets, added as they come up.
struct Registry::LiveRoute {
  std::uint64_t key = 0;
  Problem problem;
  bool pinned = false;
  bool by_bucket = false;
  Route route;
  std::vector<const Prepared*> prepared;  ///< per site; null: not loaded

  const Prepared* find(const Workload& workload) const {
    if (pinned) return prepared.front();
    const Coordinates at = coordinates(workload, route.parallel_scale);
    if (!by_bucket) return prepared[nearest(route.sites, at)];
    const Coordinates middle = bucket(at);
    for (std::size_t i = 0; i < route.sites.size(); ++i) {
      if (distance(route.sites[i].at, middle) == 0) return prepared[i];
    }
    return nullptr;
  }
};

struct Registry::Snapshot {
  std::vector<std::uint64_t> keys;  ///< of the routes, apart so that a search stays in one cache line or two
  std::vector<std::shared_ptr<const LiveRoute>> routes;

  const LiveRoute* find(std::uint64_t key) const {
    const auto found = std::find(keys.begin(), keys.end(), key);
    return found == keys.end() ? nullptr : routes[static_cast<std::size_t>(found - keys.begin())].get();
  }

  void set(std::shared_ptr<const LiveRoute> route) {
    const auto found = std::find(keys.begin(), keys.end(), route->key);
    if (found == keys.end()) {
      keys.push_back(route->key);
      routes.push_back(std::move(route));
    } else {
      routes[static_cast<std::size_t>(found - keys.begin())] = std::move(route);
    }
  }
};

/// Where threads that want the same variant wait for the one that loads it.
struct Registry::Slot {
  std::mutex mutex;
  std::unique_ptr<const Prepared> prepared;
};

Registry::Registry(Dispatcher dispatcher, Loader loader, LogCallback log)
    : dispatcher_(std::move(dispatcher)), loader_(std::move(loader)), log_(std::move(log)) {
  snapshots_.push_back(std::make_unique<const Snapshot>());
  snapshot_ = snapshots_.back().get();
}

Registry::~Registry() = default;

void Registry::log(LogLevel level, const std::string& message) const {
  if (log_) log_(level, message);
}

const Prepared* Registry::find(const Problem& problem, const Workload& workload, Accuracy accuracy) const {
  const LiveRoute* route = snapshot_.load(std::memory_order_acquire)->find(key_of(problem, accuracy));
  return route == nullptr ? nullptr : route->find(workload);
}

std::optional<Variant> Registry::pinned(const Problem& problem) const {
  const std::lock_guard lock(mutex_);
  const auto found = pins_.find(problem);
  return found == pins_.end() ? std::nullopt : std::optional(found->second);
}

Result<Choice> Registry::choose(const Problem& problem, const Workload& workload, Accuracy accuracy) const {
  if (Status status = check(problem); !status.ok()) return status;
  if (const std::optional<Variant> variant = pinned(problem))
    return Choice{*variant, Match::pinned, "", "pinned by the caller"};
  return dispatcher_.choose(dispatcher_.route(problem, accuracy), problem, workload, accuracy);
}

Result<const Prepared*> Registry::prepare(const Problem& problem, const Workload& workload,
                                          Accuracy accuracy) {
  const Result<Choice> choice = choose(problem, workload, accuracy);
  if (!choice.ok()) return choice.status();
  const Result<const Prepared*> prepared = load(problem, choice->variant);
  if (!prepared.ok()) return prepared.status();
  if (publish(problem, workload, accuracy, *choice, *prepared)) {
    log(choice->match == Match::model ? LogLevel::warning : LogLevel::info,
        fmt::format("{}, {}: {} ({}): {}", to_string(problem), to_string(workload),
                    to_string(choice->variant), to_string(choice->match), choice->reason));
  }
  return *prepared;
}

Result<const Prepared*> Registry::load(const Problem& problem, const Variant& variant) {
  Slot* slot = nullptr;
  {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Slot>& held = slots_[{problem, variant}];
    if (held == nullptr) held = std::make_unique<Slot>();
    slot = held.get();
  }
  const std::lock_guard lock(slot->mutex);
  if (slot->prepared == nullptr) {
    Result<LoadedKernels> kernels = loader_(problem, variant);
    if (!kernels.ok()) return kernels.status();
    slot->prepared =
        std::make_unique<const Prepared>(Prepared{next_plan_id(), problem, variant, *std::move(kernels)});
  }
  return slot->prepared.get();
}

bool Registry::publish(const Problem& problem, const Workload& workload, Accuracy accuracy,
                       const Choice& choice, const Prepared* prepared) {
  const std::lock_guard lock(mutex_);
  const auto pin = pins_.find(problem);
  // Pinned, unpinned or pinned to another since the choice was made: leave it to the next call.
  const bool by_pin = choice.match == Match::pinned;
  if ((pin != pins_.end()) != by_pin || (by_pin && pin->second != choice.variant)) return false;

  const std::uint64_t key = key_of(problem, accuracy);
  const LiveRoute* old = snapshots_.back()->find(key);
  auto route = old != nullptr ? std::make_shared<LiveRoute>(*old) : std::make_shared<LiveRoute>();
  if (old != nullptr && old->find(workload) == prepared) return false;
  if (old == nullptr) {
    route->key = key;
    route->problem = problem;
    route->pinned = choice.match == Match::pinned;
    if (!route->pinned) route->route = dispatcher_.route(problem, accuracy);
    route->by_bucket = !route->pinned && route->route.sites.empty();
    route->prepared.resize(route->route.sites.size());
  }
  if (route->pinned) {
    route->prepared = {prepared};
  } else if (route->by_bucket) {
    route->route.sites.push_back(
        {bucket(coordinates(workload, route->route.parallel_scale)), choice.variant});
    route->prepared.push_back(prepared);
  } else {
    // Sites with the same variant are served at once.
    for (std::size_t i = 0; i < route->prepared.size(); ++i) {
      if (route->route.sites[i].variant == choice.variant) route->prepared[i] = prepared;
    }
  }
  auto next = std::make_unique<Snapshot>(*snapshots_.back());
  next->set(std::move(route));
  snapshots_.push_back(std::move(next));
  snapshot_.store(snapshots_.back().get(), std::memory_order_release);
  return true;
}

void Registry::forget(const Problem& problem) {
  auto next = std::make_unique<Snapshot>();
  for (const std::shared_ptr<const LiveRoute>& route : snapshots_.back()->routes) {
    if (route->problem != problem) next->set(route);
  }
  snapshots_.push_back(std::move(next));
  snapshot_.store(snapshots_.back().get(), std::memory_order_release);
}

Status Registry::pin(const Problem& problem, const Variant& variant) {
  if (Status status = check(problem, dispatcher_.architecture(), variant); !status.ok()) {
    return {status.code(), fmt::format("variant '{}': {}", to_string(variant), status.message())};
  }
  const std::lock_guard lock(mutex_);
  pins_[problem] = variant;
  forget(problem);
  return {};
}

void Registry::unpin(const Problem& problem) {
  const std::lock_guard lock(mutex_);
  if (pins_.erase(problem) > 0) forget(problem);
}

}  // namespace gla
