// Packed sequences, whose lengths the host does not know: what the blocks of a segmented walk work on, and in which order. What has
// most tokens is begun first, so that little is left to wait for at the end (R. L. Graham, "Bounds on Multiprocessing Timing
// Anomalies", 1969), and sequences that would take longer than it takes to walk them twice are cut into segments.
#pragma once

#include "args.h"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "segment_layout.h"
#include "sequence.cuh"

namespace gla {

/// One block fills all lists of a schedule, and what is left of them with pieces that are none. Which of two pieces of about the
/// same length is first may differ from run to run; what the blocks write does not.
template <int Threads>
class ScheduleMaker {
 public:
  GLA_DEVICE explicit ScheduleMaker(const KernelArgs& kernel_args) : args(kernel_args) {}

  GLA_DEVICE void run() {
    clear();
    if (args.schedule.segments > 0 && !block_sync_and(has_none_to_cut())) choose_cut();
    each_sequence([&](const Piece& first, int last_tokens) {
      if (has_slots(first))
        atomic_add(counters + bucket_of(whole()), static_cast<unsigned int>(first.pieces - 1));
      atomic_add(counters + bucket_of(last_tokens), 1u);
    });
    block_sync();
    if (warp_index() == 0) each_bucket([&](int bucket, unsigned int ahead) { counters[bucket] = ahead; });
    block_sync();
    each_sequence([&](Piece piece, int last_tokens) {
      if (has_slots(piece)) put_segments(piece);
      args.schedule.walks[atomic_add(counters + bucket_of(last_tokens), 1u)] = piece;
    });
    block_sync();
    fill(args.schedule.walks, args.sequences + counters[kStates], args.sequences + args.schedule.segments);
    fill(args.schedule.states, counters[kStates], args.schedule.segments);
    fill(args.schedule.cut, counters[kCut], args.schedule.segments / 2);
  }

 private:
  /// Behind those of the buckets: how many segments, sequences and slots have been dealt out.
  enum { kStates = kLengthBuckets, kCut, kSlots };
  static_assert(kSlots + 1 == kScheduleCounters);
  static constexpr float kCostOfStates = 0.6f;  ///< of a walk for the state alone, of one with outputs
  static constexpr int kEighthsOfOne = 127 << 3,
                       kEighthBits = 20;  ///< the first bits of 1.0f, and where they are

  const KernelArgs& args;
  unsigned int* const counters = reinterpret_cast<unsigned int*>(shared_memory());
  int first_whole = 0;  ///< the bucket from which on sequences are not cut

  GLA_DEVICE int whole() const { return static_cast<int>(args.segment_tokens); }

  GLA_DEVICE void clear() const {
    for (int i = thread_index(); i < kScheduleCounters; i += Threads) counters[i] = 0;
    block_sync();
  }

  /// Of the thread's sequences.
  GLA_DEVICE bool has_none_to_cut() const {
    bool all_short = true;
    each_length([&](int, int tokens) { all_short = all_short && tokens <= 2 * args.segment_tokens; });
    return all_short;
  }

  /// Calls use(a sequence's first piece, the tokens of its last one) for those of the thread. The slots of one that is cut are
  /// yet to be dealt out.
  template <class Use>
  GLA_DEVICE void each_sequence(Use use) const {
    each_length([&](int n, int tokens) {
      const bool is_cut = tokens > 2 * args.segment_tokens && bucket_of(tokens) < first_whole;
      const int pieces = is_cut ? (tokens + whole() - 1) / whole() : 1;
      use({n, 0, is_cut ? 0 : -1, pieces}, is_cut ? tokens - (pieces - 1) * whole() : tokens);
    });
  }
  template <class Use>
  GLA_DEVICE void each_length(Use use) const {
    for (int n = thread_index(); n < args.sequences; n += Threads)
      use(n, static_cast<int>(sequence_of(args, n).length));
  }

