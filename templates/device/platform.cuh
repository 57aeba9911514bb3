// What differs between NVRTC, the host compiler and the emulator, behind one set of names. This is the only
// file of templates/ that looks at the compiler. GLA_EMULATOR is defined by tests/emulator, which then
// provides emulator.h: the same primitives for fibers on the CPU.
#pragma once

#if defined(__CUDACC__)
#define GLA_HOST_DEVICE __host__ __device__
#define GLA_DEVICE __device__ __forceinline__
#define GLA_KERNEL extern "C" __global__
#define GLA_GRID_CONSTANT __grid_constant__
#define GLA_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define GLA_CLUSTER(blocks) __cluster_dims__(blocks, 1, 1)
#define GLA_PRAGMA(text) _Pragma(#text)
#define GLA_UNROLL GLA_PRAGMA(unroll)
#define GLA_UNROLL_BY(count) GLA_PRAGMA(unroll count)
#else
#include <cmath>
#define GLA_HOST_DEVICE
#define GLA_DEVICE inline
#define GLA_KERNEL extern "C"
#define GLA_GRID_CONSTANT
#define GLA_LAUNCH_BOUNDS(threads, blocks)
#define GLA_CLUSTER(blocks)
#define GLA_UNROLL
#define GLA_UNROLL_BY(count)
#endif

#if defined(GLA_EMULATOR)
#include "emulator.h"
#endif

namespace gla {

/// Whether the target has stmatrix, and whether its kernels may start before earlier ones end (sm_90 and later).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool kStoresMatrices = true, kStartsEarly = true;
#else
inline constexpr bool kStoresMatrices = false, kStartsEarly = false;
#endif

}  // namespace gla
