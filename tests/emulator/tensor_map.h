// What a tensor map says, in the emulator's own encoding of its 128 bytes; on a GPU cuTensorMapEncodeTiled makes them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace gla::emulator {

inline constexpr int kTensorDimensions = 4, kTensorMapBytes = 128;

enum class Swizzle { none, bytes_128 };

/// Dimensions innermost first: channel, token, head, batch.
struct TiledTensor {
  void* data;
  std::array<std::int64_t, kTensorDimensions> sizes;
  std::array<std::int64_t, kTensorDimensions - 1> stride_bytes;  ///< channels are contiguous
  std::array<int, kTensorDimensions> box;
  int element_bytes;
  Swizzle swizzle = Swizzle::none;

  int row_bytes() const { return box[0] * element_bytes; }
  int box_bytes() const { return row_bytes() * box[1] * box[2] * box[3]; }
};

/// Writes the 128 bytes at `map`. Throws std::invalid_argument for what cuTensorMapEncodeTiled refuses ("CUDA Driver API,
/// Tensor Map Object Management"), and for swizzled rows that are not 128 bytes.
void encode_tensor_map(void* map, const TiledTensor& tensor);

/// None if encode_tensor_map has not written there.
std::optional<TiledTensor> decode_tensor_map(const void* map);

}  // namespace gla::emulator
