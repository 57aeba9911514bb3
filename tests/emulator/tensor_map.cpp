#include "tensor_map.h"

#include <cstring>
#include <stdexcept>

namespace gla::emulator {
namespace {

struct Encoded {
  std::uint64_t mark;
  TiledTensor tensor;
};
static_assert(sizeof(Encoded) <= kTensorMapBytes);

constexpr std::uint64_t kMark = 0x70616d726f736e65;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

bool is_multiple_of_16(std::int64_t value) {
  return value % 16 == 0;
}

}  // namespace

void encode_tensor_map(void* map, const TiledTensor& tensor) {
  require(reinterpret_cast<std::uintptr_t>(map) % 64 == 0, "a tensor map that is not 64-byte aligned");
  require(is_multiple_of_16(static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(tensor.data))),
          "a tensor that is not 16-byte aligned");
  for (const std::int64_t size : tensor.sizes)
    require(size >= 1 && size <= std::int64_t{1} << 32, "a tensor size that is not in 1..2^32");
  for (const std::int64_t stride : tensor.stride_bytes)
    require(is_multiple_of_16(stride) && stride >= 0 && stride < std::int64_t{1} << 40,
            "a tensor stride that is no multiple of 16 bytes below 2^40");
  for (const int size : tensor.box) require(size >= 1 && size <= 256, "a box size that is not in 1..256");
  const std::int64_t rows = std::int64_t{tensor.box[1]} * tensor.box[2] * tensor.box[3];
  require(rows * tensor.row_bytes() < 1 << 20, "a box larger than shared memory");
  require(is_multiple_of_16(tensor.row_bytes()), "a box whose rows are no multiple of 16 bytes");
  require(tensor.swizzle == Swizzle::none || tensor.row_bytes() == 128,
          "a swizzled box whose rows are not 128 bytes");
  const Encoded encoded{kMark, tensor};
  std::memset(map, 0, kTensorMapBytes);
  std::memcpy(map, &encoded, sizeof encoded);
}

std::optional<TiledTensor> decode_tensor_map(const void* map) {
  Encoded encoded;
  std::memcpy(&encoded, map, sizeof encoded);
  if (encoded.mark != kMark) return {};
  return encoded.tensor;
}

}  // namespace gla::emulator
