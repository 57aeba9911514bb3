#include "shadow.h"

#include <algorithm>
#include <utility>

#include "source_line.h"

namespace gla::emulator {
namespace {

constexpr const char* kNoBarrier = "no barrier has followed";
constexpr const char* kNotTold = "nothing tells the sender";
constexpr const char* kNoFence = "no fence_for_warpgroup and then a barrier have followed";

std::size_t at(int index) {
  return static_cast<std::size_t>(index);
}

std::uint32_t bit_of(int warp) {
  return std::uint32_t{1} << warp;
}

}  // namespace

Shadow::Shadow(std::size_t shared_bytes, int threads, int rank, int blocks)
    : cells_((shared_bytes + kCellBytes - 1) / kCellBytes),
      rank_(rank),
      blocks_(blocks),
      last_warp_barrier_(at((threads + kLanes - 1) / kLanes)),
      fences_(at(threads)),
      first_load_((threads + kLanes - 1) / kLanes * kLanes) {}

void Shadow::reset() {
  std::fill(cells_.begin(), cells_.end(), Cell{});
  now_ = last_barrier_ = last_cluster_barrier_ = 0;
  std::fill(last_warp_barrier_.begin(), last_warp_barrier_.end(), 0);
  for (Clock& fences : fences_) fences.clear();
  known_.clear();
  barriers_.clear();
  parts_.clear();
  readers_.clear();
  added_.clear();
}

void Shadow::barrier() {
  last_barrier_ = ++now_;
  if (blocks_ == 1 || known_.empty()) return;
  Clock all;
  for (const Clock& known : known_) merge(all, known);
  std::fill(known_.begin(), known_.end(), all);
}

void Shadow::cluster_barrier() {
  barrier();
  last_cluster_barrier_ = last_barrier_;
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
  for (const int thread : threads) all[place_of(thread)] = now_;
  for (const int thread : threads) known_[at(thread)] = all;
}

bool Shadow::may_use_part(int thread, int id) {
  if (known_.empty()) keep_clocks();
  const auto last = parts_.find(id);
  return last == parts_.end() || !collides(last->second, thread);
}

void Shadow::keep_clocks() {
  known_.assign(fences_.size(), Clock(place_of(loads_of(static_cast<int>(barriers_.size())))));
  for (Cell& cell : cells_) {
    const std::uint32_t warps = std::exchange(cell.readers, kNoReaders);
    if (cell.read.thread != kSeveral || cell.read.time < last_barrier_) continue;
    cell.readers = static_cast<std::uint32_t>(readers_.size());
    std::vector<Access>& readers = readers_.emplace_back();
    for (int warp = 0; warp < static_cast<int>(last_warp_barrier_.size()); ++warp)
      if ((warps & bit_of(warp)) != 0)
        readers.emplace_back(kSeveralOfWarp - warp, cell.read.time, cell.read.site());
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
  const std::size_t size = place_of(loads_of(static_cast<int>(barriers_.size())));
  for (Clock& clock : known_) clock.resize(size);
  return static_cast<int>(barriers_.size()) - 1;
}

std::size_t Shadow::place_of(int thread) const {
  return at(thread + (thread < first_load_ ? rank_ : blocks_ - 1) * first_load_);
}

Shadow::Clock Shadow::known_from_here(int thread) {
  ++now_;
  Clock known = known_[at(thread)];
  const int warp = thread / kLanes;
  const std::size_t first = place_of(warp * kLanes);
  for (std::size_t lane = first; lane < first + kLanes; ++lane)
    known[lane] = std::max(known[lane], last_warp_barrier_[at(warp)]);
  known[place_of(thread)] = now_;
  return known;
}

void Shadow::arrive(int thread, int barrier) {
  merge(barriers_[at(barrier)].arriving, known_from_here(thread));
}

Shadow::Clock Shadow::send(int thread) {
  if (known_.empty()) keep_clocks();
  Clock known = known_from_here(thread);
  const std::size_t first = place_of(0);
  for (std::size_t i = first; i < first + at(first_load_); ++i) known[i] = std::max(known[i], last_barrier_);
  known.resize(at(blocks_ * first_load_));
  return known;
}

std::string Shadow::receive(int barrier, const Clock& sender, std::size_t first, std::size_t bytes,
                            void* site) {
  for (std::size_t i = first / kCellBytes; i * kCellBytes < first + bytes; ++i) {
    Cell& cell = cells_[i];
    if (const Finding finding = fault_of_send(cell, sender); finding.wrong != Wrong::nothing)
      return "writes shared memory byte " + std::to_string(i * kCellBytes) + ", which " +
             words(cell, finding);
    cell.write = {loads_of(barrier), now_, site};
    cell.read = {};
    cell.sent = true;
    cell.copying = Copying::by_load;
  }
  merge(barriers_[at(barrier)].arriving, sender);
  return {};
}

void Shadow::complete(int barrier) {
  TransactionBarrier& completed = barriers_[at(barrier)];
  merge(completed.complete, completed.arriving);
  completed.arriving.clear();
  completed.complete.resize(known_[0].size());
  completed.complete[place_of(loads_of(barrier))] = ++now_;
}

void Shadow::pass(int thread, int barrier) {
  merge(known_[at(thread)], barriers_[at(barrier)].complete);
}

void Shadow::merge(Clock& into, const Clock& from) {
  into.resize(std::max(into.size(), from.size()));
  for (std::size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

std::string Shadow::note(AccessKind kind, int thread, std::size_t first, std::size_t bytes, void* site) {
  const bool is_read = kind == AccessKind::read || kind == AccessKind::read_as_operand ||
                       kind == AccessKind::start_tensor_store;
  const std::size_t end = (first + bytes + kCellBytes - 1) / kCellBytes;
  for (std::size_t i = first / kCellBytes; i < end; ++i) {
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
    const Finding finding = is_read ? fault_of_read(cell, thread, kind) : fault_of_write(cell, thread, kind);
    if (finding.wrong != Wrong::nothing) {
      return std::string(is_read ? "reads" : "writes") + " shared memory byte " +
             std::to_string(i * kCellBytes) + ", which " + words(cell, finding);
    }
    if (kind == AccessKind::atomic) {
      added_[&cell] = {colliding_addition(cell, thread) != nullptr ? kSeveral : thread, now_, site};
      cell.is_added = true;
      cell.read = {};
    } else if (is_read) {
      add_reader(cell, thread, site);
      if (kind == AccessKind::start_tensor_store) ++cell.stores;
    } else {
      cell.write = {thread, now_, site};
      cell.is_added = false;
      cell.read = {};
      cell.sent = false;
      cell.copying = kind == AccessKind::start_copy          ? Copying::by_thread
                     : kind == AccessKind::start_tensor_load ? Copying::by_load
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
      if (cell.read.thread != kSeveral) cell.readers = bit_of(warp_of(cell.read));
      cell.readers |= bit_of(warp);
    }
    cell.read = {kSeveral, now_, site};
  }
}

void Shadow::add_reader_of_several(Cell& cell, const Access& reader) {
  if (cell.readers == kNoReaders) {
    cell.readers = static_cast<std::uint32_t>(readers_.size());
    readers_.emplace_back();
  }
  std::vector<Access>& readers = readers_[cell.readers];
  if (cell.read.thread != kSeveral) readers = {cell.read};
  const int warp = reader.thread / kLanes;
  const auto same = std::find_if(readers.begin(), readers.end(),
                                 [&](const Access& earlier) { return is_of_warp(earlier, warp); });
  if (same != readers.end()) {
    *same = {kSeveralOfWarp - warp, reader.time, reader.site()};
    return;
  }
  // Who must come after the new reader comes after those that are ordered before it.
  readers.erase(std::remove_if(readers.begin(), readers.end(),
                               [&](const Access& earlier) { return !collides(earlier, reader.thread); }),
                readers.end());
  readers.push_back(reader);
}

int Shadow::warp_of(const Access& access) {
  return access.thread >= 0 ? access.thread / kLanes : kSeveralOfWarp - access.thread;
}

bool Shadow::is_of_warp(const Access& access, int warp) {
  return warp_of(access) == warp;
}

bool Shadow::collides_since_barrier(const Access& earlier, int thread) const {
  const int warp = thread / kLanes;
  if (is_of_warp(earlier, warp) && earlier.time < last_warp_barrier_[at(warp)]) return false;
  if (known_.empty() || earlier.thread == kSeveral) return true;
  const Clock& known = known_[at(thread)];
  if (earlier.thread >= 0) return earlier.time >= known[place_of(earlier.thread)];
  const int first = (kSeveralOfWarp - earlier.thread) * kLanes;
  for (int lane = first; lane < first + kLanes; ++lane)
    if (lane != thread && earlier.time >= known[place_of(lane)]) return true;
  return false;
}

bool Shadow::collides(const Access& earlier, const Clock& sender) const {
  if (earlier.thread == kNobody || is_load(earlier) || earlier.time < last_cluster_barrier_) return false;
  if (earlier.thread == kSeveral) return true;
  if (earlier.thread >= 0) return earlier.time >= sender[place_of(earlier.thread)];
  const std::size_t first = place_of((kSeveralOfWarp - earlier.thread) * kLanes);
  return std::any_of(sender.begin() + static_cast<std::ptrdiff_t>(first),
                     sender.begin() + static_cast<std::ptrdiff_t>(first + kLanes),
                     [&](std::uint32_t known) { return earlier.time >= known; });
}

template <class Later>
const Shadow::Access* Shadow::colliding_reader(const Cell& cell, const Later& later) const {
  if (!collides(cell.read, later)) return nullptr;
  if (cell.read.thread != kSeveral || known_.empty() || cell.readers == kNoReaders) return &cell.read;
  for (const Access& reader : readers_[cell.readers])
    if (collides(reader, later)) return &reader;
  return nullptr;
}

bool Shadow::is_fenced(const Cell& cell, int thread) const {
  const Access& write = cell.write;
  if (is_load(write)) return !cell.sent;
  std::uint32_t ordered = last_barrier_;  // a fence before this time is ordered before what `thread` does
  const int warp = thread / kLanes;
  if (is_of_warp(write, warp)) ordered = std::max(ordered, last_warp_barrier_[at(warp)]);
  if (!known_.empty()) ordered = std::max(ordered, known_[at(thread)][place_of(write.thread)]);
  if (write.thread == thread) ordered = now_ + 1;
  const Clock& fences = fences_[at(write.thread)];
  const auto open = std::lower_bound(fences.begin(), fences.end(), ordered);
  return open != fences.begin() && write.time < *(open - 1);
}

Shadow::Finding Shadow::fault_of_read(const Cell& cell, int thread, AccessKind kind) const {
  if (cell.copying != Copying::no) return {Wrong::copying};
  if (cell.write.thread == kNobody) return {Wrong::unwritten};
  if (collides(cell.write, thread)) return {Wrong::unordered_write};
  if (const Access* added = colliding_addition(cell, thread))
    return {Wrong::unordered, added, "wrote", kNoBarrier};
  if (kind != AccessKind::read && !is_fenced(cell, thread)) return {Wrong::unfenced_write};
  return {};
}

Shadow::Finding Shadow::fault_of_write(const Cell& cell, int thread, AccessKind kind) const {
  if (cell.copying != Copying::no) return {Wrong::copying};
  const bool is_atomic = kind == AccessKind::atomic;
  if (is_atomic && cell.write.thread == kNobody) return {Wrong::unwritten};
  if (collides(cell.write, thread)) return {Wrong::unordered_write};
  if (!is_atomic) {
    if (const Access* added = colliding_addition(cell, thread))
      return {Wrong::unordered, added, "wrote", kNoBarrier};
  }
  if (cell.stores > 0) return {Wrong::storing};
  if (const Access* reader = colliding_reader(cell, thread))
    return {Wrong::unordered, reader, "read", kNoBarrier};
  if (kind == AccessKind::start_tensor_load && cell.write.thread != kNobody && !is_fenced(cell, thread))
    return {Wrong::unfenced_write};
  return {};
}

Shadow::Finding Shadow::fault_of_send(const Cell& cell, const Clock& sender) const {
  if (cell.copying != Copying::no) return {Wrong::copying};
  if (cell.stores > 0) return {Wrong::storing};
  if (collides(cell.write, sender)) return {Wrong::unordered, &cell.write, "wrote", kNotTold};
  if (const Access* reader = colliding_reader(cell, sender))
    return {Wrong::unordered, reader, "read", kNotTold};
  return {};
}

std::string Shadow::words(const Cell& cell, const Finding& finding) const {
  const std::string written = source_line(cell.write.site());
  switch (finding.wrong) {
    case Wrong::nothing:
      break;
    case Wrong::copying:
      return still_copying(cell);
    case Wrong::storing:
      return "a tensor copy reads" + source_line(cell.read.site()) + " and nobody has waited for";
    case Wrong::unwritten:
      return "nothing has written";
    case Wrong::unordered_write:
      if (cell.sent) return "another block sent" + written + " and this thread has not waited for";
      return did_without(cell.write, "wrote", kNoBarrier);
    case Wrong::unfenced_write:
      if (cell.sent) return "another block sent" + written + " and wgmma and tensor copies do not see";
      return did_without(cell.write, "wrote", kNoFence);
    case Wrong::unordered:
      return did_without(*finding.earlier, finding.did, finding.missing);
  }
  return {};
}

std::string Shadow::still_copying(const Cell& cell) {
  if (cell.sent)
    return "another block sends to" + source_line(cell.write.site()) + " and nobody has waited for";
  return "thread " + std::to_string(cell.write.thread) + " copies to" + source_line(cell.write.site()) +
         (cell.copying == Copying::by_thread ? " and has not waited for" : " and nobody has waited for");
}

std::string Shadow::did_without(const Access& earlier, const char* did, const char* missing) const {
  if (is_load(earlier))
    return "a tensor copy " + std::string(did) + source_line(earlier.site()) +
           " and this thread has not waited for";
  const std::string who =
      earlier.thread < 0 ? std::string("several threads") : "thread " + std::to_string(earlier.thread);
  return who + " " + did + source_line(earlier.site()) + " and " + missing;
}

}  // namespace gla::emulator