  /// Of those that have so many tokens, to an eighth of an octave; the buckets of more come first.
  GLA_DEVICE static int bucket_of(int tokens) {
    if (tokens == 0) return kLengthBuckets - 1;
    const int eighths =
        static_cast<int>(float_to_bits(static_cast<float>(tokens)) >> kEighthBits) - kEighthsOfOne;
    return eighths < kLengthBuckets - 1 ? kLengthBuckets - 2 - eighths : 0;
  }
  /// The fewest tokens of a bucket; not of the last one, which has none.
  GLA_DEVICE static float least_of(int bucket) {
    return bits_to_float(static_cast<Bits32>(kLengthBuckets - 2 - bucket + kEighthsOfOne) << kEighthBits);
  }

  /// Calls visit(bucket, what those ahead of it have counted), for each by a lane of the warp.
  template <class Visit>
  GLA_DEVICE void each_bucket(Visit visit) const {
    constexpr int kOwn = kLengthBuckets / kWarpSize;
    const int first = lane_index() * kOwn;
    unsigned int own[kOwn];
    long long all = 0, ahead = 0;  // of as many lanes as have met; of those ahead of the lane
    GLA_UNROLL
    for (int i = 0; i < kOwn; ++i) all += own[i] = counters[first + i];
    GLA_UNROLL
    for (int mask = 1; mask < kWarpSize; mask *= 2) {
      const long long others = shuffle_xor(all, mask);
      if ((lane_index() & mask) != 0) ahead += others;
      all += others;
    }
    GLA_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      visit(first + i, static_cast<unsigned int>(ahead));
      ahead += own[i];
    }
  }

  /// With the sequences of all buckets ahead of one cut, the rest takes as long as the longest of them, or as all of it takes with
  /// every block at work: the share, what walking the cut ones for states adds to it, and a segment that does not come out even.
  /// Finds the bucket for which that is least.
  GLA_DEVICE void choose_cut() {
    each_length([&](int, int tokens) {
      atomic_add(counters + bucket_of(tokens), static_cast<unsigned int>(tokens));
    });
    block_sync();
    if (warp_index() == 0) {
      const int last = bucket_of(2 * whole());
      const auto share = static_cast<float>(args.schedule.share), all = static_cast<float>(args.tokens);
      long long best = kNever;  // the bits of a cost, which are as the cost is, and the bucket
      each_bucket([&](int bucket, unsigned int cut) {
        const float states = share * kCostOfStates * static_cast<float>(cut) / all,
                    uneven = cut > 0 ? 0.5f * static_cast<float>(whole()) : 0.0f;
        const float together = share + states + uneven, longest = least_of(bucket);
        const long long cost = float_to_bits(longest > together ? longest : together);
        if (const long long own = cost * kLengthBuckets + bucket; bucket <= last && own < best) best = own;
      });
      GLA_UNROLL
      for (int mask = 1; mask < kWarpSize; mask *= 2) {
        const long long other = shuffle_xor(best, mask);
        if (other < best) best = other;
      }
      if (lane_index() == 0) counters[kSlots] = static_cast<unsigned int>(best % kLengthBuckets);
    }
    block_sync();
    first_whole = static_cast<int>(counters[kSlots]);
    block_sync();
    clear();
  }
  static constexpr long long kNever = 1LL << 62;

  /// All but the last one, which `piece` is then.
  GLA_DEVICE void put_segments(Piece& piece) const {
    const auto number = static_cast<unsigned int>(piece.pieces - 1);
    piece.first_slot = static_cast<int>(atomic_add(counters + kSlots, number + 1));
    args.schedule.cut[atomic_add(counters + kCut, 1u)] = piece;
    Piece* const walks = args.schedule.walks + atomic_add(counters + bucket_of(whole()), number);
    Piece* const states = args.schedule.states + atomic_add(counters + kStates, number);
    for (; !is_last(piece); ++piece.index) walks[piece.index] = states[piece.index] = piece;
  }

  GLA_DEVICE static void fill(Piece* pieces, Index first, Index end) {
    for (Index i = first + thread_index(); i < end; i += Threads) pieces[i] = {};
  }
};

template <int Threads>
GLA_DEVICE void make_schedule(const KernelArgs& args) {
  ScheduleMaker<Threads>(args).run();
}

}  // namespace gla
