// The emulator against what the hardware is documented to do: if these hold, a kernel that passes on it is
// worth trusting, and a kernel with a missing barrier, wait or initialisation does not pass.
#define GLA_EMULATOR
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "catch.h"
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/relay.cuh"
#include "device/thread.cuh"
#include "device/warpgroup.cuh"
#include "machine.h"
#include "random.h"

using namespace gla;
using emulator::launch;
using emulator::Options;
using emulator::Order;
using emulator::Shape;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<Options> all_orders() {
  std::vector<Options> options{{Order::forward, 0}, {Order::backward, 0}};
  for (std::uint64_t seed = 1; seed <= 5; ++seed) options.push_back({Order::random, seed});
  return options;
}

/// The message of the Fault that a kernel ends in; empty if it ends well.
template <class Kernel>
std::string fault_of(const Shape& shape, const Options& options, Kernel kernel) {
  try {
    launch(shape, options, kernel);
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return {};
}

/// Counts broken expectations: Catch's own checks must not be under way when a fiber switches.
struct Expectations {
  int broken = 0;
  void operator()(bool holds) { broken += holds ? 0 : 1; }
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

float small_integer(unsigned long long seed, int i) {
  return static_cast<float>(random_bits(seed, static_cast<unsigned long long>(i)) % 17) - 8.0f;
}

template <int Rows, int Columns>
std::array<std::array<float, Columns>, Rows> small_integers(unsigned long long seed) {
  std::array<std::array<float, Columns>, Rows> matrix;
  for (int i = 0; i < Rows * Columns; ++i) {
    matrix[static_cast<std::size_t>(i / Columns)][static_cast<std::size_t>(i % Columns)] =
        small_integer(seed, i);
  }
  return matrix;
}

}  // namespace

TEST_CASE("every thread of every block runs once and knows where it is") {
  std::vector<int> visits(3 * 96);
  for (const Options& options : all_orders()) {
    launch({3, 96, 0}, options, [&] {
      visits[0] += grid_size() == 3 ? 0 : 1;
      ++visits[static_cast<std::size_t>(block_index() * 96 + warp_index() * 32 + lane_index())];
    });
  }
  CHECK(visits == std::vector<int>(visits.size(), static_cast<int>(all_orders().size())));
}

TEST_CASE("mma multiplies in the documented fragment layout") {
  const auto a = small_integers<16, 16>(1);
  const auto b = small_integers<16, 8>(2);
  const auto d = small_integers<16, 8>(3);
  auto result = d;
  launch({1, 32, 0}, {}, [&] {
    const std::size_t r = static_cast<std::size_t>(lane_index()) / 4;
    const std::size_t c = static_cast<std::size_t>(lane_index()) % 4 * 2;
    const Bits32 left[4] = {pack_bf16(a[r][c], a[r][c + 1]), pack_bf16(a[r + 8][c], a[r + 8][c + 1]),
                            pack_bf16(a[r][c + 8], a[r][c + 9]), pack_bf16(a[r + 8][c + 8], a[r + 8][c + 9])};
    float sum[4] = {d[r][c], d[r][c + 1], d[r + 8][c], d[r + 8][c + 1]};
    multiply_accumulate(sum, left, pack_bf16(b[c][r], b[c + 1][r]), pack_bf16(b[c + 8][r], b[c + 9][r]));
    result[r][c] = sum[0];
    result[r][c + 1] = sum[1];
    result[r + 8][c] = sum[2];
    result[r + 8][c + 1] = sum[3];
  });
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t j = 0; j < 8; ++j) {
      float expected = d[i][j];
      for (std::size_t k = 0; k < 16; ++k) expected += a[i][k] * b[k][j];
      CHECK(result[i][j] == expected);
    }
  }
}

