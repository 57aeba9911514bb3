#include "compile_pool.h"

#include <algorithm>
#include <chrono>

namespace gla {

CompilePool::CompilePool(unsigned threads, Compile compile) : compile_(std::move(compile)) {
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

CompilePool::~CompilePool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wanted_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void CompilePool::request(const Problem& problem, std::span<const Variant> variants, bool urgent) {
  {
    const std::lock_guard lock(mutex_);
    std::vector<Key> fresh;
    for (const Variant& variant : variants) {
      const Key key{problem, variant};
      const auto [entry, inserted] = outcomes_.try_emplace(key);
      const auto waiting = inserted || !urgent ? queue_.end() : std::find(queue_.begin(), queue_.end(), key);
      if (waiting != queue_.end())
        queue_.erase(waiting);
      else if (!inserted)
        continue;
      fresh.push_back(key);
    }
    queue_.insert(urgent ? queue_.begin() : queue_.end(), fresh.begin(), fresh.end());
  }
  wanted_.notify_all();
}

void CompilePool::cancel(const Problem& problem) {
  const std::lock_guard lock(mutex_);
  for (auto key = queue_.begin(); key != queue_.end();) {
    if (key->first == problem) {
      outcomes_.erase(*key);
      key = queue_.erase(key);
    } else {
      ++key;
    }
  }
}

std::optional<std::size_t> CompilePool::first_ready(const Problem& problem, std::span<const Variant> variants,
                                                    double seconds) {
  std::optional<std::size_t> found;
  const auto look = [&] {
    for (std::size_t i = 0; i < variants.size(); ++i) {
      const auto outcome = outcomes_.find({problem, variants[i]});
      if (outcome == outcomes_.end() || !outcome->second) continue;
      found = i;
      return true;
    }
    return false;
  };
  std::unique_lock lock(mutex_);
  ready_.wait_for(lock, std::chrono::duration<double>(std::max(0.0, seconds)), look);
  return found;
}

Result<Compiled> CompilePool::outcome(const Problem& problem, const Variant& variant) {
  const std::lock_guard lock(mutex_);
  const auto found = outcomes_.find({problem, variant});
  if (found == outcomes_.end() || !found->second)
    return Status{StatusCode::internal, "the outcome of a variant was asked for before it was ready"};
  return *found->second;
}

void CompilePool::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wanted_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (stop_) return;
    const Key key = queue_.front();
    queue_.pop_front();
    lock.unlock();
    Result<Compiled> outcome = compile_(key.first, key.second);
    lock.lock();
    outcomes_[key] = std::move(outcome);
    ready_.notify_all();
  }
}

}  // namespace gla
