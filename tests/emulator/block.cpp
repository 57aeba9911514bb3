#include "block.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>

#include "cluster.h"
#include "source_line.h"
#include "trap.h"

namespace gla::emulator {
namespace {

constexpr int kWordBits = 64;
constexpr std::size_t kSharedAlignment = 128;  // what device/thread.cuh promises

/// In words: what it waits for.
std::string state_of(const Thread& thread) {
  std::string state = std::string("waiting at ") + thread.waits_at;
  if (thread.part > 0) state.append(" ").append(std::to_string(thread.part));
  return state;
}

void thread_entry() {
  fiber_entered();
  current_block()->run_thread();
}

}  // namespace

std::uint64_t draw(std::uint64_t& state) {
  return state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth, MMIX
}

Block::Block(Cluster& cluster, int rank, const Shape& shape, const Options& options,
             const std::function<void()>& thread_program, Accesses accesses)
    : cluster_(cluster),
      rank_(rank),
      shape_(shape),
      options_(options),
      program_(thread_program),
      shared_(shape.shared_bytes, kSharedAlignment),
      threads_(static_cast<std::size_t>(shape.threads)),
      warps_((threads_.size() + kLanes - 1) / kLanes),
      warpgroups_((threads_.size() + kWarpgroupThreads - 1) / kWarpgroupThreads),
      ready_((threads_.size() + kWordBits - 1) / kWordBits),
      random_state_(options.seed + static_cast<std::uint64_t>(rank)) {
  if (accesses == Accesses::told) shadow_.emplace(shape.shared_bytes, shape.threads, rank, shape.cluster);
}

void Block::start(long long index) {
  index_ = index;
  fault_.clear();
  barrier_ = {};
  parts_ = {};
  transaction_barriers_.clear();
  for (Group& warp : warps_) warp = {{}, std::vector<void*>(kLanes)};
  for (Group& warpgroup : warpgroups_) warpgroup = {{}, std::vector<void*>(kWarpgroupThreads)};
  for (int i = 0; i < shape_.threads; ++i) {
    Thread& thread = threads_[static_cast<std::size_t>(i)];
    thread = {};
    thread.context = stacks_.start(static_cast<std::size_t>(i), thread_entry);
    set_ready(i, true);
  }
  shared_.poison();
  if (shadow_) shadow_->reset();
}

bool Block::is_ready() const {
  return std::any_of(ready_.begin(), ready_.end(), [](std::uint64_t word) { return word != 0; });
}

bool Block::is_finished() const {
  return std::all_of(threads_.begin(), threads_.end(), [](const Thread& thread) { return thread.finished; });
}

std::string Block::left_behind() const {
  for (const auto& [offset, barrier] : transaction_barriers_) {
    if (const std::string left = left_over(barrier); !left.empty()) return name() + " " + left;
  }
  return shared_.end_intact() ? "" : name() + ": a write past the end of shared memory";
}

void Block::run_fibers() {
  scheduler_ = thread_context();
  if (sigsetjmp(escape_, 1) == 0) {
    give_way(scheduler_);
  } else {
    fiber_left_by_jump(scheduler_);
  }
}

void Block::run_thread() {
  program_();
  if (!thread().products.empty())
    fail("ends before it has waited for its wgmma", thread().products.front().call_site);
  if (!thread().stores.empty())
    fail("ends before it has waited for its tensor_store", thread().stores.front().call_site);
  void* const let = thread().let_next_start;
  if (!thread().waited_for_earlier && (let != nullptr || options_.stream != nullptr)) {
    fail(std::string(let != nullptr ? "lets the next kernel start and " : "") +
             "ends without wait_for_earlier_kernels",
         let);
  }
  thread().finished = true;
  set_ready(running_, false);
  give_way(thread().context);
  __builtin_unreachable();
}

template <int Size>
void Block::meet(std::vector<Group>& groups, const char* name, void* call_site, void* operand,
                 GroupAction action) {
  Group& group = groups[static_cast<std::size_t>(running_ / Size)];
  group.operands[static_cast<std::size_t>(running_ % Size)] = operand;
  arrive(group.meeting, name, call_site);
  if (group.meeting.arrived == Size) {
    group.meeting = {};
    action(*this, group.operands);
    const int first = running_ / Size * Size;
    for (int i = first; i < first + Size; ++i) set_ready(i, true);
  }
  give_way(thread().context);
}

void Block::meet_warp(const char* name, void* call_site, void* operand, GroupAction action) {
  meet<kLanes>(warps_, name, call_site, operand, action);
}

void Block::meet_warpgroup(const char* name, void* call_site, void* operand, GroupAction action) {
  meet<kWarpgroupThreads>(warpgroups_, name, call_site, operand, action);
}

bool Block::meet_block(const char* name, void* call_site, bool value) {
  arrive(barrier_, name, call_site);
  barrier_all_ = barrier_all_ && value;
  if (barrier_.arrived == shape_.threads) {
    barrier_ = {};
    barrier_result_ = std::exchange(barrier_all_, true);
    if (shadow_) shadow_->barrier();
    set_all_ready();
  }
  give_way(thread().context);
  return barrier_result_;
}

bool Block::meet_part(const char* name, void* call_site, int id, int threads, bool value) {
  const auto refuse = [&](const std::string& why) { fail(std::string(name) + why, call_site); };
  if (id < 1 || id >= kPartBarriers) refuse(" at barrier " + std::to_string(id) + ", not 1 to 15");
  if (threads < 1 || threads % kLanes != 0 || threads > shape_.threads)
    refuse(" of " + std::to_string(threads) + " threads, not whole warps of the block");
  PartBarrier& part = parts_[static_cast<std::size_t>(id)];
  if (part.meeting.arrived == 0) part.threads = threads;
  if (part.threads != threads)
    refuse(" of " + std::to_string(threads) + " threads, while others wait there for " +
           std::to_string(part.threads));
  if (shadow_ && !shadow_->may_use_part(running_, id))
    refuse(" at barrier " + std::to_string(id) + ", which others have used and no barrier has followed");
  arrive(part.meeting, name, call_site);
  thread().part = id;
  part.waiting.push_back(running_);
  part.all_agree = part.all_agree && value;
  if (part.meeting.arrived == threads) {
    require_whole_warps(part, name, call_site);
    if (shadow_) shadow_->part_barrier(part.waiting, id);
    const PartBarrier met = std::exchange(part, {});
    for (const int i : met.waiting) {
      threads_[static_cast<std::size_t>(i)].all_agree = met.all_agree;
      threads_[static_cast<std::size_t>(i)].part = 0;
      set_ready(i, true);
    }
  }
  give_way(thread().context);
  return thread().all_agree;
}

void Block::meet_cluster(const char* name, void* call_site) {
  Meeting& meeting = cluster_.meeting();
  arrive(meeting, name, call_site);
  if (meeting.arrived == cluster_.size() * shape_.threads) {
    meeting = {};
    for (int rank = 0; rank < cluster_.size(); ++rank) {
      Block& block = cluster_.block(rank);
      for (auto& [offset, barrier] : block.transaction_barriers_) barrier.known_to_cluster = true;
      if (block.shadow_) block.shadow_->cluster_barrier();
      block.set_all_ready();
    }
  }
  give_way(thread().context);
}

void Block::require_whole_warps(PartBarrier& part, const char* name, void* call_site) {
  std::sort(part.waiting.begin(), part.waiting.end());
  for (std::size_t i = 0; i < part.waiting.size(); ++i) {
    const std::size_t first = i / kLanes * kLanes;
    if (part.waiting[first] % kLanes != 0 ||
        part.waiting[i] != part.waiting[first] + static_cast<int>(i - first))
      fail(std::string(name) + ": lanes of warp " + std::to_string(part.waiting[i] / kLanes) +
               " are missing, or more warps come than meet",
           call_site);
  }
}

void Block::wait(const char* name, void* call_site) {
  thread().waits_at = name;
  thread().call_site = call_site;
  set_ready(running_, false);
  give_way(thread().context);
}

void Block::require_shared(const char* name, const void* address, int bytes, int alignment, void* call_site) {
  const std::ptrdiff_t offset = offset_of(address);
  if (!shared_.contains(address, static_cast<std::size_t>(bytes))) {
    fail(std::string(name) + " outside shared memory (byte " + std::to_string(offset) + " of " +
             std::to_string(shared_.size()) + ")",
         call_site);
  }
  if (offset % alignment != 0) {
    fail(std::string(name) + " at byte " + std::to_string(offset) + " of shared memory, not a multiple of " +
             std::to_string(alignment),
         call_site);
  }
}

void Block::note_shared_access(AccessKind kind, const void* address, std::size_t bytes, void* call_site) {
  const auto first = static_cast<std::size_t>(offset_of(address));
  const std::string fault = shadow_->note(kind, running_, first, bytes, call_site);
  if (!fault.empty()) fail(fault, call_site);
}

void Block::note_global_access(AccessKind kind, const void* address, std::size_t bytes, void* call_site) {
  const bool writes = kind == AccessKind::write;
  if (Work* work = options_.work)
    (writes ? work->stored_bytes : work->loaded_bytes) += static_cast<std::int64_t>(bytes);
  if (Stream* stream = options_.stream) {
    if (kind != AccessKind::atomic && !thread().waited_for_earlier && stream->is_pending(address, bytes)) {
      fail(std::string(writes ? "writes" : "reads") +
               " what an earlier kernel writes without wait_for_earlier_kernels",
           call_site);
    }
    if (kind != AccessKind::read) stream->write(address, bytes);
  }
}

void Block::let_next_start(void* call_site) {
  thread().let_next_start = call_site;
  if (options_.stream != nullptr) options_.stream->let_next_start(thread().waited_for_earlier);
}

void Block::note_warp_barrier() {
  if (shadow_) shadow_->warp_barrier(running_ / kLanes);
}

void Block::note_fence() {
  if (shadow_) shadow_->fence(running_);
}

TransactionBarrier* Block::barrier_at(const void* address) {
  const auto found = transaction_barriers_.find(offset_of(address));
  return found == transaction_barriers_.end() ? nullptr : &found->second;
}

void Block::add_barrier(const void* address, int arrivals) {
  const auto number = static_cast<int>(transaction_barriers_.size());
  if (shadow_) shadow_->add_barrier();
  transaction_barriers_[offset_of(address)] = {
      .offset = offset_of(address), .number = number, .arrivals = arrivals};
}

void Block::note_arrival(const TransactionBarrier& barrier) {
  if (shadow_) shadow_->arrive(running_, barrier.number);
}

void Block::note_load(const TransactionBarrier& barrier, const PendingBox& load) {
  if (!shadow_) return;
  shadow_->note(AccessKind::finish_tensor_load, shadow_->loads_of(barrier.number),
                static_cast<std::size_t>(offset_of(load.shared)),
                static_cast<std::size_t>(load.tensor.box_bytes()), load.call_site);
}

std::string Block::note_send(Block& receiver, const TransactionBarrier& barrier, const PendingSend& sent) {
  if (!shadow_) return {};
  return receiver.shadow_->receive(barrier.number, shadow_->send(running_),
                                   static_cast<std::size_t>(receiver.offset_of(sent.slot)),
                                   sizeof sent.values, sent.call_site);
}

void Block::note_arrival(const TransactionBarrier& barrier, const PendingSend& sent) {
  if (!shadow_) return;
  shadow_->note(AccessKind::finish_tensor_load, shadow_->loads_of(barrier.number),
                static_cast<std::size_t>(offset_of(sent.slot)), sizeof sent.values, sent.call_site);
}

void Block::note_complete(TransactionBarrier& barrier) {
  if (shadow_) shadow_->complete(barrier.number);
  for (const int thread : barrier.waiting) set_ready(thread, true);
  barrier.waiting.clear();
}

void Block::note_pass(const TransactionBarrier& barrier) {
  if (shadow_) shadow_->pass(running_, barrier.number);
}

void Block::arrive(Meeting& meeting, const char* name, void* call_site) {
  if (meeting.arrived == 0) meeting.name = name;
  if (std::strcmp(meeting.name, name) != 0) {
    fail(std::string(name) + ", while others of its group wait at " + meeting.name, call_site);
  }
  ++meeting.arrived;
  thread().waits_at = name;
  thread().call_site = call_site;
  set_ready(running_, false);
}

void Block::set_ready(int thread, bool ready) {
  const std::uint64_t bit = std::uint64_t{1} << thread % kWordBits;
  std::uint64_t& word = ready_[static_cast<std::size_t>(thread / kWordBits)];
  word = ready ? word | bit : word & ~bit;
}

void Block::set_all_ready() {
  for (int i = 0; i < shape_.threads; ++i) set_ready(i, true);
}

int Block::next_ready() {
  const int words = static_cast<int>(ready_.size());
  if (options_.order == Order::backward) {
    for (int w = words - 1; w >= 0; --w) {
      const std::uint64_t word = ready_[static_cast<std::size_t>(w)];
      if (word != 0) return w * kWordBits + kWordBits - 1 - std::countl_zero(word);
    }
    return -1;
  }
  int first = 0;
  int rotation = 0;
  if (options_.order == Order::random) {
    const std::uint64_t drawn = draw(random_state_);
    first = static_cast<int>((drawn >> 33) % static_cast<std::uint64_t>(words));
    rotation = static_cast<int>(drawn >> 58);
  }
  for (int i = 0; i < words; ++i) {
    const int w = (first + i) % words;
    const std::uint64_t word = std::rotr(ready_[static_cast<std::size_t>(w)], rotation);
    if (word != 0) return w * kWordBits + (std::countr_zero(word) + rotation) % kWordBits;
  }
  return -1;
}

void Block::give_way(Context& from) {
  const int next = next_ready();
  if (next < 0) {
    if (&from != &scheduler_) switch_context(from, scheduler_);
    return;
  }
  Context& to = threads_[static_cast<std::size_t>(next)].context;
  running_ = next;
  stack_ = static_cast<const std::byte*>(to.stack_bottom);
  stack_bytes_ = to.stack_bytes;
  if (&from != &to) switch_context(from, to);
}

void Block::fail(const std::string& what, void* call_site) {
  fault_ = name() + ", thread " + std::to_string(running_) + ": " + what + source_line(call_site);
  set_ready(running_, false);
  switch_context(thread().context, scheduler_);
  __builtin_unreachable();
}

void Block::trap(int signal, void* address, void* call_site) {
  fault_ = name() + ", thread " + std::to_string(running_) + ": " + describe_trap(signal, address, shared_) +
           source_line(call_site);
  siglongjmp(escape_, 1);
}

std::string Block::name() const {
  return std::string("block ").append(std::to_string(index_));
}

std::string Block::deadlock() const {
  std::map<std::pair<std::string, void*>, std::pair<int, int>>
      groups;  // what, where -> how many, the first of them
  for (int i = 0; i < shape_.threads; ++i) {
    const Thread& thread = threads_[static_cast<std::size_t>(i)];
    const auto what = thread.finished ? std::pair(std::string("finished"), static_cast<void*>(nullptr))
                                      : std::pair(state_of(thread), thread.call_site);
    auto& [count, first] = groups[what];
    if (count++ == 0) first = i;
  }
  std::string message = name() + " cannot go on:";
  for (const auto& [what, group] : groups) {
    message += ' ';
    message += std::to_string(group.first) + " threads (first: " + std::to_string(group.second) + ") " +
               what.first + source_line(what.second) + ";";
  }
  message.pop_back();
  for (const auto& [offset, barrier] : transaction_barriers_) {
    if (!barrier.waiting.empty()) message += "; " + state_of(barrier);
  }
  return message;
}

}  // namespace gla::emulator
