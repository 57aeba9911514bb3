// Tensors of emulated calls: values in guarded memory, dense or spread out, and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "args.h"
#include "gla/generator/problem.h"
#include "guarded_memory.h"

namespace gla {

inline constexpr std::size_t kTensorAlignment = 16;

/// How a [B, T, heads, channels] tensor lies in memory.
class Layout {
 public:
  struct Style {
    bool padded = false;      ///< with something between rows and heads
    bool head_major = false;  ///< as [B, H, T, D]
  };

  Layout(std::int64_t batch, std::int64_t tokens, std::int64_t heads, std::int64_t channels, Style style);

  Tensor tensor(const emulator::GuardedMemory& memory) const {
    return {memory.data(), stride_batch_, stride_token_, stride_head_};
  }

  /// Up to the end of the last row.
  std::size_t bytes(std::size_t element_bytes) const;

  /// Calls copy(first byte of a row in [B, T, heads, channels] order, its first byte in memory, bytes) for all rows.
  template <class Copy>
  void each_row(std::size_t element_bytes, Copy copy) const {
    const std::size_t row_bytes = static_cast<std::size_t>(channels_) * element_bytes;
    std::size_t dense = 0;
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t t = 0; t < tokens_; ++t) {
        for (std::int64_t h = 0; h < heads_; ++h) {
          const std::int64_t first = b * stride_batch_ + t * stride_token_ + h * stride_head_;
          copy(dense, static_cast<std::size_t>(first) * element_bytes, row_bytes);
          dense += row_bytes;
        }
      }
    }
  }

 private:
  std::int64_t batch_, tokens_, heads_, channels_;
  std::int64_t stride_batch_, stride_token_, stride_head_;
};

/// Memory that ends where the values end.
emulator::GuardedMemory guarded(std::span<const float> values, DType dtype);
/// The same in a layout, NaN between the rows. An absent tensor has no values.
emulator::GuardedMemory guarded(std::span<const float> values, DType dtype, const Layout& layout);

std::vector<float> values_in(const emulator::GuardedMemory& memory, DType dtype);
/// What lies in a layout, in the order [B, T, heads, channels].
std::vector<float> values_in(const emulator::GuardedMemory& memory, DType dtype, const Layout& layout);

/// Whether everything is poison still except the first `written` rows.
bool untouched_behind(std::int64_t written, const emulator::GuardedMemory& memory, DType dtype,
                      const Layout& layout);

}  // namespace gla
