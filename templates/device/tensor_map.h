// A tensor map, for the kernels that copy by it and the host that encodes it.
#pragma once

namespace gla {

/// What a tensor copy knows of a tensor: opaque, as cuTensorMapEncodeTiled or the emulator's tensor_map.h writes it.
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

}  // namespace gla
