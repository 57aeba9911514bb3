// The device primitives of templates/device/ for threads that are fibers on the CPU.
// templates/device/platform.cuh includes this file when GLA_EMULATOR is defined; machine.h runs kernels
// compiled that way. The functions that meet other threads are named and specified by their device twins in
// templates/device/.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace gla::emulator {

int thread_index();
long long block_index();
long long grid_size();
unsigned char* shared_memory();

/// Ends the kernel with a Fault unless `holds`.
void expect(bool holds);

void block_sync();
bool block_sync_and(bool value);
void part_sync(int id, int threads);
bool part_sync_and(int id, int threads, bool value);
void warp_sync();

bool warp_any(bool value);
float shuffle_xor(float value, int mask);
double shuffle_xor(double value, int mask);
long long shuffle_xor(long long value, int mask);
void mma_m16n8k16_bf16(float (&d)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1);
void ldmatrix_x4(unsigned int (&r)[4], const void* shared_row, bool transposed);
void stmatrix_x4(void* shared_row, const unsigned int (&r)[4], bool transposed);

/// The target reads as NaN until the data arrives, which is at the last wait that allows it.
void copy_async(void* shared, const void* global, int bytes, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);

/// Where it lies in shared memory, which starts at 0.
unsigned int shared_address(const void* shared);

/// An operand of wgmma in shared memory. `across_rows`: imm-trans, its rows are the contraction. `halves`: fp16, not bf16.
struct SharedOperand {
  unsigned long long descriptor;
  bool across_rows, halves = false;
};
/// `d` has n / 2 sums, which read as NaN until the last wait that lets the product run on. The product reads its
/// operands, registers too, and replaces `d` in that wait.
void wgmma_m64k16(float* d, int n, SharedOperand a, SharedOperand b, bool accumulate);
void wgmma_m64k16(float* d, int n, const unsigned int (&a)[4], SharedOperand b, bool accumulate);
void wgmma_fence();
/// Says that products' registers are used here: a fence follows before the next product.
void wgmma_registers_used();
void wgmma_commit_group();
void wgmma_wait_group(int pending);
void fence_proxy_async();
/// Does nothing, but the whole warpgroup must do it.
void set_registers(int count);

/// A thread that has let the next kernel start must wait for the earlier ones before it ends, and in a stream every thread,
/// before it touches what they write.
void launch_dependents();
void wait_for_prerequisites();

void mbarrier_init(unsigned long long* barrier, int arrivals);
void mbarrier_arrive_expect_tx(unsigned long long* barrier, int bytes);
void mbarrier_arrive(unsigned long long* barrier);
void mbarrier_wait_parity(unsigned long long* barrier, int parity);

struct TensorPlace {
  int channel, token, head, batch;
};
/// `map` is what tensor_map.h encodes. The target reads as NaN until the data arrives, which is when nothing else keeps a
/// thread that waits at the barrier; a store reads in the last wait that allows it.
void tensor_load(void* shared, const void* map, TensorPlace place, unsigned long long* barrier);
void tensor_store(const void* map, const void* shared, TensorPlace place);
void bulk_commit_group();
void bulk_wait_group_read(int pending);

void cluster_sync();
/// The slot reads as NaN until the data arrives, as a tensor_load's. `block` is another one of the cluster, and has
/// made `arriving` a barrier before a cluster_sync. What the receiver's threads have done with the slot must be known to
/// the sender, by what was sent to it since or by a cluster_sync.
void send(void* slot, const float (&values)[4], unsigned long long* arriving, int block);

void atomic_add(unsigned long long* address, unsigned long long value);
/// What was there before.
unsigned int atomic_add(unsigned int* address, unsigned int value);
/// Ends the kernel with a Fault unless the count is reached: no other block runs that could still reach it.
void expect_count(const unsigned int* count, unsigned int least);

inline float bits_to_float(unsigned int bits) {
  return std::bit_cast<float>(bits);
}
inline unsigned int float_to_bits(float value) {
  return std::bit_cast<unsigned int>(value);
}

/// cvt.rn.bf16.f32: nearest even; every NaN becomes 0x7fff.
inline unsigned short float_to_bfloat(float value) {
  if (std::isnan(value)) return 0x7fff;
  const std::uint32_t bits = float_to_bits(value);
  return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// cvt.rn.f16.f32: nearest even, infinity above the range, denormals kept; every NaN becomes 0x7fff.
inline unsigned short float_to_half(float value) {
  if (std::isnan(value)) return 0x7fff;
  const std::uint32_t bits = float_to_bits(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x477ff000u)
    return static_cast<unsigned short>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {
    // Adding 0.5 leaves 2^-24, the unit of fp16 denormals, as the last bit of the sum's mantissa.
    const std::uint32_t sum = float_to_bits(bits_to_float(magnitude) + 0.5f);
    return static_cast<unsigned short>(sign | (sum - float_to_bits(0.5f)));
  }
  const std::uint32_t rebased = magnitude - (112u << 23);  // exponent bias 127 -> 15
  return static_cast<unsigned short>(sign | (rebased + 0x0fffu + (rebased >> 13 & 1u)) >> 13);
}

/// cvt.f32.f16: exact.
inline float half_to_float(unsigned short half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return bits_to_float(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return bits_to_float(sign | (exponent + 112u) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

/// max.NaN.bf16x2: every NaN becomes 0x7fff, -0 is less than 0.
inline unsigned int max_bf16x2(unsigned int a, unsigned int b) {
  const auto greater = [](unsigned int x, unsigned int y) -> unsigned int {
    const float left = bits_to_float(x << 16);
    const float right = bits_to_float(y << 16);
    if (std::isnan(left) || std::isnan(right)) return 0x7fff;
    if (left == right) return x & y;  // the sign only where both have it
    return left > right ? x : y;
  };
  return greater(a & 0xffffu, b & 0xffffu) | greater(a >> 16, b >> 16) << 16;
}

/// max.NaN.f16x2 of abs.f16x2: every NaN becomes 0x7fff.
inline unsigned int max_abs_f16x2(unsigned int a, unsigned int b) {
  const auto greater = [](unsigned int x, unsigned int y) -> unsigned int {
    const unsigned int infinity = 0x7c00;  // above it are NaNs; magnitudes are in the order of their bits
    if (x > infinity || y > infinity) return 0x7fff;
    return x > y ? x : y;
  };
  return greater(a & 0x7fffu, b & 0x7fffu) | greater(a >> 16 & 0x7fffu, b >> 16 & 0x7fffu) << 16;
}

/// set.ge.u32.f16x2: NaN is not at least anything.
inline unsigned int mask_ge_f16x2(unsigned int a, unsigned int b) {
  const auto mask = [](unsigned int x, unsigned int y) -> unsigned int {
    return half_to_float(static_cast<unsigned short>(x)) >= half_to_float(static_cast<unsigned short>(y))
               ? 0xffff
               : 0;
  };
  return mask(a, b) | mask(a >> 16, b >> 16) << 16;
}

/// ex2.approx.ftz.f32: denormal arguments count as 0 and denormal results become 0.
inline float exp2_fast(float x) {
  constexpr float kSmallestNormal = std::numeric_limits<float>::min();
  if (std::fabs(x) < kSmallestNormal) return 1.0f;
  const float result = std::exp2(x);
  return result < kSmallestNormal ? 0.0f : result;
}

}  // namespace gla::emulator
