#include "emulated_tensor.h"

#include <algorithm>
#include <cstring>

#include "element.h"

namespace gla {
namespace {

using emulator::GuardedMemory;

constexpr std::int64_t kPaddingChannels = 8;  // keeps rows 16-byte aligned in every dtype

std::vector<std::byte> bytes_of(const GuardedMemory& memory) {
  const auto* first = reinterpret_cast<const std::byte*>(memory.data());
  return {first, first + memory.size()};
}

}  // namespace

Layout::Layout(std::int64_t batch, std::int64_t tokens, std::int64_t heads, std::int64_t channels,
               Style style)
    : batch_(batch), tokens_(tokens), heads_(heads), channels_(channels) {
  const std::int64_t padding = style.padded ? kPaddingChannels : 0;
  const std::int64_t inner = channels + padding;
  stride_head_ = style.head_major ? tokens_ * inner + padding : inner;
  stride_token_ = style.head_major ? inner : heads_ * inner + padding;
  stride_batch_ = style.head_major ? heads_ * stride_head_ : tokens_ * stride_token_;
}

std::size_t Layout::bytes(std::size_t element_bytes) const {
  if (batch_ * tokens_ * heads_ == 0) return 0;
  const std::int64_t last_row =
      (batch_ - 1) * stride_batch_ + (tokens_ - 1) * stride_token_ + (heads_ - 1) * stride_head_;
  return static_cast<std::size_t>(last_row + channels_) * element_bytes;
}

GuardedMemory guarded(std::span<const float> values, DType dtype) {
  const std::vector<std::byte> bytes = encode(dtype, values);
  GuardedMemory memory(bytes.size(), kTensorAlignment);
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<std::byte*>(memory.data()));
  return memory;
}

GuardedMemory guarded(std::span<const float> values, DType dtype, const Layout& layout) {
  if (values.empty()) return {0, kTensorAlignment};
  const std::vector<std::byte> bytes = encode(dtype, values);
  GuardedMemory memory(layout.bytes(size_of(dtype)), kTensorAlignment);
  layout.each_row(size_of(dtype), [&](std::size_t dense, std::size_t place, std::size_t count) {
    std::memcpy(memory.data() + place, bytes.data() + dense, count);
  });
  return memory;
}

std::vector<float> values_in(const GuardedMemory& memory, DType dtype) {
  return decode(dtype, bytes_of(memory));
}

std::vector<float> values_in(const GuardedMemory& memory, DType dtype, const Layout& layout) {
  std::vector<std::byte> bytes;
  layout.each_row(size_of(dtype), [&](std::size_t, std::size_t place, std::size_t count) {
    const auto* first = reinterpret_cast<const std::byte*>(memory.data()) + place;
    bytes.insert(bytes.end(), first, first + count);
  });
  return decode(dtype, bytes);
}

bool untouched_behind(std::int64_t written, const GuardedMemory& memory, DType dtype, const Layout& layout) {
  constexpr std::byte kPoison{0xff};
  std::vector<std::byte> bytes = bytes_of(memory);
  layout.each_row(size_of(dtype), [&](std::size_t, std::size_t place, std::size_t count) {
    if (written-- > 0) std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(place), count, kPoison);
  });
  return memory.end_intact() &&
         std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == kPoison; });
}

}  // namespace gla
