// wgmma on the emulator against plain products: every shape, operands in every layout, and what is wrong is noticed.
#define GLA_EMULATOR
#include "device/warpgroup.cuh"

#include <cmath>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "catch.h"
#include "device/mma.cuh"
#include "device/thread.cuh"
#include "machine.h"
#include "random.h"

using namespace gla;
using emulator::launch;
using emulator::Options;
using emulator::Order;
using enum Contraction;

namespace {

constexpr int kM = 64, kDepth = 128;  ///< of the products: eight instructions
constexpr int kPanelBytes = 128 * kPanelRowBytes;

/// Rows of `columns` small integers.
struct Matrix {
  int columns;
  std::vector<float> value;
  Matrix(int rows, int columns_, unsigned long long seed)
      : columns(columns_), value(static_cast<std::size_t>(rows * columns_)) {
    for (std::size_t i = 0; i < value.size(); ++i)
      value[i] = static_cast<float>(random_bits(seed, i) % 17) - 8.0f;
  }
  float at(int row, int column) const { return value[static_cast<std::size_t>(row * columns + column)]; }
};

/// This thread's part of writing panels of element(row, column).
template <class T = bf16, class Element>
void write_panels(unsigned char* panels, int panel_bytes, int rows, int columns, Element element) {
  for (int i = thread_index(); i < rows * columns; i += 128) {
    const int row = i / columns, column = i % columns;
    unsigned char* target = panels + column / 64 * panel_bytes + swizzled(row, column % 64 * 2);
    *reinterpret_cast<T*>(target) = from_float<T>(element(row, column));
  }
}

/// An operand of `size` x kDepth elements in panels that hold its rows, or the contraction's.
template <Contraction C, class T = bf16>
void write_operand(unsigned char* panels, const Matrix& matrix, int size) {
  if constexpr (C == along_rows) {
    write_panels<T>(panels, kPanelBytes * 2, size, kDepth, [&](int row, int k) { return matrix.at(row, k); });
  } else {
    write_panels<T>(panels, kPanelBytes, kDepth, size,
                    [&](int k, int column) { return matrix.at(column, k); });
  }
}

template <Contraction C>
MatrixDescriptor step(const unsigned char* panels, int k) {
  if constexpr (C == along_rows) return row_major_descriptor(panels + k / 4 * 2 * kPanelBytes + k % 4 * 32);
  return column_major_descriptor(panels + k * 16 * kPanelRowBytes, kPanelBytes);
}

/// How many sums of a kM x N product differ, of operands a (kM x kDepth) and b (N x kDepth) that lie in shared memory, or
/// a in registers. The sums start as 100 and count if `accumulate`.
template <int N, Contraction A, Contraction B, bool Halves = false>
int wrong_sums(bool in_registers, bool accumulate, const Options& options) {
  using Element = typename Select<Halves, fp16, bf16>::type;
  const Matrix a(kM, kDepth, 1), b(N, kDepth, 2);
  int wrong = 0;
  launch({1, 128, 8 * kPanelBytes}, options, [&] {
    unsigned char* panels_a = shared_memory();
    unsigned char* panels_b = panels_a + 4 * kPanelBytes;
    write_operand<A, Element>(panels_a, a, kM);
    write_operand<B, Element>(panels_b, b, N);
    const int row = warp_index() * 16 + lane_index() / 4, column = lane_index() % 4 * 2;
    Bits32 registers[kDepth / 16][4];
    for (int k = 0; k < kDepth / 16; ++k) {
      for (int i = 0; i < 4; ++i) {
        const int m = row + i % 2 * 8, first = 16 * k + column + i / 2 * 8;
        registers[k][i] = pack_bf16(a.at(m, first), a.at(m, first + 1));
      }
    }
    float d[N / 8][4];
    for (float(&tile)[4] : d)
      for (float& sum : tile) sum = 100;
    fence_for_warpgroup();
    block_sync();
    warpgroup_fence();
    for (int k = 0; k < kDepth / 16; ++k) {
      if (in_registers) {
        warpgroup_multiply<N, B>(d, registers[k], step<B>(panels_b, k), accumulate || k > 0);
      } else {
        warpgroup_multiply<N, A, B, Halves>(d, step<A>(panels_a, k), step<B>(panels_b, k),
                                            accumulate || k > 0);
      }
    }
    warpgroup_commit();
    warpgroup_wait<0>();
    for (int i = 0; i < N / 2; ++i) {
      const int m = row + i / 2 % 2 * 8, n = i / 4 * 8 + column + i % 2;
      float expected = accumulate ? 100.0f : 0.0f;
      for (int k = 0; k < kDepth; ++k) expected += a.at(m, k) * b.at(n, k);
      wrong += d[i / 4][i % 4] == expected ? 0 : 1;
    }
  });
  return wrong;
}

template <int N>
void expect_right_sums() {
  INFO("N = " << N);
  for (const bool accumulate : {false, true}) {
    const Options options{Order::random, 3};
    CHECK(wrong_sums<N, along_rows, along_rows>(false, accumulate, {}) == 0);
    CHECK(wrong_sums<N, along_rows, across_rows>(false, accumulate, options) == 0);
    CHECK(wrong_sums<N, across_rows, along_rows>(false, accumulate, options) == 0);
    CHECK(wrong_sums<N, across_rows, across_rows>(false, accumulate, options) == 0);
    CHECK(wrong_sums<N, along_rows, along_rows>(true, accumulate, options) == 0);
    CHECK(wrong_sums<N, along_rows, across_rows>(true, accumulate, {Order::backward, 0}) == 0);
    if constexpr (N == 32 || N == 64) {
      CHECK(wrong_sums<N, along_rows, along_rows, true>(false, accumulate, options) == 0);
      CHECK(wrong_sums<N, across_rows, along_rows, true>(false, accumulate, {}) == 0);
    }
  }
}

/// The sums of thread 0 and a way to multiply them once more, in shared memory that is 1 everywhere.
struct Bench {
  float d[4][4] = {};
  Bits32 ones[4] = {0x3f803f80, 0x3f803f80, 0x3f803f80, 0x3f803f80};

