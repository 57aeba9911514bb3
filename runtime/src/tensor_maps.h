// The tensor maps of a call (templates/args.h): what they say, for whoever encodes them, and their encoding for a GPU.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "backward_args.h"
#include "driver.h"
#include "gla/generator/render.h"
#include "gla/generator/status.h"

namespace gla {

/// A tensor and the boxes that are copied of it. Dimensions innermost first: channel, token, head, batch.
struct TensorGeometry {
  void* data;
  std::array<std::int64_t, 4> sizes;
  std::array<std::int64_t, 3> stride_bytes;  ///< channels are contiguous
  std::array<int, 4> box;
  int element_bytes;
};

struct MappedTensor {
  const char* name;  ///< as in ForwardCall or BackwardCall
  TensorMap* map;
  std::optional<TensorGeometry> geometry;  ///< none: the tensor is absent or empty, and has no map
};

/// Every tensor of the argument's maps, which its other fields describe. Precondition: boxes.rows > 0.
std::array<MappedTensor, 5> mapped_tensors(const TensorBoxes& boxes, TensorArgs& args);
std::array<MappedTensor, 9> mapped_tensors(const TensorBoxes& boxes, BackwardTensorArgs& args);

/// Writes the maps of the tensors that have one, without allocating. Names the tensor otherwise: `unsupported` for a size
/// or a stride that a call may have and a map may not, `cuda` for what the driver refuses.
Status encode_maps(const driver::Api& api, std::span<const MappedTensor> tensors);

}  // namespace gla
