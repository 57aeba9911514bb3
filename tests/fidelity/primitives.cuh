// Kernels that do nothing but call the primitives of templates/device, for NVRTC and for the emulator: on the same
// input both must leave the same words. Words in, words out; what a word means is each kernel's own.
// primitive_program.cpp makes an entry of each function that takes PrimitiveArgs. Guarded by a name, because the file is
// also the start of that program, where `#pragma once` is a warning.
#ifndef GLA_TESTS_FIDELITY_PRIMITIVES_CUH
#define GLA_TESTS_FIDELITY_PRIMITIVES_CUH

#include "device/async_copy.cuh"
#include "device/copy.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "device/tile.cuh"

namespace gla {

struct PrimitiveArgs {
  const Bits32* in = nullptr;
  Bits32* out = nullptr;
  long long count = 0;  ///< items of `in`
};

/// Calls item(i) for this thread's share of `count` items.
template <class Item>
GLA_DEVICE void each_item(const PrimitiveArgs& args, int threads, Item item) {
  for (long long i = block_index() * threads + thread_index(); i < args.count; i += grid_size() * threads)
    item(i);
}

/// Elements of the square tile that the matrix loads read, and its padded row.
inline constexpr int kTileRows = 32, kTileRowBytes = 80;
/// Items of a lane: rounds of `count` use them one after another.
inline constexpr int kLoadWords = 6 * 4, kProductWords = 4 + 2 + 4, kShuffleMasks = 6, kCopySlot = 16;
inline constexpr int kElementwiseThreads = 128, kVoteThreads = 96, kPartThreads = 64, kCopyThreads = 64;

/// In: 16-bit patterns. Out, two words each: the float of the pattern as fp16, as bf16.
GLA_DEVICE void widen(const PrimitiveArgs& args) {
  each_item(args, kElementwiseThreads, [&](long long i) {
    const auto half = static_cast<Bits16>(args.in[i]);
    args.out[2 * i] = float_to_bits(to_float(fp16{half}));
    args.out[2 * i + 1] = float_to_bits(to_float(bf16{half}));
  });
}

/// In: floats. Out, a word each: fp16 in the low half, bf16 in the high one.
GLA_DEVICE void narrow(const PrimitiveArgs& args) {
  each_item(args, kElementwiseThreads, [&](long long i) {
    const float value = bits_to_float(args.in[i]);
    args.out[i] = from_float<fp16>(value).bits | static_cast<Bits32>(from_float<bf16>(value).bits) << 16;
  });
}

/// In: floats. Out, six words each: the float and its bitwise complement as one, two and three bf16 parts.
GLA_DEVICE void split(const PrimitiveArgs& args) {
  each_item(args, kElementwiseThreads, [&](long long i) {
    const float low = bits_to_float(args.in[i]), high = bits_to_float(~args.in[i]);
    Bits32 one[1], two[2], three[3];
    split_bf16(low, high, one);
    split_bf16(low, high, two);
    split_bf16(low, high, three);
    const Bits32 words[6] = {one[0], two[0], two[1], three[0], three[1], three[2]};
    for (int word = 0; word < 6; ++word) args.out[6 * i + word] = words[word];
  });
}

/// In: floats. Out, a word each: 2 to their power.
GLA_DEVICE void power(const PrimitiveArgs& args) {
  each_item(args, kElementwiseThreads,
            [&](long long i) { args.out[i] = float_to_bits(exp2_fast(bits_to_float(args.in[i]))); });
}

/// In: pairs of 16 bits. Out, three words each, of a word and the next: the greater ones as bf16; as fp16 the greater magnitudes,
/// and where the first is at least the second.
GLA_DEVICE void greater(const PrimitiveArgs& args) {
  each_item(args, kElementwiseThreads, [&](long long i) {
    const Bits32 a = args.in[i], b = args.in[(i + 1) % args.count];
    args.out[3 * i] = max_bf16(a, b);
    args.out[3 * i + 1] = greater_magnitude(a, b);
    args.out[3 * i + 2] = mask_at_least(a, b);
  });
}

/// One warp. In: a tile of 32 x 32 16-bit elements, two a word. Out, per lane: every way to read it as operands.
GLA_DEVICE void read_tile(const PrimitiveArgs& args) {
  unsigned char* shared = shared_memory();
  const int lane = lane_index();
  for (int row = 0; row < kTileRows; ++row) {
    if (lane < kTileRows / 2)
      reinterpret_cast<Bits32*>(shared + row * kTileRowBytes)[lane] = args.in[row * (kTileRows / 2) + lane];
  }
  block_sync();
  const OperandTile tile{shared, kTileRows, kTileRows, kTileRowBytes};
  Bits32 words[6][4];
  load_matrices(words[0], tile.at(lane, 8));
  load_matrices_transposed(words[1], tile.at(lane, 16));
  load_a(words[2], tile, 16, 8);
  load_a_transposed(words[3], tile, 16, 8);
  load_b(words[4], tile, 8, 16);
  load_b_transposed(words[5], tile, 8, 16);
  for (int load = 0; load < 6; ++load)
    for (int i = 0; i < 4; ++i) args.out[lane * kLoadWords + 4 * load + i] = words[load][i];
}

/// A block is a warp and does one product. In, per lane: a[4], b[2], d[4]. Out, per lane: d[4].
GLA_DEVICE void product(const PrimitiveArgs& args) {
  const long long item = block_index() * kWarpSize + lane_index();
  const Bits32* in = args.in + item * kProductWords;
  const Bits32 a[4] = {in[0], in[1], in[2], in[3]};
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = bits_to_float(in[6 + i]);
  multiply_accumulate(d, a, in[4], in[5]);
  for (int i = 0; i < 4; ++i) args.out[4 * item + i] = float_to_bits(d[i]);
}

/// The words of what each mask brings, and of two sums. A value's low word comes first.
template <class T>
GLA_DEVICE void shuffle_words(T value, Bits32* out) {
  constexpr int kWords = sizeof(T) / sizeof(Bits32);
  constexpr int kMasks[kShuffleMasks] = {1, 2, 4, 8, 16, 31};
  T results[kShuffleMasks + 2];
  for (int i = 0; i < kShuffleMasks; ++i) results[i] = shuffle_xor(value, kMasks[i]);
  results[kShuffleMasks] = sum_lanes<4>(value);
  results[kShuffleMasks + 1] = sum_lanes<kWarpSize>(value);
  const auto* words = reinterpret_cast<const Bits32*>(results);
  for (int i = 0; i < kWords * (kShuffleMasks + 2); ++i) out[i] = words[i];
}

/// One warp. In: a float per lane. Out, per lane: shuffles and sums of it as float, as double and as integer.
GLA_DEVICE void shuffle(const PrimitiveArgs& args) {
  constexpr int kResults = kShuffleMasks + 2;
  Bits32* out = args.out + lane_index() * 5 * kResults;
  const float value = bits_to_float(args.in[lane_index()]);
  shuffle_words(value, out);
  shuffle_words(static_cast<double>(value) / 3.0, out + kResults);
  shuffle_words(static_cast<long long>(args.in[lane_index()]) * 65537, out + 3 * kResults);
}

/// A vote per round of a block. In: a word per thread and round. Out, the same: whether all threads had one that is not 0.
GLA_DEVICE void vote(const PrimitiveArgs& args) {
  for (long long i = thread_index(); i < args.count; i += kVoteThreads)
    args.out[i] = block_sync_and(args.in[i] != 0) ? 1 : 0;
}

/// Two parts of a block, each on its own. In: a word per thread and round. Out, two each: the word of another thread of
/// its part, and whether all words of the part were not 0.
GLA_DEVICE void parts(const PrimitiveArgs& args) {
  auto* shared = reinterpret_cast<Bits32*>(shared_memory());
  const int part = thread_index() / kPartThreads, first = part * kPartThreads;
  const int other = first + (thread_index() + kPartThreads / 2 + 1) % kPartThreads;
  for (long long i = thread_index(); i < args.count; i += 2 * kPartThreads) {
    shared[thread_index()] = args.in[i];
    part_sync<kPartThreads>(1 + part);
    args.out[2 * i] = shared[other];
    args.out[2 * i + 1] = part_sync_and<kPartThreads>(14 + part, args.in[i] != 0) ? 1 : 0;
  }
}

/// Thread t copies `Bytes` bytes to its slot, every third thread nothing but zeros; the slots become words of `out`.
template <int Bytes>
GLA_DEVICE void copy_slots(const Bits32* in, Bits32* out) {
  unsigned char* slot = shared_memory() + thread_index() * kCopySlot;
  for (int i = 0; i < kCopySlot / 4; ++i) reinterpret_cast<Bits32*>(slot)[i] = 0x01020304u;
  copy_async<Bytes>(slot, in + thread_index() * kCopySlot / 4, thread_index() % 3 != 0);
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  // Another thread's slot: what it waited for must be seen here after the barrier.
  const int other = kCopyThreads - 1 - thread_index();
  for (int i = 0; i < kCopySlot / 4; ++i)
    out[other * kCopySlot / 4 + i] = reinterpret_cast<Bits32*>(shared_memory() + other * kCopySlot)[i];
  block_sync();
}

/// 16 rows of 8 words, 6 of which exist in 11 rows, into a tile that was zeroed before.
template <bool Async>
GLA_DEVICE void copy_tile(const Bits32* in, Bits32* out) {
  constexpr int kRows = 16, kColumns = 8, kRowBytes = 48;
  zero_shared<kCopyThreads>(shared_memory(), kRows * kRowBytes);
  block_sync();
  copy_rows<float, kRows, kColumns, 8, kCopyThreads, Async>(
      RawTile<float>{shared_memory(), kRowBytes, kRows, kColumns}, reinterpret_cast<const float*>(in),
      kColumns, 11, 6, thread_index());
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  for (int i = thread_index(); i < kRows * kRowBytes / 4; i += kCopyThreads)
    out[i] = reinterpret_cast<const Bits32*>(shared_memory())[i];
  block_sync();
}

/// Two groups in flight; the first is read while the second may still be on its way.
GLA_DEVICE void copy_groups(const Bits32* in, Bits32* out) {
  auto* slots = reinterpret_cast<Bits32*>(shared_memory()) + 2 * thread_index();
  for (int group = 0; group < 2; ++group) {
    copy_async<4>(slots + group, in + 2 * thread_index() + group, true);
    copy_async_commit();
  }
  copy_async_wait<1>();
  out[2 * thread_index()] = slots[0];
  copy_async_wait<0>();
  out[2 * thread_index() + 1] = slots[1];
  block_sync();
}

inline constexpr int kCopyInWords = kCopyThreads * kCopySlot / 4, kCopyTileWords = 16 * 48 / 4;
inline constexpr int kCopyWords = 3 * kCopyInWords + 2 * kCopyTileWords + 2 * kCopyThreads;

/// One block. In: kCopyInWords words. Out: kCopyWords words, every way to copy them through shared memory.
GLA_DEVICE void copy_ways(const PrimitiveArgs& args) {
  Bits32* out = args.out;
  copy_slots<4>(args.in, out);
  copy_slots<8>(args.in, out += kCopyInWords);
  copy_slots<16>(args.in, out += kCopyInWords);
  copy_tile<true>(args.in, out += kCopyInWords);
  copy_tile<false>(args.in, out += kCopyTileWords);
  copy_groups(args.in, out + kCopyTileWords);
}

/// Any grid. Out: two 64-bit counters, then a word per thread of the grid: its place.
GLA_DEVICE void place(const PrimitiveArgs& args) {
  auto* counters = reinterpret_cast<unsigned long long*>(args.out);
  const long long thread = block_index() * kVoteThreads + thread_index();
  atomic_add(counters, 1);
  atomic_add(counters + 1, 0xffffffffull + static_cast<unsigned long long>(grid_size()));
  args.out[4 + thread] = static_cast<Bits32>(thread * 1000 + warp_index() * 100 + lane_index());
}

}  // namespace gla

#endif
