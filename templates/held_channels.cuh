// Neighbouring channels of a row as they came from memory.
#pragma once

#include "channel_group.cuh"

namespace gla {

/// What ChannelGroup loads, in whole registers and converted where it is used: channels of 16 bits that wait take half as many.
template <class T, int Count>
class HeldChannels {
 public:
  /// Of a row of `Channels` channels, in whose alignment it lies; `Whole` as in ChannelGroup.
  template <int Channels, bool Whole>
  GLA_DEVICE void load(const T* row, int channel) {
    constexpr int kElements = ChannelGroup<T, Count, Channels, Whole>::kElements;
    if constexpr (kElements >= kPerWord) {
      using Access = Packet<kElements* static_cast<int>(sizeof(T))>;
      GLA_UNROLL
      for (int i = 0; i < Count; i += kElements) {
        Access data{};
        if (Whole || channel + i < Channels) data = *reinterpret_cast<const Access*>(row + channel + i);
        GLA_UNROLL
        for (int word = 0; word < kElements / kPerWord; ++word) words_[i / kPerWord + word] = data.item[word];
      }
    } else {
      GLA_UNROLL
      for (int i = 0; i < Count; ++i) {
        Bits32 element = 0;
        if (Whole || channel + i < Channels) element = row[channel + i].bits;
        if (i % 2 == 0) {
          words_[i / 2] = element;
        } else {
          words_[i / 2] |= element << 16;
        }
      }
    }
  }

  GLA_DEVICE float operator[](int i) const {
    if constexpr (kPerWord == 1) {
      return bits_to_float(words_[i]);
    } else {
      return unpack<T>(words_[i / 2]).item[i % 2];
    }
  }

 private:
  static constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  Bits32 words_[(Count + kPerWord - 1) / kPerWord];
};

}  // namespace gla
