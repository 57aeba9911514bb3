// Where a thread is, and how the threads of a block or a warp meet.
#pragma once

#include "platform.cuh"

namespace gla {

inline constexpr int kWarpSize = 32;

GLA_DEVICE int thread_index() {
#if defined(GLA_EMULATOR)
  return emulator::thread_index();
#else
  return static_cast<int>(threadIdx.x);
#endif
}

GLA_DEVICE long long block_index() {
#if defined(GLA_EMULATOR)
  return emulator::block_index();
#else
  return blockIdx.x;
#endif
}

GLA_DEVICE long long grid_size() {
#if defined(GLA_EMULATOR)
  return emulator::grid_size();
#else
  return gridDim.x;
#endif
}

// Through unsigned numbers: of signed ones the compiler does not know that they are no less than 0, and rounds quotients towards it.
GLA_DEVICE int lane_index() {
  return static_cast<int>(static_cast<unsigned int>(thread_index()) % kWarpSize);
}
GLA_DEVICE int warp_index() {
  return static_cast<int>(static_cast<unsigned int>(thread_index()) / kWarpSize);
}

/// The same value, of which the compiler knows nothing: what follows from it is computed where it is needed and nowhere ahead, where
/// it would take registers from code that runs more often.
GLA_DEVICE unsigned int opaque(unsigned int value) {
#if !defined(GLA_EMULATOR)
  asm volatile("" : "+r"(value));
#endif
  return value;
}

/// The same value, which all 32 lanes of the warp have, and the compiler knows to be one then: addresses that come from it lie in
/// uniform registers.
GLA_DEVICE unsigned int uniform(unsigned int value) {
#if defined(GLA_EMULATOR)
  return value;
#else
  return __reduce_or_sync(0xffffffffu, value);
#endif
}

/// Stores where `condition` holds, without a branch: behind one that some lanes take the compiler may hold the whole walk for
/// divided, and gives up uniform registers.
GLA_DEVICE void store_if(bool condition, float* address, float value) {
#if defined(GLA_EMULATOR)
  if (condition) *address = value;
#else
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p st.f32 [%0], %1;\n}\n" ::"l"(address), "f"(value),
               "r"(static_cast<int>(condition))
               : "memory");
#endif
}

/// The block's dynamic shared memory; its addresses there, which warpgroup.cuh swizzles by, are multiples of 1024.
GLA_DEVICE unsigned char* shared_memory() {
#if defined(GLA_EMULATOR)
  return emulator::shared_memory();
#else
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
#endif
}

/// Barrier of the whole block; orders shared and global memory among its threads.
GLA_DEVICE void block_sync() {
#if defined(GLA_EMULATOR)
  emulator::block_sync();
#else
  __syncthreads();
#endif
}

/// Barrier of the whole block that tells every thread whether `value` is true in all.
GLA_DEVICE bool block_sync_and(bool value) {
#if defined(GLA_EMULATOR)
  return emulator::block_sync_and(value);
#else
  return __syncthreads_and(value) != 0;
#endif
}

/// Barrier `id` (1..15; 0 is block_sync's) of `Threads` threads of the block, all of their warps; orders shared and
/// global memory among them. Who uses a barrier again, or in another's place, must know that its last use is over.
template <int Threads>
GLA_DEVICE void part_sync(int id) {
  static_assert(Threads % kWarpSize == 0 && Threads >= kWarpSize && Threads <= 1024);
#if defined(GLA_EMULATOR)
  emulator::part_sync(id, Threads);
#else
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "n"(Threads) : "memory");
#endif
}

/// The same, and tells each of them whether `value` is true in all. Not beside part_sync in one use of a barrier.
template <int Threads>
GLA_DEVICE bool part_sync_and(int id, bool value) {
  static_assert(Threads % kWarpSize == 0 && Threads >= kWarpSize && Threads <= 1024);
#if defined(GLA_EMULATOR)
  return emulator::part_sync_and(id, Threads, value);
#else
  int all;
  asm volatile(
      "{\n.reg .pred mine, all;\nsetp.ne.b32 mine, %1, 0;\nbar.red.and.pred all, %2, %3, mine;\n"
      "selp.b32 %0, 1, 0, all;\n}\n"
      : "=r"(all)
      : "r"(static_cast<int>(value)), "r"(id), "n"(Threads)
      : "memory");
  return all != 0;
#endif
}

/// Barrier of the warp; orders shared and global memory among its lanes.
GLA_DEVICE void warp_sync() {
#if defined(GLA_EMULATOR)
  emulator::warp_sync();
#else
  __syncwarp();
#endif
}

/// Whether `value` is true in any lane of the warp. All 32 take part.
GLA_DEVICE bool warp_any(bool value) {
#if defined(GLA_EMULATOR)
  return emulator::warp_any(value);
#else
  return __any_sync(0xffffffffu, value) != 0;
#endif
}

/// True in one lane of the warp, all of which take part (sm_90 and later). What it guards the compiler knows to run in one
/// thread: tensor copies take their operands from registers of the warp.
GLA_DEVICE bool elect_lane() {
#if defined(GLA_EMULATOR)
  return emulator::thread_index() % kWarpSize == 0;
#else
  unsigned int elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n" : "=r"(elected));
  return elected != 0;
#endif
}

/// `value` of the lane whose index differs from this one's in the bits of `mask`. All 32 lanes take part.
GLA_DEVICE float shuffle_xor(float value, int mask) {
#if defined(GLA_EMULATOR)
  return emulator::shuffle_xor(value, mask);
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

GLA_DEVICE double shuffle_xor(double value, int mask) {
#if defined(GLA_EMULATOR)
  return emulator::shuffle_xor(value, mask);
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

GLA_DEVICE long long shuffle_xor(long long value, int mask) {
#if defined(GLA_EMULATOR)
  return emulator::shuffle_xor(value, mask);
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

GLA_DEVICE unsigned int shuffle_xor(unsigned int value, int mask) {
#if defined(GLA_EMULATOR)
  return static_cast<unsigned int>(emulator::shuffle_xor(static_cast<long long>(value), mask));
#else
  return __shfl_xor_sync(0xffffffffu, value, mask);
#endif
}

/// Sum over the `Lanes` lanes whose indices differ in the low bits only; every one of them receives it.
template <int Lanes, class T>
GLA_DEVICE T sum_lanes(T value) {
  static_assert(Lanes >= 1 && Lanes <= kWarpSize && (Lanes & (Lanes - 1)) == 0);
  GLA_UNROLL
  for (int mask = Lanes / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

GLA_DEVICE void atomic_add(unsigned long long* address, unsigned long long value) {
#if defined(GLA_EMULATOR)
  emulator::atomic_add(address, value);
#else
  atomicAdd(address, value);
#endif
}
/// Returns what was there before.
GLA_DEVICE unsigned int atomic_add(unsigned int* address, unsigned int value) {
#if defined(GLA_EMULATOR)
  return emulator::atomic_add(address, value);
#else
  return atomicAdd(address, value);
#endif
}

}  // namespace gla