TEST_CASE("ldmatrix hands each lane the documented elements, plain and transposed") {
  Expectations expect;
  constexpr int kRowBytes = 48;  // rows need not be adjacent
  launch({1, 32, 32 * kRowBytes}, {}, [&] {
    const int lane = lane_index();
    auto* row = reinterpret_cast<Bits16*>(shared_memory() + lane * kRowBytes);
    for (int i = 0; i < 8; ++i) row[i] = static_cast<Bits16>(lane * 8 + i);  // matrix * 64 + row * 8 + column
    block_sync();
    Bits32 plain[4];
    Bits32 transposed[4];
    load_matrices(plain, row);
    load_matrices_transposed(transposed, row);
    const int r = lane / 4;
    const int c = lane % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      const int first = m * 64 + r * 8 + c;
      expect(plain[m] == static_cast<Bits32>(first | (first + 1) << 16));
      const int first_transposed = m * 64 + c * 8 + r;
      expect(transposed[m] == static_cast<Bits32>(first_transposed | (first_transposed + 8) << 16));
    }
  });
  CHECK(expect.broken == 0);
}

TEST_CASE("stmatrix stores what ldmatrix loads, plain and transposed") {
  Expectations expect;
  constexpr int kRowBytes = 48;
  launch({1, 32, 32 * kRowBytes}, {Order::random, 2}, [&] {
    const int lane = lane_index();
    const auto* row = reinterpret_cast<const Bits16*>(shared_memory() + lane * kRowBytes);
    const auto bits = [](int m, int r, int c) { return static_cast<Bits32>(m * 64 + r * 8 + c); };
    const int r = lane / 4;
    const int c = lane % 4 * 2;
    Bits32 plain[4];
    Bits32 transposed[4];
    for (int m = 0; m < 4; ++m) {
      plain[m] = bits(m, r, c) | bits(m, r, c + 1) << 16;
      transposed[m] = bits(m, c, r) | bits(m, c + 1, r) << 16;
    }
    for (const bool is_transposed : {false, true}) {
      if (is_transposed) {
        store_matrices_transposed(shared_memory() + lane * kRowBytes, transposed);
      } else {
        store_matrices(shared_memory() + lane * kRowBytes, plain);
      }
      warp_sync();
      for (int i = 0; i < 8; ++i) expect(row[i] == bits(lane / 8, lane % 8, i));
      warp_sync();
      for (int i = lane; i < 32 * kRowBytes; i += 32) shared_memory()[i] = 0;
      warp_sync();
    }
  });
  CHECK(expect.broken == 0);
}

TEST_CASE("shuffles exchange and sum lanes") {
  Expectations expect;
  for (const Options& options : all_orders()) {
    launch({1, 64, 0}, options, [&] {
      expect(shuffle_xor(static_cast<float>(thread_index()), 5) == static_cast<float>(thread_index() ^ 5));
      expect(shuffle_xor(static_cast<long long>(thread_index()) << 40, 16) ==
             static_cast<long long>(thread_index() ^ 16) << 40);
      expect(sum_lanes<32>(static_cast<double>(lane_index())) == 496.0);
      expect(sum_lanes<4>(static_cast<float>(lane_index() % 4)) == 6.0f);
    });
  }
  CHECK(expect.broken == 0);
}

TEST_CASE("a missing barrier gives a wrong answer in some order") {
  const auto wrong_answers = [](bool with_barrier) {
    int wrong = 0;
    for (const Options& options : all_orders()) {
      launch({1, 64, 64 * sizeof(float)}, options, [&] {
        auto* values = reinterpret_cast<float*>(shared_memory());
        values[thread_index()] = static_cast<float>(thread_index());
        if (with_barrier) block_sync();
        const int neighbour = (thread_index() + 1) % 64;
        if (values[neighbour] != static_cast<float>(neighbour)) ++wrong;
      });
    }
    return wrong;
  };
  CHECK(wrong_answers(true) == 0);
  CHECK(wrong_answers(false) > 0);
}

TEST_CASE("block_sync_and tells whether all agreed, again and again") {
  Expectations expect;
  for (const Options& options : all_orders()) {
    launch({1, 96, 0}, options, [&] {
      for (int round = 0; round < 4; ++round)
        expect(block_sync_and(thread_index() != round * 50) == (round >= 2));
    });
  }
  CHECK(expect.broken == 0);
}

