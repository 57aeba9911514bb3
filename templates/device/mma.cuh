// Warp-level matrix products: mma.sync.m16n8k16 with bf16 operands and fp32 sums, and the ldmatrix loads and stmatrix
// stores of its operands (PTX ISA, "Matrix fragments for mma.m16n8k16"). Lane l holds, with r = l / 4 and c = 2 * (l % 4):
//   A (16 x 16): a[0] = (r, c..c+1), a[1] = (r+8, c..), a[2] = (r, c+8..), a[3] = (r+8, c+8..)
//   B (16 x 8):  b[0] = (c..c+1, r), b[1] = (c+8..c+9, r)
//   D (16 x 8):  d[0..1] = (r, c..c+1), d[2..3] = (r+8, c..c+1)
// so a pair of D tiles, rounded to bf16, is an A operand without moving between lanes.
#pragma once

#include "numeric.cuh"
#include "platform.cuh"

namespace gla {

/// d += a * b.
GLA_DEVICE void multiply_accumulate(float (&d)[4], const Bits32 (&a)[4], Bits32 b0, Bits32 b1) {
#if defined(GLA_EMULATOR)
  emulator::mma_m16n8k16_bf16(d, a, b0, b1);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// Four 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8 (16 bytes,
/// aligned) and receives in r[m] the elements (l / 4, c..c+1) of matrix m.
GLA_DEVICE void load_matrices(Bits32 (&r)[4], const void* shared_row) {
#if defined(GLA_EMULATOR)
  emulator::ldmatrix_x4(r, shared_row, false);
#else
  const unsigned int source = static_cast<unsigned int>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(source)
               : "memory");
#endif
}

/// The same with each matrix transposed: lane l receives the elements (c..c+1, l / 4) of matrix m.
GLA_DEVICE void load_matrices_transposed(Bits32 (&r)[4], const void* shared_row) {
#if defined(GLA_EMULATOR)
  emulator::ldmatrix_x4(r, shared_row, true);
#else
  const unsigned int source = static_cast<unsigned int>(__cvta_generic_to_shared(shared_row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(source)
               : "memory");
#endif
}

/// The way back: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned) and stores r[m] as the
/// elements (l / 4, c..c+1) of matrix m. sm_90 and later.
GLA_DEVICE void store_matrices(void* shared_row, const Bits32 (&r)[4]) {
#if defined(GLA_EMULATOR)
  emulator::stmatrix_x4(shared_row, r, false);
#else
  const unsigned int target = static_cast<unsigned int>(__cvta_generic_to_shared(shared_row));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(target), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#endif
}

/// The same with each matrix transposed: lane l stores r[m] as the elements (c..c+1, l / 4) of matrix m.
GLA_DEVICE void store_matrices_transposed(void* shared_row, const Bits32 (&r)[4]) {
#if defined(GLA_EMULATOR)
  emulator::stmatrix_x4(shared_row, r, true);
#else
  const unsigned int target = static_cast<unsigned int>(__cvta_generic_to_shared(shared_row));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};\n" ::"r"(target),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#endif
}

}  // namespace gla
