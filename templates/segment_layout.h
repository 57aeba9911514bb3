// Sizes of what stands between the walks over segments, for the kernels and the host. Plain C++: NVRTC reads this file too.
#pragma once

#include "device/platform.cuh"

namespace gla {

/// Lengths of packed sequences up to 2^31 by eighths of an octave, and none.
inline constexpr int kLengthBuckets = 256;
inline constexpr int kScheduleCounters = kLengthBuckets + 3;  ///< of 4 bytes, in shared memory

/// Elements of a state, side by side in V, that a thread of the scan has.
GLA_HOST_DEVICE constexpr int scan_width(int head_dim_v) {
  return head_dim_v % 4 == 0 ? 4 : 1;
}

}  // namespace gla
