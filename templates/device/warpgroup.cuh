// Warpgroup matrix products: wgmma.mma_async.m64nNk16 with bf16 or fp16 operands in shared memory and fp32 sums (PTX ISA,
// "Asynchronous warpgroup-level matrix instructions"; sm_90a only). A warpgroup is 128 threads whose first is a multiple
// of 128; all of them take part. In order:
//   fence_for_warpgroup(), block_sync()       after tiles were written, by those who wrote
//   warpgroup_pin(d), warpgroup_fence()       after this thread used d or the registers of A, and before the first product
//   warpgroup_multiply(d, ...)...             reads the tiles, and writes d, at some time from here
//   warpgroup_commit()
//   warpgroup_wait<0>(), warpgroup_pin(d)     to here
// ptxas inserts a fence or a wait, and says so (C7519, C7517), where it sees a register that a product uses touched without;
// C7510 to C7515 say that it makes products wait for each other.
// Tiles are panels of rows of 128 bytes (64 16-bit elements), 1024-byte aligned; the 16-byte pieces of each 8 rows are
// swizzled as the hardware's 128-byte mode.
#pragma once

#include "numeric.cuh"
#include "platform.cuh"

namespace gla {

inline constexpr int kPanelRowBytes = 128;

/// Byte offset within a panel of byte `byte` (0..127) of row `row`.
GLA_HOST_DEVICE constexpr int swizzled(int row, int byte) {
  return row * kPanelRowBytes + (byte ^ static_cast<int>(static_cast<unsigned int>(row) % 8 * 16));
}

/// Where a product finds an operand in shared memory (PTX ISA, "Matrix descriptor format"): start address in bits 0..13, leading and
/// stride byte offset in 16..29 and 32..45, all in units of 16 bytes; swizzle mode in 62..63: 1 is 128 bytes.
struct MatrixDescriptor {
  unsigned int low, high;  ///< halves, since the compiler would carry from one to the other what never comes

  GLA_DEVICE unsigned long long whole() const {
#if defined(GLA_EMULATOR)
    return low | static_cast<unsigned long long>(high) << 32;
#else
    unsigned long long result;
    asm("mov.b64 %0, {%1, %2};\n" : "=l"(result) : "r"(low), "r"(high));
    return result;
#endif
  }
};

GLA_DEVICE MatrixDescriptor matrix_descriptor(const unsigned char* start, int leading_bytes,
                                              int stride_bytes) {
#if defined(GLA_EMULATOR)
  const unsigned int address = emulator::shared_address(start);
#else
  const unsigned int address = static_cast<unsigned int>(__cvta_generic_to_shared(start));
#endif
  const auto encoded = [](unsigned int bytes) { return (bytes & 0x3ffffu) >> 4; };
  return {encoded(address) | encoded(static_cast<unsigned int>(leading_bytes)) << 16,
          encoded(static_cast<unsigned int>(stride_bytes)) | 1u << 30};
}

/// An operand whose rows are M or N and whose contraction runs along their 128 bytes (K-major). `start`: 32 * j bytes
/// into a panel's row for elements 16 * j.. of the contraction, in a row that is a multiple of 8.
GLA_DEVICE MatrixDescriptor row_major_descriptor(const unsigned char* start) {
  return matrix_descriptor(start, 16, 8 * kPanelRowBytes);  // the leading offset is not used
}

/// An operand whose rows are the contraction (MN-major): each holds 64 elements of M or N, and more of them follow in
/// the next panel, `panel_bytes` further. `start`: the first of 16 rows, a multiple of 8.
GLA_DEVICE MatrixDescriptor column_major_descriptor(const unsigned char* start, int panel_bytes) {
  return matrix_descriptor(start, panel_bytes, 8 * kPanelRowBytes);
}

/// The operand that lies some bytes, a multiple of 16, behind another.
GLA_DEVICE MatrixDescriptor further(MatrixDescriptor descriptor, int bytes) {
  return {descriptor.low + static_cast<unsigned int>(bytes / 16), descriptor.high};
}

/// What a tile's rows are: M or N (K-major), or the contraction (MN-major).
enum class Contraction { along_rows, across_rows };

// The instruction names each of its sums, N / 2 a thread: operands 0.. of the asm statement, whose further operands the
// macros take by number, `accumulate` first.
#define GLA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define GLA_NAMES_16 GLA_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define GLA_NAMES_32 \
  GLA_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GLA_NAMES_64                                                                                  \
  GLA_NAMES_32                                                                                        \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, " \
  "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GLA_NAMES_128                                                                                 \
  GLA_NAMES_64                                                                                        \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, " \
  "%83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, " \
  "%102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, "  \
  "%118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define GLA_SUMS_4(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define GLA_SUMS_8(j) GLA_SUMS_4(j), GLA_SUMS_4(j + 1)
#define GLA_SUMS_16(j) GLA_SUMS_8(j), GLA_SUMS_8(j + 2)
#define GLA_SUMS_32(j) GLA_SUMS_16(j), GLA_SUMS_16(j + 4)
#define GLA_SUMS_64(j) GLA_SUMS_32(j), GLA_SUMS_32(j + 8)
#define GLA_SUMS_128(j) GLA_SUMS_64(j), GLA_SUMS_64(j + 16)
#define GLA_PRODUCT(n, type, sums, operands, ...)                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #sums ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n \
               "k16.f32." #type "." #type " {" GLA_NAMES_##sums "}, " operands ";\n}\n"                \
               : GLA_SUMS_##sums(0)                                                                    \
               : "r"(static_cast<int>(accumulate)), __VA_ARGS__                                        \
               : "memory")
#define GLA_PRODUCT_OF_TILES(n, type, sums, descriptor_a, descriptor_b, across_a, across_b)                  \
  GLA_PRODUCT(n, type, sums, "%" #descriptor_a ", %" #descriptor_b ", p, 1, 1, %" #across_a ", %" #across_b, \
              "l"(a.whole()), "l"(b.whole()), "n"(A == Contraction::across_rows ? 1 : 0),                    \
              "n"(B == Contraction::across_rows ? 1 : 0))
#define GLA_PRODUCT_OF_REGISTERS(n, sums, a0, a1, a2, a3, descriptor_b, across_b)                   \
  GLA_PRODUCT(n, bf16, sums,                                                                        \
              "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #descriptor_b ", p, 1, 1, %" #across_b, \
              "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.whole()),                           \
              "n"(B == Contraction::across_rows ? 1 : 0))

