#include "tensor_maps.h"

#include <fmt/format.h>

#include <limits>

namespace gla {
namespace {

constexpr int kRowBytes = 128;           // of a box, and of the swizzle
constexpr std::int64_t kAlignment = 16;  // of addresses and strides, as cuTensorMapEncodeTiled demands
constexpr std::int64_t kStrideLimit = std::int64_t{1} << 40;
constexpr std::int64_t kMostMappedTokens = std::numeric_limits<int>::max();  // tensor_load's coordinates

std::optional<TensorGeometry> geometry_of(const Tensor& tensor, const std::array<std::int64_t, 4>& sizes,
                                          int element_bytes, int rows) {
  const auto [channels, tokens, heads, batch] = sizes;
  if (tensor.data == nullptr || tokens == 0 || batch == 0) return {};
  // A stride that is never stepped over may be anything in a call, but not in a map.
  const std::int64_t row_bytes = (channels * element_bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::array<std::int64_t, 3> stride_bytes{tokens > 1 ? tensor.stride_token * element_bytes : row_bytes,
                                                 heads > 1 ? tensor.stride_head * element_bytes : row_bytes,
                                                 batch > 1 ? tensor.stride_batch * element_bytes : row_bytes};
  return TensorGeometry{
      tensor.data, sizes, stride_bytes, {kRowBytes / element_bytes, rows, 1, 1}, element_bytes};
}

/// What validation.cpp lets pass and tensor copies do not. A stride of 0 is all right for both.
Status check_encodable(const char* name, const TensorGeometry& tensor) {
  constexpr std::array kDimensions{"token", "head", "batch"};
  for (std::size_t i = 0; i < kDimensions.size(); ++i) {
    if (tensor.stride_bytes[i] % kAlignment != 0 || tensor.stride_bytes[i] >= kStrideLimit) {
      return {
          StatusCode::unsupported,
          fmt::format("{}.stride_{} is {} bytes; the kernel that was chosen takes multiples of {} below 2^40",
                      name, kDimensions[i], tensor.stride_bytes[i], kAlignment)};
    }
  }
  if (tensor.sizes[1] > kMostMappedTokens) {
    return {StatusCode::unsupported,
            fmt::format("{} has {} tokens; the kernel that was chosen takes up to {}", name, tensor.sizes[1],
                        kMostMappedTokens)};
  }
  return {};
}

template <class To, class From, std::size_t Size>
std::array<To, Size> converted(const std::array<From, Size>& values) {
  std::array<To, Size> result;
  for (std::size_t i = 0; i < Size; ++i) result[i] = static_cast<To>(values[i]);
  return result;
}

CUresult encode(const driver::Api& api, const TensorGeometry& tensor, TensorMap& map) {
  // Of 128-byte alignment in CUDA 13's header; 64 is what the driver documents and GPUs need.
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  // Bits are copied as they are, whatever the type of that size.
  const CUtensorMapDataType type =
      tensor.element_bytes == 4 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const auto sizes = converted<cuuint64_t>(tensor.sizes);
  const auto strides = converted<cuuint64_t>(tensor.stride_bytes);
  const auto box = converted<cuuint32_t>(tensor.box);
  constexpr std::array<cuuint32_t, 4> kSteps{1, 1, 1, 1};
  return api.cuTensorMapEncodeTiled(
      reinterpret_cast<CUtensorMap*>(&map), type, static_cast<cuuint32_t>(sizes.size()), tensor.data,
      sizes.data(), strides.data(), box.data(), kSteps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

/// Geometries of a call's tensors.
class Geometries {
 public:
  Geometries(const TensorBoxes& boxes, const KernelArgs& args)
      : boxes_(boxes),
        tokens_(args.tokens),
        heads_(args.heads),
        batch_(args.cu_seqlens == nullptr ? args.sequences : 1) {}

  std::optional<TensorGeometry> of_keys(const Tensor& tensor) const {
    return of(tensor, boxes_.head_dim_k, heads_, boxes_.element_bytes);
  }
  std::optional<TensorGeometry> of_gates(const Tensor& tensor) const {
    return of_gates(tensor, boxes_.gate_bytes);
  }
  std::optional<TensorGeometry> of_gate_gradients(const Tensor& tensor) const {
    return of_gates(tensor, boxes_.gate_gradient_bytes);
  }
  std::optional<TensorGeometry> of_values(const Tensor& tensor) const {
    return of(tensor, boxes_.head_dim_v, heads_, boxes_.element_bytes);
  }
  std::optional<TensorGeometry> of_queries(const Tensor& tensor) const {
    return of(tensor, boxes_.head_dim_k, heads_ * boxes_.group, boxes_.element_bytes);
  }
  std::optional<TensorGeometry> of_outputs(const Tensor& tensor) const {
    return of(tensor, boxes_.head_dim_v, heads_ * boxes_.group, boxes_.element_bytes);
  }

 private:
  std::optional<TensorGeometry> of_gates(const Tensor& tensor, int element_bytes) const {
    return element_bytes == 0 ? std::nullopt : of(tensor, boxes_.head_dim_k, heads_, element_bytes);
  }
  std::optional<TensorGeometry> of(const Tensor& tensor, int channels, std::int64_t heads,
                                   int element_bytes) const {
    return geometry_of(tensor, {channels, tokens_, heads, batch_}, element_bytes, boxes_.rows);
  }

  const TensorBoxes& boxes_;
  std::int64_t tokens_, heads_, batch_;
};

}  // namespace

std::array<MappedTensor, 5> mapped_tensors(const TensorBoxes& boxes, TensorArgs& args) {
  const Geometries geometries(boxes, args);
  return {{{"q", &args.maps.q, geometries.of_queries(args.q)},
           {"k", &args.maps.k, geometries.of_keys(args.k)},
           {"v", &args.maps.v, geometries.of_values(args.v)},
           {"gk", &args.maps.gk, geometries.of_gates(args.gk)},
           {"o", &args.maps.o, geometries.of_outputs(args.o)}}};
}

std::array<MappedTensor, 9> mapped_tensors(const TensorBoxes& boxes, BackwardTensorArgs& args) {
  const Geometries geometries(boxes, args);
  return {{{"q", &args.maps.q, geometries.of_queries(args.q)},
           {"k", &args.maps.k, geometries.of_keys(args.k)},
           {"d_o", &args.maps.v, geometries.of_outputs(args.d_o)},
           {"gk", &args.maps.gk, geometries.of_gates(args.gk)},
           {"dv", &args.maps.o, geometries.of_values(args.dv)},
           {"v", &args.gradient_maps.v, geometries.of_values(args.v)},
           {"dq", &args.gradient_maps.dq, geometries.of_queries(args.dq)},
           {"dk", &args.gradient_maps.dk, geometries.of_keys(args.dk)},
           {"dgk", &args.gradient_maps.dgk, geometries.of_gate_gradients(args.dgk)}}};
}

Status encode_maps(const driver::Api& api, std::span<const MappedTensor> tensors) {
  for (const MappedTensor& tensor : tensors) {
    if (!tensor.geometry) continue;
    if (Status status = check_encodable(tensor.name, *tensor.geometry); !status.ok()) return status;
    const CUresult result = encode(api, *tensor.geometry, *tensor.map);
    if (result != CUDA_SUCCESS)
      return driver::check(api, result, fmt::format("cuTensorMapEncodeTiled of {}", tensor.name).c_str());
  }
  return {};
}

}  // namespace gla
