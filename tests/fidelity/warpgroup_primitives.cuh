// Kernels that call the primitives that Hopper alone has. It goes on from primitives.cuh, which comes before it.
#ifndef GLA_TESTS_FIDELITY_WARPGROUP_PRIMITIVES_CUH
#define GLA_TESTS_FIDELITY_WARPGROUP_PRIMITIVES_CUH

#include "device/mma.cuh"
#include "device/thread.cuh"
#include "device/warpgroup.cuh"

namespace gla {

inline constexpr int kWarpgroup = 128, kStoreRowBytes = 80;
/// A panel of 64 rows for A, and as many rows for B as it needs one way or the other: 64 elements of contraction.
inline constexpr int kPanelBytes = 64 * kPanelRowBytes;
GLA_HOST_DEVICE constexpr int product_shared_bytes(int n) {
  return kPanelBytes + (n < 64 ? 64 : n) * kPanelRowBytes;
}
/// Words of a thread: A in registers for four steps.
inline constexpr int kRegisterWords = 16;
/// Products whose sums a thread gives out: four of tiles, two of registers and, of some numbers of columns, one of fp16.
GLA_HOST_DEVICE constexpr int products_of(int n) {
  return n == 32 || n == 64 ? 7 : 6;
}

/// Step k of a contraction along or across the rows of panels.
template <Contraction C>
GLA_DEVICE MatrixDescriptor step_of(const unsigned char* panels, int k) {
  if constexpr (C == Contraction::along_rows) {
    return row_major_descriptor(panels + 32 * k);
  } else {
    return column_major_descriptor(panels + 16 * kPanelRowBytes * k, kPanelBytes);
  }
}

/// Two groups of two steps, of which the first overwrites what the sums were; `multiply` issues step k.
template <int N, class Multiply>
GLA_DEVICE void two_groups(Bits32* out, Multiply multiply) {
  float d[N / 8][4];
  GLA_UNROLL
  for (int i = 0; i < N / 2; ++i) d[i / 4][i % 4] = static_cast<float>(i);
  warpgroup_pin(d);
  warpgroup_fence();
  GLA_UNROLL
  for (int k = 0; k < 4; ++k) {
    multiply(d, k);
    if (k % 2 == 1) warpgroup_commit();
  }
  warpgroup_wait<1>();
  warpgroup_wait<0>();
  warpgroup_pin(d);
  GLA_UNROLL
  for (int i = 0; i < N / 2; ++i) out[i] = float_to_bits(d[i / 4][i % 4]);
  block_sync();  // else ptxas puts off the stores, and 256 columns leave no registers for that
}

template <int N, Contraction A, Contraction B, bool Halves = false>
GLA_DEVICE void product_of_tiles(Bits32* out, const unsigned char* a, const unsigned char* b) {
  two_groups<N>(out, [&](float(&d)[N / 8][4], int k) {
    warpgroup_multiply<N, A, B, Halves>(d, step_of<A>(a, k), step_of<B>(b, k), k > 0);
  });
}

template <int N, Contraction B>
GLA_DEVICE void product_of_registers(Bits32* out, Bits32 (&a)[4][4], const unsigned char* b) {
  warpgroup_pin(a);
  two_groups<N>(
      out, [&](float(&d)[N / 8][4], int k) { warpgroup_multiply<N, B>(d, a[k], step_of<B>(b, k), k > 0); });
  warpgroup_pin(a);
}

/// One warpgroup. In: shared memory, then each thread's registers. Out: each thread's sums, product after product.
template <int N>
GLA_DEVICE void products(const PrimitiveArgs& args) {
  using enum Contraction;
  constexpr int kWords = product_shared_bytes(N) / 4;
  unsigned char* a = shared_memory();
  const unsigned char* b = a + kPanelBytes;
  for (int i = thread_index(); i < kWords; i += kWarpgroup) reinterpret_cast<Bits32*>(a)[i] = args.in[i];
  Bits32 registers[4][4];
  GLA_UNROLL
  for (int i = 0; i < kRegisterWords; ++i)
    registers[i / 4][i % 4] = args.in[kWords + thread_index() * kRegisterWords + i];
  fence_for_warpgroup();
  block_sync();
  Bits32* out = args.out + thread_index() * products_of(N) * N / 2;
  product_of_tiles<N, along_rows, along_rows>(out, a, b);
  product_of_tiles<N, along_rows, across_rows>(out + N / 2, a, b);
  product_of_tiles<N, across_rows, along_rows>(out + N, a, b);
  product_of_tiles<N, across_rows, across_rows>(out + 3 * N / 2, a, b);
  product_of_registers<N, along_rows>(out + 2 * N, registers, b);
  product_of_registers<N, across_rows>(out + 5 * N / 2, registers, b);
  // Small integers of bf16 are multiples of 1/32 to fp16.
  if constexpr (products_of(N) > 6) product_of_tiles<N, along_rows, along_rows, true>(out + 3 * N, a, b);
}

GLA_DEVICE void products_16(const PrimitiveArgs& args) {
  products<16>(args);
}
GLA_DEVICE void products_32(const PrimitiveArgs& args) {
  products<32>(args);
}
GLA_DEVICE void products_64(const PrimitiveArgs& args) {
  products<64>(args);
}
GLA_DEVICE void products_128(const PrimitiveArgs& args) {
  products<128>(args);
}
GLA_DEVICE void products_256(const PrimitiveArgs& args) {
  products<256>(args);
}

/// One warp. In, per lane: four words. Out, per lane: the row of 16 bytes that it gave stmatrix, plain and transposed.
GLA_DEVICE void store_tile(const PrimitiveArgs& args) {
  unsigned char* row = shared_memory() + lane_index() * kStoreRowBytes;
  const Bits32* in = args.in + 4 * lane_index();
  const Bits32 r[4] = {in[0], in[1], in[2], in[3]};
  store_matrices(row, r);
  store_matrices_transposed(row + 16, r);
  warp_sync();
  for (int i = 0; i < 8; ++i) args.out[8 * lane_index() + i] = reinterpret_cast<const Bits32*>(row)[i];
}

}  // namespace gla

#endif
