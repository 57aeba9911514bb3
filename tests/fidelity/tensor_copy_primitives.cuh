// A kernel that calls the primitives of tensor copies, which take maps that PrimitiveArgs has no place for.
#include "device/tensor_copy.cuh"
#include "device/thread.cuh"
#include "device/warpgroup.cuh"

namespace gla {

struct TensorCopyArgs {
  TensorMap in, out;
  int tiles;
};

/// Boxes of 64 swizzled rows of 128 bytes go through two slots: a warp loads, another adds 1 to every 16-bit element and
/// stores.
GLA_DEVICE void copy_boxes(const TensorCopyArgs& args) {
  constexpr int kSlots = 2, kRows = 64, kTileBytes = kRows * kPanelRowBytes;
  auto* full = reinterpret_cast<unsigned long long*>(shared_memory() + kSlots * kTileBytes);
  unsigned long long* empty = full + kSlots;
  if (thread_index() < kSlots) {
    barrier_init(full + thread_index(), 1);
    barrier_init(empty + thread_index(), 1);
  }
  block_sync();
  for (int n = 0; n < args.tiles; ++n) {
    const int slot = n % kSlots, parity = n / kSlots % 2;
    unsigned char* tile = shared_memory() + slot * kTileBytes;
    if (warp_index() == 1) {
      if (lane_index() != 0) continue;
      barrier_wait(empty + slot, 1 - parity);
      barrier_arrive_expect(full + slot, kTileBytes);
      tensor_load(tile, &args.in, 0, n * kRows, 0, 0, full + slot);
    } else {
      barrier_wait(full + slot, parity);
      for (int i = lane_index(); i < kTileBytes / 2; i += kWarpSize) ++reinterpret_cast<Bits16*>(tile)[i];
      fence_for_warpgroup();
      warp_sync();
      if (lane_index() == 0) {
        tensor_store(&args.out, tile, 0, n * kRows, 0, 0);
        bulk_commit();
        bulk_wait_read<0>();
        barrier_arrive(empty + slot);
      }
    }
  }
}

}  // namespace gla

GLA_KERNEL void copy_boxes(const GLA_GRID_CONSTANT gla::TensorCopyArgs args) {
  gla::copy_boxes(args);
}