  Bench() {
    for (int i = thread_index(); i < 2 * kPanelBytes / 2; i += thread_count)
      reinterpret_cast<bf16*>(shared_memory())[i] = from_float<bf16>(1);
    block_sync();
  }
  MatrixDescriptor operand() const { return row_major_descriptor(shared_memory()); }
  void multiply() { warpgroup_multiply<32, along_rows, along_rows>(d, operand(), operand(), true); }
  float sum() const { return d[3][1]; }
  static constexpr int thread_count = 128;
};

/// What `kernel` returns in thread 0.
float result_of(const std::function<float(Bench&)>& kernel) {
  float result = 0;
  launch({1, Bench::thread_count, 2 * kPanelBytes}, {}, [&] {
    Bench bench;
    const float own = kernel(bench);
    if (thread_index() == 0) result = own;
  });
  return result;
}

std::string fault_of(const std::function<void(Bench&)>& kernel) {
  try {
    launch({1, Bench::thread_count, 2 * kPanelBytes}, {}, [&] {
      Bench bench;
      kernel(bench);
    });
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void finish() {
  warpgroup_commit();
  warpgroup_wait<0>();
}

}  // namespace

TEST_CASE("a row of a panel holds each of its bytes once, eight rows hold a column in every bank") {
  for (int row = 0; row < 16; ++row) {
    std::vector<int> pieces;
    for (int byte = 0; byte < kPanelRowBytes; byte += 16) pieces.push_back(swizzled(row, byte) / 16 % 8);
    for (int i = 0; i < 8; ++i) CHECK(pieces[static_cast<std::size_t>(i)] == (i ^ row % 8));
    CHECK(swizzled(row, 37) / kPanelRowBytes == row);
    CHECK(swizzled(row, 37) % 16 == 5);
  }
}

TEST_CASE("descriptors have the documented fields") {
  launch({1, 1, 8192}, {}, [] {
    CHECK(row_major_descriptor(shared_memory() + 4096 + 96).whole() ==
          (1ull << 62 | 64ull << 32 | 1ull << 16 | 262));
    CHECK(column_major_descriptor(shared_memory() + 2048, 16384).whole() ==
          (1ull << 62 | 64ull << 32 | 1024ull << 16 | 128));
    CHECK(further(row_major_descriptor(shared_memory() + 4096), 96).whole() ==
          row_major_descriptor(shared_memory() + 4096 + 96).whole());
  });
}

TEST_CASE("wgmma multiplies 64 x 32 sums") {
  expect_right_sums<32>();
}
TEST_CASE("wgmma multiplies 64 x 64 sums") {
  expect_right_sums<64>();
}
TEST_CASE("wgmma multiplies 64 x 128 sums") {
  expect_right_sums<128>();
}
TEST_CASE("wgmma multiplies 64 x 256 sums") {
  expect_right_sums<256>();
}

TEST_CASE("a second warpgroup multiplies its own rows") {
  int wrong = 0;
  launch({1, 256, 2 * kPanelBytes}, {Order::random, 5}, [&] {
    const int group = thread_index() / 128;
    unsigned char* panel = shared_memory() + group * kPanelBytes;
    write_panels(panel, 0, 64, 64, [&](int row, int) { return static_cast<float>((group + 1) * (row + 1)); });
    for (int i = thread_index() % 128; i < 64 * 64; i += 128)
      *reinterpret_cast<bf16*>(panel + swizzled(i / 64, i % 64 * 2)) =
          from_float<bf16>(static_cast<float>((group + 1) * (i / 64 + 1)));
    fence_for_warpgroup();
    block_sync();
    float d[4][4] = {};
    warpgroup_fence();
    warpgroup_multiply<32, along_rows, along_rows>(d, row_major_descriptor(panel),
                                                   row_major_descriptor(panel), true);
    finish();
    const int row = warp_index() % 4 * 16 + lane_index() / 4;
    wrong +=
        d[0][2] == static_cast<float>(16 * (group + 1) * (group + 1) * (row + 9) * (lane_index() % 4 * 2 + 1))
            ? 0
            : 1;
  });
  CHECK(wrong == 0);
}

TEST_CASE("sums read as NaN until the wait for the last product that they take part in") {
  launch({1, Bench::thread_count, 2 * kPanelBytes}, {}, [] {
    Bench bench;
    float other[4][4] = {};
    int wrong = 0;
    warpgroup_fence();
    bench.multiply();
    wrong += std::isnan(bench.sum()) ? 0 : 1;
    warpgroup_commit();
    warpgroup_multiply<32, along_rows>(other, bench.ones, bench.operand(), false);
    warpgroup_commit();
    wrong += std::isnan(other[0][0]) ? 0 : 1;
    warpgroup_wait<1>();
    wrong += bench.sum() == 16 && std::isnan(other[0][0]) ? 0 : 1;
    warpgroup_wait<0>();
    wrong += other[0][0] == 16 ? 0 : 1;
    if (wrong != 0) emulator::expect(false);
  });
}

TEST_CASE("a product of a part of the sums of others, which may still be running, is reported") {
  CHECK(contains(fault_of([](Bench& bench) {
                   warpgroup_fence();
                   bench.multiply();
                   auto& half = *reinterpret_cast<float(*)[2][4]>(&bench.d[2]);
                   warpgroup_multiply<16, along_rows>(half, bench.ones, bench.operand(), true);
                 }),
                 "wgmma with a part of the sums of products that may still be running"));
}

TEST_CASE("a product that is not committed is not waited for") {
  CHECK(std::isnan(result_of([](Bench& bench) {
    warpgroup_fence();
    bench.multiply();
    warpgroup_wait<0>();
    const float early = bench.sum();
    finish();
    return early;
  })));
}

TEST_CASE("operands, in memory and in registers, and sums that change before the wait make a wrong answer") {
  const auto once = [](const std::function<void(Bench&)>& meanwhile) {
    return result_of([&](Bench& bench) {
      warpgroup_fence();
      bench.multiply();
      warpgroup_multiply<32, along_rows>(bench.d, bench.ones, bench.operand(), true);
      warpgroup_commit();
      meanwhile(bench);
      warpgroup_wait<0>();
      return bench.sum();
    });
  };
  CHECK(once([](Bench&) {}) == 32);
  CHECK(once([](Bench&) {
          block_sync();
          if (thread_index() == 0) *reinterpret_cast<bf16*>(shared_memory()) = from_float<bf16>(3);
          block_sync();
        }) == 34);
  CHECK(once([](Bench& bench) { bench.ones[0] = 0; }) == 24);
  CHECK(once([](Bench& bench) { bench.d[3][1] = 7; }) == 32);  // written too early: lost
}

TEST_CASE("misuse of wgmma is reported") {
  CHECK(fault_of([](Bench& bench) {
          warpgroup_fence();
          bench.multiply();
          finish();
        }) == "");
  CHECK(contains(fault_of([](Bench& bench) { bench.multiply(); }), "wgmma without a warpgroup_fence"));
  CHECK(contains(fault_of([](Bench& bench) {
                   warpgroup_fence();
                   bench.multiply();
                   finish();
                   bench.multiply();
                 }),
                 "wgmma without a warpgroup_fence since the latest wait"));
  CHECK(contains(fault_of([](Bench& bench) {
                   warpgroup_fence();
                   bench.multiply();
                   warpgroup_commit();
                 }),
                 "ends before it has waited for its wgmma"));
  CHECK(contains(fault_of([](Bench& bench) {
                   warpgroup_fence();
                   if (warp_index() != 2) bench.multiply();
                 }),
                 "96 threads (first: 0) waiting at wgmma"));
  CHECK(contains(fault_of([](Bench& bench) {
                   warpgroup_fence();
                   const auto a = row_major_descriptor(shared_memory() + (thread_index() == 77 ? 32 : 0));
                   warpgroup_multiply<32, along_rows>(bench.d, bench.ones, a, true);
                 }),
                 "wgmma with other operands than other threads of its warpgroup"));
}

TEST_CASE("operands that are misplaced are reported") {
  const auto with = [](int offset, int panel_bytes) {
    return fault_of([=](Bench& bench) {
      warpgroup_fence();
      float d[16][4] = {};
      const auto b = column_major_descriptor(shared_memory() + offset, panel_bytes);
      warpgroup_multiply<128, across_rows>(d, bench.ones, b, true);
      finish();
    });
  };
  CHECK(with(2048, kPanelBytes) == "");
  CHECK(contains(with(2 * kPanelBytes, kPanelBytes), "a wgmma descriptor outside shared memory"));
  CHECK(
      contains(with(8, kPanelBytes), "a wgmma descriptor at byte 8 of shared memory, not a multiple of 16"));
  CHECK(contains(with(512, kPanelBytes), "a wgmma operand that starts in row 4 of 8"));
  CHECK(contains(with(0, 2 * kPanelBytes), "wgmma outside shared memory (byte 32768 of 32768)"));
  CHECK(contains(fault_of([](Bench& bench) {
                   warpgroup_fence();
                   MatrixDescriptor unswizzled = bench.operand();
                   unswizzled.high &= ~(3u << 30);
                   warpgroup_multiply<32, along_rows>(bench.d, bench.ones, unswizzled, true);
                 }),
                 "a wgmma descriptor that is not one of 128-byte swizzling"));
}