/// d (64 x N) = a * b, `accumulate`: d += a * b. d[j] is the D tile of mma.cuh for columns 8 * j..; warp w of the
/// warpgroup has rows 16 * w... N: 16, 32, 64, 128 or 256. `Halves`: the elements are fp16; N is
/// 32 or 64 then.
template <int N, Contraction A, Contraction B, bool Halves = false>
GLA_DEVICE void warpgroup_multiply(float (&d)[N / 8][4], MatrixDescriptor a, MatrixDescriptor b,
                                   bool accumulate) {
  static_assert(N == 16 || N == 32 || N == 64 || N == 128 || N == 256);
  static_assert(!Halves || N == 32 || N == 64);
#if defined(GLA_EMULATOR)
  using Operand = emulator::SharedOperand;
  emulator::wgmma_m64k16(d[0], N, Operand{a.whole(), A == Contraction::across_rows, Halves},
                         Operand{b.whole(), B == Contraction::across_rows, Halves}, accumulate);
#else
  if constexpr (Halves && N == 32) {
    GLA_PRODUCT_OF_TILES(32, f16, 16, 17, 18, 19, 20);
  } else if constexpr (Halves) {
    GLA_PRODUCT_OF_TILES(64, f16, 32, 33, 34, 35, 36);
  } else if constexpr (N == 16) {
    GLA_PRODUCT_OF_TILES(16, bf16, 8, 9, 10, 11, 12);
  } else if constexpr (N == 32) {
    GLA_PRODUCT_OF_TILES(32, bf16, 16, 17, 18, 19, 20);
  } else if constexpr (N == 64) {
    GLA_PRODUCT_OF_TILES(64, bf16, 32, 33, 34, 35, 36);
  } else if constexpr (N == 128) {
    GLA_PRODUCT_OF_TILES(128, bf16, 64, 65, 66, 67, 68);
  } else {
    GLA_PRODUCT_OF_TILES(256, bf16, 128, 129, 130, 131, 132);
  }
#endif
}

