// What kernels know of those ahead of them in a stream, where each may start before the one ahead of it is done
// (templates/device/launch.cuh).
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_set>

namespace gla::emulator {

/// Of the launches that share one: they run one after the other, and each counts as started as early as the one ahead of it
/// has let it.
class Stream {
 public:
  /// The next kernel starts.
  void start() {
    if (all_waited_first_) pending_.clear();
    pending_.merge(written_);
    written_.clear();
    all_waited_first_ = true;
  }
  /// A thread of the kernel lets the next one start, for which those ahead of this one are done if all threads had waited.
  void let_next_start(bool has_waited) { all_waited_first_ = all_waited_first_ && has_waited; }
  /// The kernel writes there.
  void write(const void* address, std::size_t bytes) {
    for_each_word(address, bytes, [&](std::uintptr_t word) { written_.insert(word); });
  }
  /// Whether a thread that has not waited may be there before a kernel ahead of its own is.
  bool is_pending(const void* address, std::size_t bytes) const {
    bool found = false;
    for_each_word(address, bytes, [&](std::uintptr_t word) { found = found || pending_.count(word) != 0; });
    return found;
  }

 private:
  template <class Deed>
  static void for_each_word(const void* address, std::size_t bytes, Deed deed) {
    const auto first = reinterpret_cast<std::uintptr_t>(address);
    for (std::uintptr_t word = first / kWordBytes; word * kWordBytes < first + bytes; ++word) deed(word);
  }

  static constexpr std::uintptr_t kWordBytes = 2;  ///< the smallest element
  std::unordered_set<std::uintptr_t> written_;     ///< by the latest kernel
  std::unordered_set<std::uintptr_t> pending_;  ///< by those ahead of it that may not be done when it starts
  bool all_waited_first_ = true;
};

}  // namespace gla::emulator