TEST_CASE("a barrier that some threads miss is reported with its source line") {
  const std::string fault = fault_of({2, 64, 0}, {}, [] {
    if (thread_index() < 40) block_sync();
  });
  CHECK(contains(fault, "block 0 cannot go on"));
  CHECK(contains(fault, "24 threads (first: 40) finished"));
  CHECK(contains(fault, "40 threads (first: 0) waiting at block_sync"));
}

TEST_CASE("a named barrier orders what its warps do while others wait elsewhere, run on or finish") {
  for (const Options& options : all_orders()) {
    int wrong = 0;
    launch({2, 192, 192 * sizeof(int)}, options, [&] {
      auto* values = reinterpret_cast<int*>(shared_memory());
      const int pair = warp_index() / 2, first = pair * 64;
      if (warp_index() == 5) return;
      if (pair < 2) {
        for (int round = 0; round < 3 + pair; ++round) {
          values[thread_index()] = thread_index() + 1000 * round;
          part_sync<64>(1 + pair);
          const int other = first + (thread_index() + 33) % 64;
          wrong += values[other] == other + 1000 * round ? 0 : 1;
          part_sync<64>(1 + pair);
        }
      }
      part_sync<160>(15);
      if (warp_index() == 3) return;
      if (warp_index() == 4) values[160] = 7;
      part_sync<128>(3);
      wrong += values[160] == 7 ? 0 : 1;
    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("a named barrier of the whole block is not block_sync") {
  CHECK(fault_of({1, 64, 0}, {}, [] {
          part_sync<64>(1);
          block_sync();
        }).empty());
  const std::string fault = fault_of({1, 64, 0}, {}, [] {
    if (warp_index() == 0) {
      part_sync<64>(1);
    } else {
      block_sync();
    }
  });
  CHECK(contains(fault, "32 threads (first: 0) waiting at part_sync 1"));
  CHECK(contains(fault, "32 threads (first: 32) waiting at block_sync"));
}

TEST_CASE("part_sync_and tells its own threads whether they agreed, again and again") {
  Expectations expect;
  for (const Options& options : all_orders()) {
    launch({1, 128, 0}, options, [&] {
      const int part = thread_index() / 64;
      for (int round = 0; round < 6; ++round)
        expect(part_sync_and<64>(7 + part, thread_index() != round * 31) == (round * 31 / 64 != part));
    });
  }
  CHECK(expect.broken == 0);
}

TEST_CASE("a named barrier that some of its threads miss is reported") {
  const std::string fault = fault_of({1, 96, 0}, {}, [] {
    if (warp_index() < 2 && thread_index() != 5) part_sync<64>(4);
  });
  CHECK(contains(fault, "63 threads (first: 0) waiting at part_sync 4"));
  CHECK(contains(fault, "33 threads (first: 5) finished"));
  const std::string crossed = fault_of({1, 64, 0}, {}, [] {
    part_sync<64>(1 + warp_index());
    part_sync<64>(2 - warp_index());
  });
  CHECK(contains(crossed, "32 threads (first: 0) waiting at part_sync 1"));
  CHECK(contains(crossed, "32 threads (first: 32) waiting at part_sync 2"));
}

TEST_CASE("a misused named barrier is reported") {
  for (const Options& options : all_orders()) {
    const auto fault = [&](auto kernel) { return fault_of({1, 128, 0}, options, kernel); };
    CHECK(contains(fault([] { part_sync<128>(0); }), "part_sync at barrier 0, not 1 to 15"));
    CHECK(contains(fault([] { part_sync_and<128>(16, true); }), "part_sync_and at barrier 16, not 1 to 15"));
    CHECK(
        contains(fault([] { part_sync<256>(1); }), "part_sync of 256 threads, not whole warps of the block"));
    CHECK(contains(fault([] { warp_index() == 0 ? part_sync<96>(1) : part_sync<128>(1); }),
                   "threads, while others wait there for"));
    CHECK(contains(fault([] {
                     if (lane_index() < 16) part_sync<64>(1);
                   }),
                   "part_sync: lanes of warp"));
    CHECK(contains(fault([] { warp_index() == 0 ? void(part_sync_and<128>(1, true)) : part_sync<128>(1); }),
                   "while others of its group wait at part_sync"));
  }
}

TEST_CASE("registers are taken and given by whole warpgroups") {
  CHECK(fault_of({1, 256, 0}, {Order::random, 4}, [] {
          thread_index() < 128 ? take_registers<240>() : give_registers<24>();
        }).empty());
  CHECK(contains(fault_of({1, 128, 0}, {},
                          [] {
                            if (warp_index() != 2) take_registers<240>();
                          }),
                 "96 threads (first: 0) waiting at set_registers"));
  CHECK(contains(
      fault_of({1, 128, 0}, {}, [] { warp_index() < 2 ? take_registers<240>() : give_registers<24>(); }),
      "set_registers of 240 and 24 in one warpgroup"));
}

TEST_CASE("different collectives in one warp or at one barrier are reported") {
  CHECK(contains(fault_of({1, 32, 0}, {},
                          [] {
                            if (lane_index() == 7) {
                              float d[4] = {};
                              multiply_accumulate(d, {0, 0, 0, 0}, 0, 0);
                            } else {
                              shuffle_xor(0.0f, 1);
                            }
                          }),
                 "thread 7: mma, while others of its group wait at shuffle_xor"));
  CHECK(contains(fault_of({1, 64, 0}, {},
                          [] {
                            if (warp_index() == 0) {
                              block_sync();
                            } else {
                              block_sync_and(true);
                            }
                          }),
                 "thread 32: block_sync_and, while others of its group wait at block_sync"));
}

TEST_CASE("a lane that skips a warp collective is reported") {
  CHECK(contains(fault_of({1, 32, 0}, {Order::random, 3},
                          [] {
                            if (lane_index() != 0) shuffle_xor(1.0f, 1);
                          }),
                 "31 threads (first: 1) waiting at shuffle_xor"));
}

TEST_CASE("an asynchronous copy arrives at its wait and not before") {
  alignas(16) std::array<float, 12> source;
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i);
  launch({1, 1, 64}, {}, [&] {
    auto* target = reinterpret_cast<float*>(shared_memory());
    for (int i = 0; i < 16; ++i) target[i] = -1.0f;
    copy_async<16>(target, &source[0], true);
    copy_async_commit();
    copy_async<16>(target + 4, &source[4], true);
    copy_async<16>(target + 8, &source[8], false);
    copy_async_commit();
    copy_async<8>(target + 12, &source[8], true);
    CHECK(std::isnan(target[0]));
    copy_async_wait<1>();
    CHECK(target[3] == 3.0f);
    CHECK(std::isnan(target[4]));
    copy_async_wait<0>();
    CHECK(target[7] == 7.0f);
    CHECK(target[8] == 0.0f);
    CHECK(std::isnan(target[12]));  // never committed
    CHECK(target[14] == -1.0f);
  });
}

TEST_CASE("unaligned and foreign addresses are reported") {
  alignas(16) static float source[8];
  CHECK(contains(fault_of({1, 1, 64}, {}, [] { copy_async<16>(shared_memory() + 8, source, true); }),
                 "copy_async at byte 8 of shared memory, not a multiple of 16"));
  CHECK(contains(fault_of({1, 1, 64}, {}, [] { copy_async<16>(shared_memory(), source + 1, true); }),
                 "copy_async from a global address that is not a multiple of 16"));
  CHECK(contains(fault_of({1, 1, 64}, {}, [] { copy_async<8>(shared_memory() + 64, source, true); }),
                 "copy_async outside shared memory (byte 64 of 64)"));
  CHECK(contains(fault_of({1, 32, 1024}, {},
                          [] {
                            Bits32 r[4];
                            load_matrices(r, shared_memory() + lane_index() * 4);
                          }),
                 "ldmatrix at byte 4 of shared memory, not a multiple of 16"));
  CHECK(contains(fault_of({1, 32, 1024}, {},
                          [] {
                            store_matrices(shared_memory() + lane_index() * 16 + 528, {0, 0, 0, 0});
                          }),
                 "stmatrix outside shared memory (byte 1024 of 1024)"));
}

TEST_CASE("shared memory starts as NaN in every block") {
  Expectations expect;
  launch({2, 1, 256}, {}, [&] {
    for (int i = 0; i < 64; ++i) expect(std::isnan(reinterpret_cast<float*>(shared_memory())[i]));
    for (int i = 0; i < 128; ++i) expect(std::isnan(to_float(reinterpret_cast<bf16*>(shared_memory())[i])));
    for (int i = 0; i < 128; ++i) expect(std::isnan(to_float(reinterpret_cast<fp16*>(shared_memory())[i])));
    for (int i = 0; i < 256; ++i) shared_memory()[i] = 0;
  });
  CHECK(expect.broken == 0);
}

TEST_CASE("shared memory ends where the launch says") {
  CHECK(contains(fault_of({1, 1, 128}, {}, [] { shared_memory()[128] = 1; }),
                 "block 0, thread 0: access to shared memory byte 128 of 128"));
  CHECK(contains(fault_of({1, 1, 100}, {}, [] { shared_memory()[100] = 1; }),
                 "a write past the end of shared memory"));
  CHECK(contains(fault_of({1, 1, 65536}, {}, [] { shared_memory()[-1] = 1; }),
                 "shared memory byte -1 of 65536"));
}

TEST_CASE("a null access is a fault of the kernel and the next launch works") {
  for (int round = 0; round < 2; ++round) {
    CHECK(contains(fault_of(
                       {1, 32, 0}, {Order::backward, 0}, []() __attribute__((no_sanitize("undefined"))) {
                         volatile int* volatile nowhere = nullptr;
                         if (lane_index() == 9) *nowhere = 1;
                       }),
                   "block 0, thread 9: access to address"));
    int visits = 0;
    launch({1, 32, 0}, {}, [&] { ++visits; });
    CHECK(visits == 32);
  }
}

TEST_CASE("bf16 rounds to nearest even and keeps NaN and infinity") {
  const auto rounded = [](float x) { return to_float(from_float<bf16>(x)); };
  CHECK(rounded(1.0f + 0x1p-8f) == 1.0f);
  CHECK(rounded(1.0f + 0x1p-7f + 0x1p-8f) == 1.0f + 0x1p-6f);
  CHECK(rounded(1.0f + 0x1.01p-8f) == 1.0f + 0x1p-7f);
  CHECK(rounded(-kInfinity) == -kInfinity);
  CHECK(rounded(std::numeric_limits<float>::max()) == kInfinity);
  CHECK(rounded(0x1p-130f) == 0x1p-130f);
  CHECK(std::isnan(rounded(kNan)));
  CHECK(std::isnan(rounded(bits_to_float(0x7f800001u))));  // rounding its mantissa away would make infinity
  CHECK(std::signbit(rounded(-0.0f)));
}

TEST_CASE("every fp16 value survives the way to float and back") {
  for (Bits32 bits = 0; bits < 0x10000u; ++bits) {
    const fp16 half{static_cast<Bits16>(bits)};
    const float value = to_float(half);
    const Bits16 back = from_float<fp16>(value).bits;
    if (back != (std::isnan(value) ? 0x7fff : bits)) FAIL("fp16 bits " << bits << " came back as " << back);
  }
  CHECK(to_float(fp16{0x3c00}) == 1.0f);
  CHECK(to_float(fp16{0x0001}) == 0x1p-24f);
  CHECK(to_float(fp16{0x7bff}) == 65504.0f);
}

TEST_CASE("fp16 rounds to nearest even, also among denormals and at the top") {
  const auto rounded = [](float x) { return to_float(from_float<fp16>(x)); };
  CHECK(rounded(1.0f + 0x1p-11f) == 1.0f);
  CHECK(rounded(1.0f + 0x1.8p-10f) == 1.0f + 0x1p-9f);
  CHECK(rounded(0x1p-25f) == 0.0f);
  CHECK(rounded(0x1.8p-24f) == 0x1p-23f);
  CHECK(rounded(0x1.ffep-15f) == 0x1p-14f);
  CHECK(rounded(65519.0f) == 65504.0f);
  CHECK(rounded(-65520.0f) == -kInfinity);
  CHECK(std::isnan(rounded(kNan)));
}

TEST_CASE("exp2 flushes denormals and follows the limits") {
  CHECK(exp2_fast(0.0f) == 1.0f);
  CHECK(exp2_fast(-126.0f) == 0x1p-126f);
  CHECK(exp2_fast(-126.5f) == 0.0f);
  CHECK(exp2_fast(0x1p-140f) == 1.0f);
  CHECK(exp2_fast(-kInfinity) == 0.0f);
  CHECK(exp2_fast(128.0f) == kInfinity);
  CHECK(std::isnan(exp2_fast(kNan)));
  CHECK(exp2_fast(0.5f) == Approx(std::sqrt(2.0f)));
}

TEST_CASE("the greater of two bf16 is NaN if one is, and not -0 if one is 0") {
  const auto greater = [](float a, float b) { return low_of(max_bf16(pack_bf16(a, 0), pack_bf16(b, 0))); };
  CHECK(greater(-3, 2) == 2);
  CHECK(greater(-3, -2) == -2);
  CHECK(greater(kInfinity, 1) == kInfinity);
  CHECK(std::isnan(greater(kNan, 1)));
  CHECK(std::isnan(greater(1, -kNan)));
  CHECK_FALSE(std::signbit(greater(-0.0f, 0.0f)));
  CHECK(std::signbit(greater(-0.0f, -0.0f)));
  CHECK(max_bf16(pack_bf16(1, 4), pack_bf16(2, 3)) == pack_bf16(2, 4));
}

TEST_CASE("the greater magnitude of two fp16, and which of them is at least the other") {
  const auto greater = [](float a, float b) {
    return unpack<fp16>(greater_magnitude(pack<fp16>(a, 0), pack<fp16>(b, 0))).item[0];
  };
  CHECK(greater(-3, 2) == 3);
  CHECK(greater(1, -kInfinity) == kInfinity);
  CHECK(std::isnan(greater(kNan, 1)));
  CHECK(std::isnan(greater(1, -kNan)));
  CHECK(greater_magnitude(pack<fp16>(-1, 4), pack<fp16>(2, -3)) == pack<fp16>(2, 4));
  CHECK(mask_at_least(pack<fp16>(2, 1), pack<fp16>(2, 3)) == 0x0000ffffu);
  CHECK(mask_at_least(pack<fp16>(-1, kInfinity), pack<fp16>(0, 1)) == 0xffff0000u);
  CHECK(mask_at_least(pack<fp16>(kNan, 1), pack<fp16>(0, kNan)) == 0);
}

TEST_CASE("three bf16 parts hold a float") {
  Bits32 parts[3];
  split_bf16(1.2345678f, -7654.321f, parts);
  CHECK(low_of(parts[0]) + low_of(parts[1]) + low_of(parts[2]) == 1.2345678f);
  CHECK(high_of(parts[0]) + high_of(parts[1]) + high_of(parts[2]) == -7654.321f);
}

TEST_CASE("OS threads launch and trap independently") {
  std::atomic<int> faults{0};
  const auto null_access = []() __attribute__((no_sanitize("undefined"))) {
    volatile int* volatile nowhere = nullptr;
    *nowhere = 1;
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 25; ++round) faults += fault_of({1, 1, 0}, {}, null_access).empty() ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(faults == 100);
}

TEST_CASE("blocks take turns in the order in which they start, and a wait that nothing ends is a fault") {
  constexpr int kBlocks = 6;
  for (const Options& options : all_orders()) {
    unsigned int started = 0, handed_on = 0;
    std::vector<long long> taken(kBlocks, -1);
    launch({kBlocks, 64, 16}, options, [&] {
      auto* const turn = reinterpret_cast<unsigned int*>(shared_memory());
      count_start(turn, &started);
      wait_for_hand_over(&handed_on, 2 * *turn);
      if (thread_index() == 0) taken[*turn] = block_index();
      hand_on(&handed_on);
    });
    CHECK(started == kBlocks);
    CHECK(handed_on == 2 * kBlocks);  // warps
    CHECK(std::count(taken.begin(), taken.end(), -1) == 0);
  }
  unsigned int handed_on = 1;
  CHECK(contains(fault_of({1, 32, 0}, {}, [&] { wait_for_hand_over(&handed_on, 2); }),
                 "a wait for a count of 2, which is 1 and stays that"));
}
