#include "shadow.h"

#include <algorithm>

#include "source_line.h"

namespace gla::emulator {
namespace {

constexpr const char* kNoBarrier = "no barrier has followed";
constexpr const char* kNoFence = "no fence_for_warpgroup and then a barrier have followed";

std::size_t at(int index) {
  return static_cast<std::size_t>(index);
}

std::uint32_t bit_of(int warp) {
  return std::uint32_t{1} << warp;
}

}  // namespace

Shadow::Shadow(std::size_t shared_bytes, int threads)
    : cells_((shared_bytes + kCellBytes - 1) / kCellBytes),
      last_warp_barrier_(at((threads + kLanes - 1) / kLanes)),
      fences_(at(threads)),
      first_load_((threads + kLanes - 1) / kLanes * kLanes) {}

void Shadow::reset() {
  std::fill(cells_.begin(), cells_.end(), Cell{});
  now_ = last_barrier_ = 0;
  std::fill(last_warp_barrier_.begin(), last_warp_barrier_.end(), 0);
  for (Clock& fences : fences_) fences.clear();
  known_.clear();
  barriers_.clear();
  parts_.clear();
  readers_.clear();
}

void Shadow::warp_barrier(int warp) {
  last_warp_barrier_[at(warp)] = ++now_;
  if (known_.empty()) return;
  const std::size_t first = at(warp * kLanes), last = std::min(first + kLanes, known_.size());
  Clock all;
  for (std::size_t lane = first; lane < last; ++lane) merge(all, known_[lane]);
  std::fill(known_.begin() + warp * kLanes, known_.begin() + static_cast<std::ptrdiff_t>(last), all);
}

void Shadow::part_barrier(const std::vector<int>& threads, int id) {
  Clock all;
  for (const int thread : threads) merge(all, known_[at(thread)]);
  parts_[id] = {threads.front(), now_++, nullptr};
  for (const int thread : threads) all[at(thread)] = now_;
  for (const int thread : threads) known_[at(thread)] = all;
}

bool Shadow::may_use_part(int thread, int id) {
  if (known_.empty()) keep_clocks();
  const auto last = parts_.find(id);
  return last == parts_.end() || !collides(last->second, thread);
}

void Shadow::keep_clocks() {
  known_.assign(fences_.size(), Clock(at(loads_of(static_cast<int>(barriers_.size())))));
  for (Cell& cell : cells_) {
    if (cell.read.thread != kSeveral || cell.read.time < last_barrier_) continue;
    cell.readers = static_cast<int>(readers_.size());
    std::vector<Access>& readers = readers_.emplace_back();
    for (int warp = 0; warp < static_cast<int>(last_warp_barrier_.size()); ++warp)
      if ((cell.reading_warps >> warp & 1u) != 0)
        readers.push_back({kSeveralOfWarp - warp, cell.read.time, cell.read.site});
  }
}

void Shadow::fence(int thread) {
  Clock& fences = fences_[at(thread)];
  const auto open = std::lower_bound(fences.begin(), fences.end(), last_barrier_);
  if (open - fences.begin() > 1) fences.erase(fences.begin(), open - 1);
  fences.push_back(++now_);
}

int Shadow::add_barrier() {
  if (known_.empty()) keep_clocks();
  barriers_.emplace_back();
  const std::size_t size = at(loads_of(static_cast<int>(barriers_.size())));
  for (Clock& clock : known_) clock.resize(size);
  return static_cast<int>(barriers_.size()) - 1;
}

void Shadow::arrive(int thread, int barrier) {
  ++now_;
  Clock known = known_[at(thread)];
  const int warp = thread / kLanes;
  for (int lane = warp * kLanes; lane < (warp + 1) * kLanes; ++lane)
    known[at(lane)] = std::max(known[at(lane)], last_warp_barrier_[at(warp)]);
  known[at(thread)] = now_;
  merge(barriers_[at(barrier)].arriving, known);
}

void Shadow::complete(int barrier) {
  TransactionBarrier& completed = barriers_[at(barrier)];
  merge(completed.complete, completed.arriving);
  completed.arriving.clear();
  completed.complete.resize(known_[0].size());
  completed.complete[at(loads_of(barrier))] = ++now_;
}

void Shadow::pass(int thread, int barrier) {
  merge(known_[at(thread)], barriers_[at(barrier)].complete);
}

void Shadow::merge(Clock& into, const Clock& from) {
  into.resize(std::max(into.size(), from.size()));
  for (std::size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

std::string Shadow::note(AccessKind kind, int thread, std::size_t first, std::size_t bytes, void* site) {
  for (std::size_t i = first / kCellBytes; i * kCellBytes < first + bytes; ++i) {
    Cell& cell = cells_[i];
    switch (kind) {
      case AccessKind::finish_copy:
        cell.copying = Copying::no;
        cell.write.time = now_;
        continue;
      case AccessKind::finish_tensor_load:
        cell.copying = Copying::no;
        cell.write = {thread, now_, site};
        continue;
      case AccessKind::finish_tensor_store:
        --cell.stores;
        add_reader(cell, thread, site);
        continue;
      default:
        break;
    }
    const bool is_read = kind == AccessKind::read || kind == AccessKind::read_as_operand ||
                         kind == AccessKind::start_tensor_store;
    const std::string fault =
        is_read ? fault_of_read(cell, thread, kind) : fault_of_write(cell, thread, kind);
    if (!fault.empty()) {
      return std::string(is_read ? "reads" : "writes") + " shared memory byte " +
             std::to_string(i * kCellBytes) + ", which " + fault;
    }
    if (is_read) {
      add_reader(cell, thread, site);
      if (kind == AccessKind::start_tensor_store) ++cell.stores;
    } else {
      cell.write = {thread, now_, site};
      cell.read = {};
      cell.copying = kind == AccessKind::start_copy          ? Copying::by_thread
                     : kind == AccessKind::start_tensor_load ? Copying::by_tensor_load
                                                             : Copying::no;
    }
  }
  return {};
}

void Shadow::add_reader(Cell& cell, int thread, void* site) {
  const int warp = thread / kLanes;
  const Access reader{thread, now_, site};
  if (cell.read.thread == kSeveral && !known_.empty()) {
    add_reader_of_several(cell, reader);
    cell.read = {kSeveral, now_, site};
  } else if (!collides(cell.read, thread)) {
    cell.read = reader;
  } else if (is_of_warp(cell.read, warp)) {
    cell.read = {kSeveralOfWarp - warp, now_, site};
  } else {
    if (!known_.empty()) {
      add_reader_of_several(cell, reader);
    } else {
      if (cell.read.thread != kSeveral) cell.reading_warps = bit_of(warp_of(cell.read));
      cell.reading_warps |= bit_of(warp);
    }
    cell.read = {kSeveral, now_, site};
  }
}

void Shadow::add_reader_of_several(Cell& cell, const Access& reader) {
  if (cell.readers < 0) {
    cell.readers = static_cast<int>(readers_.size());
    readers_.emplace_back();
  }
  std::vector<Access>& readers = readers_[at(cell.readers)];
  if (cell.read.thread != kSeveral) readers = {cell.read};
  // Who must come after the new reader comes after those that are ordered before it.
  readers.erase(std::remove_if(readers.begin(), readers.end(),
                               [&](const Access& earlier) { return !collides(earlier, reader.thread); }),
                readers.end());
  const int warp = reader.thread / kLanes;
  const auto same = std::find_if(readers.begin(), readers.end(),
                                 [&](const Access& earlier) { return is_of_warp(earlier, warp); });
  if (same == readers.end()) {
    readers.push_back(reader);
  } else {
    *same = {kSeveralOfWarp - warp, reader.time, reader.site};
  }
}

int Shadow::warp_of(const Access& access) {
  return access.thread >= 0 ? access.thread / kLanes : kSeveralOfWarp - access.thread;
}

bool Shadow::is_of_warp(const Access& access, int warp) {
  return warp_of(access) == warp;
}

bool Shadow::collides(const Access& earlier, int thread) const {
  if (earlier.thread == kNobody || earlier.thread == thread || earlier.time < last_barrier_) return false;
  const int warp = thread / kLanes;
  if (is_of_warp(earlier, warp) && earlier.time < last_warp_barrier_[at(warp)]) return false;
  if (known_.empty() || earlier.thread == kSeveral) return true;
  const Clock& known = known_[at(thread)];
  if (earlier.thread >= 0) return earlier.time >= known[at(earlier.thread)];
  const int first = (kSeveralOfWarp - earlier.thread) * kLanes;
  for (int lane = first; lane < first + kLanes; ++lane)
    if (lane != thread && earlier.time >= known[at(lane)]) return true;
  return false;
}

const Shadow::Access* Shadow::colliding_reader(const Cell& cell, int thread) const {
  if (!collides(cell.read, thread)) return nullptr;
  if (cell.read.thread != kSeveral || cell.readers < 0) return &cell.read;
  for (const Access& reader : readers_[at(cell.readers)])
    if (collides(reader, thread)) return &reader;
  return nullptr;
}

bool Shadow::is_fenced(const Access& write, int thread) const {
  if (is_load(write)) return true;
  std::uint32_t ordered = last_barrier_;  // a fence before this time is ordered before what `thread` does
  const int warp = thread / kLanes;
  if (is_of_warp(write, warp)) ordered = std::max(ordered, last_warp_barrier_[at(warp)]);
  if (!known_.empty()) ordered = std::max(ordered, known_[at(thread)][at(write.thread)]);
  if (write.thread == thread) ordered = now_ + 1;
  const Clock& fences = fences_[at(write.thread)];
  const auto open = std::lower_bound(fences.begin(), fences.end(), ordered);
  return open != fences.begin() && write.time < *(open - 1);
}

std::string Shadow::fault_of_read(const Cell& cell, int thread, AccessKind kind) const {
  if (cell.copying != Copying::no) return still_copying(cell);
  if (cell.write.thread == kNobody) return "nothing has written";
  if (collides(cell.write, thread)) return did_without(cell.write, "wrote", kNoBarrier);
  if (kind != AccessKind::read && !is_fenced(cell.write, thread))
    return did_without(cell.write, "wrote", kNoFence);
  return {};
}

std::string Shadow::fault_of_write(const Cell& cell, int thread, AccessKind kind) const {
  if (cell.copying != Copying::no) return still_copying(cell);
  if (collides(cell.write, thread)) return did_without(cell.write, "wrote", kNoBarrier);
  if (cell.stores > 0)
    return "a tensor copy reads" + source_line(cell.read.site) + " and nobody has waited for";
  if (const Access* reader = colliding_reader(cell, thread)) return did_without(*reader, "read", kNoBarrier);
  if (kind == AccessKind::start_tensor_load && cell.write.thread != kNobody && !is_fenced(cell.write, thread))
    return did_without(cell.write, "wrote", kNoFence);
  return {};
}

std::string Shadow::still_copying(const Cell& cell) {
  return "thread " + std::to_string(cell.write.thread) + " copies to" + source_line(cell.write.site) +
         (cell.copying == Copying::by_thread ? " and has not waited for" : " and nobody has waited for");
}

std::string Shadow::did_without(const Access& earlier, const char* did, const char* missing) const {
  if (is_load(earlier))
    return "a tensor copy " + std::string(did) + source_line(earlier.site) +
           " and this thread has not waited for";
  const std::string who =
      earlier.thread < 0 ? std::string("several threads") : "thread " + std::to_string(earlier.thread);
  return who + " " + did + source_line(earlier.site) + " and " + missing;
}

}  // namespace gla::emulator