/// The same with A in registers: each warp's 16 x 16, as mma.cuh has it.
template <int N, Contraction B>
GLA_DEVICE void warpgroup_multiply(float (&d)[N / 8][4], const Bits32 (&a)[4], MatrixDescriptor b,
                                   bool accumulate) {
  static_assert(N == 16 || N == 32 || N == 64 || N == 128 || N == 256);
#if defined(GLA_EMULATOR)
  emulator::wgmma_m64k16(d[0], N, a, emulator::SharedOperand{b.whole(), B == Contraction::across_rows},
                         accumulate);
#else
  if constexpr (N == 16) {
    GLA_PRODUCT_OF_REGISTERS(16, 8, 9, 10, 11, 12, 13, 14);
  } else if constexpr (N == 32) {
    GLA_PRODUCT_OF_REGISTERS(32, 16, 17, 18, 19, 20, 21, 22);
  } else if constexpr (N == 64) {
    GLA_PRODUCT_OF_REGISTERS(64, 32, 33, 34, 35, 36, 37, 38);
  } else if constexpr (N == 128) {
    GLA_PRODUCT_OF_REGISTERS(128, 64, 65, 66, 67, 68, 69, 70);
  } else {
    GLA_PRODUCT_OF_REGISTERS(256, 128, 129, 130, 131, 132, 133, 134);
  }
#endif
}

#undef GLA_PRODUCT_OF_REGISTERS
#undef GLA_PRODUCT_OF_TILES
#undef GLA_PRODUCT
#undef GLA_SUMS_128
#undef GLA_SUMS_64
#undef GLA_SUMS_32
#undef GLA_SUMS_16
#undef GLA_SUMS_8
#undef GLA_SUMS_4
#undef GLA_NAMES_128
#undef GLA_NAMES_64
#undef GLA_NAMES_32
#undef GLA_NAMES_16
#undef GLA_NAMES_8

/// Orders this warp's uses of registers before the products that follow.
GLA_DEVICE void warpgroup_fence() {
#if defined(GLA_EMULATOR)
  emulator::wgmma_fence();
#else
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#endif
}

/// Closes the group of products since the last commit; empty groups count.
GLA_DEVICE void warpgroup_commit() {
#if defined(GLA_EMULATOR)
  emulator::wgmma_commit_group();
#else
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
#endif
}

/// Waits until at most `Pending` groups are unfinished. Tells nothing of the other warps' products.
template <int Pending>
GLA_DEVICE void warpgroup_wait() {
  static_assert(Pending >= 0 && Pending <= 7);
#if defined(GLA_EMULATOR)
  emulator::wgmma_wait_group(Pending);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(Pending) : "memory");
#endif
}

/// Keeps the compiler from moving uses of sums across the instructions beside which this stands: it does not know that
/// products run on until their wait.
template <int N>
GLA_DEVICE void warpgroup_pin([[maybe_unused]] float (&d)[N][4]) {
#if defined(GLA_EMULATOR)
  emulator::wgmma_registers_used();
#else
  GLA_UNROLL
  for (int j = 0; j < N; ++j)
    asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])::"memory");
#endif
}

/// The same for A operands in registers.
template <int N>
GLA_DEVICE void warpgroup_pin([[maybe_unused]] Bits32 (&a)[N][4]) {
#if defined(GLA_EMULATOR)
  emulator::wgmma_registers_used();
#else
  GLA_UNROLL
  for (int j = 0; j < N; ++j)
    asm volatile("" : "+r"(a[j][0]), "+r"(a[j][1]), "+r"(a[j][2]), "+r"(a[j][3])::"memory");
#endif
}

/// A copy of a finished sum for later. A plain one the compiler may keep where the products write, and move the sums there
/// while they run.
GLA_DEVICE float detached(float sum) {
#if defined(GLA_EMULATOR)
  return sum;
#else
  float copy;
  asm volatile("mov.b32 %0, %1;\n" : "=f"(copy) : "f"(sum));
  return copy;
#endif
}

/// Lets each thread of the warpgroup use up to `Registers` registers, and waits until others have given that many. For
/// kernels whose registers are bounded when they are compiled, by __launch_bounds__ too; ptxas says so where it ignores it.
template <int Registers>
GLA_DEVICE void take_registers() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0);
#if defined(GLA_EMULATOR)
  emulator::set_registers(Registers);
#else
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(Registers));
#endif
}

/// Leaves each thread of the warpgroup `Registers` registers.
template <int Registers>
GLA_DEVICE void give_registers() {
  static_assert(Registers >= 24 && Registers <= 256 && Registers % 8 == 0);
#if defined(GLA_EMULATOR)
  emulator::set_registers(Registers);
#else
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(Registers));
#endif
}

/// Shows what this thread has written to shared memory to the products and tensor copies that follow the next barrier.
GLA_DEVICE void fence_for_warpgroup() {
#if defined(GLA_EMULATOR)
  emulator::fence_proxy_async();
#else
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}

}  // namespace gla
