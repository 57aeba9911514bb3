#include "shadow.h"

#include <algorithm>

#include "source_line.h"

namespace gla::emulator {

Shadow::Shadow(std::size_t shared_bytes) : cells_((shared_bytes + kCellBytes - 1) / kCellBytes) {}

void Shadow::reset() {
  std::fill(cells_.begin(), cells_.end(), Cell{});
  phase_ = 0;
}

std::string Shadow::note(AccessKind kind, int thread, std::size_t first, std::size_t bytes, void* site) {
  for (std::size_t i = first / kCellBytes; i * kCellBytes < first + bytes; ++i) {
    Cell& cell = cells_[i];
    if (kind == AccessKind::finish_copy) {
      cell.copying = false;
      cell.write.phase = phase_;
      continue;
    }
    const bool is_read = kind == AccessKind::read;
    const std::string fault = is_read ? fault_of_read(cell, thread) : fault_of_write(cell, thread);
    if (!fault.empty()) {
      return std::string(is_read ? "reads" : "writes") + " shared memory byte " +
             std::to_string(i * kCellBytes) + ", which " + fault;
    }
    if (is_read) {
      cell.read = {collides(cell.read, thread) ? kSeveral : thread, phase_, site};
    } else {
      cell.write = {thread, phase_, site};
      cell.copying = kind == AccessKind::start_copy;
    }
  }
  return {};
}

std::string Shadow::fault_of_read(const Cell& cell, int thread) const {
  if (cell.copying) return still_copying(cell.write);
  if (cell.write.thread == kNobody) return "nothing has written";
  return collides(cell.write, thread) ? race(cell.write, "wrote") : std::string();
}

std::string Shadow::fault_of_write(const Cell& cell, int thread) const {
  if (cell.copying) return still_copying(cell.write);
  if (collides(cell.write, thread)) return race(cell.write, "wrote");
  return collides(cell.read, thread) ? race(cell.read, "read") : std::string();
}

std::string Shadow::still_copying(const Access& copy) {
  return "thread " + std::to_string(copy.thread) + " copies to" + source_line(copy.site) +
         " and has not waited for";
}

std::string Shadow::race(const Access& earlier, const char* did) {
  const std::string who =
      earlier.thread == kSeveral ? "several threads" : "thread " + std::to_string(earlier.thread);
  return who + " " + did + source_line(earlier.site) + " and no barrier has followed";
}

}  // namespace gla::emulator
