// Neighbouring channels of a row of global memory, between memory and one thread's registers.
#pragma once

#include "device/copy.cuh"
#include "device/numeric.cuh"

namespace gla {

/// Loads or stores `Count` neighbouring elements starting at channel `channel` with the widest access that the row
/// alignment allows; unless `Whole` says that there are no others, those below `Channels` only. Conditions that always hold
/// are not left to the compiler, which waits for each load between them.
template <class T, int Count, int Channels, bool Whole>
struct ChannelGroup {
  static constexpr int kElements =
      greatest_common_divisor(Count, row_alignment(Channels, sizeof(T)) / static_cast<int>(sizeof(T)));
  using Access = Vector<T, kElements>;

  GLA_DEVICE static void load(float (&target)[Count], const T* row, int channel) {
    GLA_UNROLL
    for (int i = 0; i < Count; i += kElements) {
      Access data{};
      if (Whole || channel + i < Channels) data = *reinterpret_cast<const Access*>(row + channel + i);
      GLA_UNROLL
      for (int e = 0; e < kElements; ++e) target[i + e] = to_float(data.item[e]);
    }
  }

  GLA_DEVICE static void store(T* row, int channel, const float (&source)[Count]) {
    GLA_UNROLL
    for (int i = 0; i < Count; i += kElements) {
      Access data;
      GLA_UNROLL
      for (int e = 0; e < kElements; ++e) data.item[e] = from_float<T>(source[i + e]);
      if (Whole || channel + i < Channels)
        store_packet<sizeof(Access)>(row + channel + i, __builtin_bit_cast(Packet<sizeof(Access)>, data));
    }
  }
};

}  // namespace gla
