#include "shadow.h"

#include <algorithm>

#include "source_line.h"

namespace gla::emulator {

Shadow::Shadow(std::size_t shared_bytes, int threads)
    : cells_((shared_bytes + kCellBytes - 1) / kCellBytes),
      last_warp_barrier_(static_cast<std::size_t>((threads + kLanes - 1) / kLanes)),
      fences_(static_cast<std::size_t>(threads)) {}

void Shadow::reset() {
  std::fill(cells_.begin(), cells_.end(), Cell{});
  now_ = last_barrier_ = 0;
  std::fill(last_warp_barrier_.begin(), last_warp_barrier_.end(), 0);
  std::fill(fences_.begin(), fences_.end(), Fences{});
}

void Shadow::fence(int thread) {
  Fences& fences = fences_[static_cast<std::size_t>(thread)];
  if (fences.latest < last_barrier_) fences.shown = fences.latest;
  fences.latest = ++now_;
}

std::string Shadow::note(AccessKind kind, int thread, std::size_t first, std::size_t bytes, void* site) {
  for (std::size_t i = first / kCellBytes; i * kCellBytes < first + bytes; ++i) {
    Cell& cell = cells_[i];
    if (kind == AccessKind::finish_copy) {
      cell.copying = false;
      cell.write.time = now_;
      continue;
    }
    const bool is_read = kind == AccessKind::read || kind == AccessKind::read_as_operand;
    const std::string fault = is_read ? fault_of_read(cell, thread, kind) : fault_of_write(cell, thread);
    if (!fault.empty()) {
      return std::string(is_read ? "reads" : "writes") + " shared memory byte " +
             std::to_string(i * kCellBytes) + ", which " + fault;
    }
    if (is_read) {
      int reader = thread;
      if (collides(cell.read, thread)) {
        const int warp = thread / kLanes;
        reader = is_of_warp(cell.read, warp) ? kSeveralOfWarp - warp : kSeveral;
      }
      cell.read = {reader, now_, site};
    } else {
      cell.write = {thread, now_, site};
      cell.copying = kind == AccessKind::start_copy;
    }
  }
  return {};
}

bool Shadow::is_of_warp(const Access& access, int warp) {
  return access.thread >= 0 ? access.thread / kLanes == warp : access.thread == kSeveralOfWarp - warp;
}

bool Shadow::collides(const Access& earlier, int thread) const {
  if (earlier.thread == kNobody || earlier.thread == thread || earlier.time < last_barrier_) return false;
  const int warp = thread / kLanes;
  return !is_of_warp(earlier, warp) || earlier.time >= last_warp_barrier_[static_cast<std::size_t>(warp)];
}

bool Shadow::is_fenced(const Access& write) const {
  const Fences& fences = fences_[static_cast<std::size_t>(write.thread)];
  return write.time < (fences.latest < last_barrier_ ? fences.latest : fences.shown);
}

std::string Shadow::fault_of_read(const Cell& cell, int thread, AccessKind kind) const {
  if (cell.copying) return still_copying(cell.write);
  if (cell.write.thread == kNobody) return "nothing has written";
  if (collides(cell.write, thread)) return did_without(cell.write, "wrote", "no barrier has followed");
  if (kind == AccessKind::read_as_operand && !is_fenced(cell.write))
    return did_without(cell.write, "wrote", "no fence_for_warpgroup and then a barrier have followed");
  return {};
}

std::string Shadow::fault_of_write(const Cell& cell, int thread) const {
  constexpr const char* kNoBarrier = "no barrier has followed";
  if (cell.copying) return still_copying(cell.write);
  if (collides(cell.write, thread)) return did_without(cell.write, "wrote", kNoBarrier);
  if (collides(cell.read, thread)) return did_without(cell.read, "read", kNoBarrier);
  return {};
}

std::string Shadow::still_copying(const Access& copy) {
  return "thread " + std::to_string(copy.thread) + " copies to" + source_line(copy.site) +
         " and has not waited for";
}

std::string Shadow::did_without(const Access& earlier, const char* did, const char* missing) {
  const std::string who =
      earlier.thread < 0 ? std::string("several threads") : "thread " + std::to_string(earlier.thread);
  return who + " " + did + source_line(earlier.site) + " and " + missing;
}

}  // namespace gla::emulator
