// The primitives of emulator.h on the block that runs.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "block.h"
#include "emulator.h"

namespace gla::emulator {
namespace {

template <class T>
struct Shuffle {
  T value;
  int mask;
  T result;
};

template <class T>
void exchange(Block&, const Operands& operands) {
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    auto* mine = static_cast<Shuffle<T>*>(operands[lane]);
    mine->result =
        static_cast<const Shuffle<T>*>(operands[(lane ^ static_cast<std::size_t>(mine->mask)) % kLanes])
            ->value;
  }
}

template <class T>
T shuffle(T value, int mask, void* call_site) {
  Shuffle<T> operand{value, mask, value};
  current_block()->meet_warp("shuffle_xor", call_site, &operand, exchange<T>);
  return operand.result;
}

void any_of(Block&, const Operands& operands) {
  bool any = false;
  for (void* lane : operands) any |= *static_cast<const bool*>(lane);
  for (void* lane : operands) *static_cast<bool*>(lane) = any;
}

struct Mma {
  float* d;
  const unsigned int* a;
  unsigned int b[2];
};

float low(unsigned int pair) {
  return bits_to_float(pair << 16);
}
float high(unsigned int pair) {
  return bits_to_float(pair & 0xffff0000u);
}

/// PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type": see templates/device/mma.cuh.
void multiply(Block& block, const Operands& operands) {
  if (Work* work = block.work()) work->multiply_adds += 16 * 8 * 16;
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const auto& mine = *static_cast<const Mma*>(operands[lane]);
    const std::size_t r = lane / 4;
    const std::size_t c = lane % 4 * 2;
    for (std::size_t part = 0; part < 4; ++part) {
      float* target = &a[r + part % 2 * 8][c + part / 2 * 8];
      target[0] = low(mine.a[part]);
      target[1] = high(mine.a[part]);
    }
    for (std::size_t part = 0; part < 2; ++part) {
      b[c + part * 8][r] = low(mine.b[part]);
      b[c + part * 8 + 1][r] = high(mine.b[part]);
      d[r + part * 8][c] = mine.d[part * 2];
      d[r + part * 8][c + 1] = mine.d[part * 2 + 1];
    }
  }
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t k = 0; k < 16; ++k) {
      for (std::size_t column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    auto* target = static_cast<Mma*>(operands[lane])->d;
    for (std::size_t i = 0; i < 4; ++i) target[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

struct LoadMatrices {
  unsigned int* r;
  const unsigned char* row;
};

template <bool Transposed>
void load_matrices(Block&, const Operands& operands) {
  for (std::size_t matrix = 0; matrix < 4; ++matrix) {
    std::uint16_t element[8][8];
    for (std::size_t row = 0; row < 8; ++row) {
      std::memcpy(element[row], static_cast<const LoadMatrices*>(operands[matrix * 8 + row])->row,
                  sizeof element[row]);
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const std::size_t r = lane / 4;
      const std::size_t c = lane % 4 * 2;
      const unsigned int first = Transposed ? element[c][r] : element[r][c];
      const unsigned int second = Transposed ? element[c + 1][r] : element[r][c + 1];
      static_cast<LoadMatrices*>(operands[lane])->r[matrix] = first | second << 16;
    }
  }
}

struct StoreMatrices {
  unsigned char* row;
  const unsigned int* r;
};

template <bool Transposed>
void store_matrices(Block&, const Operands& operands) {
  for (std::size_t matrix = 0; matrix < 4; ++matrix) {
    std::uint16_t element[8][8];
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const std::size_t r = lane / 4;
      const std::size_t c = lane % 4 * 2;
      const unsigned int pair = static_cast<const StoreMatrices*>(operands[lane])->r[matrix];
      (Transposed ? element[c][r] : element[r][c]) = static_cast<std::uint16_t>(pair);
      (Transposed ? element[c + 1][r] : element[r][c + 1]) = static_cast<std::uint16_t>(pair >> 16);
    }
    for (std::size_t row = 0; row < 8; ++row) {
      std::memcpy(static_cast<const StoreMatrices*>(operands[matrix * 8 + row])->row, element[row],
                  sizeof element[row]);
    }
  }
}

}  // namespace

int thread_index() {
  return current_block()->thread_index();
}
long long block_index() {
  return current_block()->index();
}
long long grid_size() {
  return current_block()->shape().grid;
}
unsigned char* shared_memory() {
  return current_block()->shared().data();
}

void launch_dependents() {
  current_block()->let_next_start(__builtin_return_address(0));
}
void wait_for_prerequisites() {
  current_block()->thread().waited_for_earlier = true;
}

void expect(bool holds) {
  if (!holds) current_block()->fail("an index outside its tile", __builtin_return_address(0));
}

void block_sync() {
  current_block()->meet_block("block_sync", __builtin_return_address(0), true);
}

bool block_sync_and(bool value) {
  return current_block()->meet_block("block_sync_and", __builtin_return_address(0), value);
}

void part_sync(int id, int threads) {
  current_block()->meet_part("part_sync", __builtin_return_address(0), id, threads, true);
}

bool part_sync_and(int id, int threads, bool value) {
  return current_block()->meet_part("part_sync_and", __builtin_return_address(0), id, threads, value);
}

void warp_sync() {
  current_block()->meet_warp("warp_sync", __builtin_return_address(0), nullptr,
                             [](Block& block, const Operands&) { block.note_warp_barrier(); });
}

bool warp_any(bool value) {
  current_block()->meet_warp("warp_any", __builtin_return_address(0), &value, any_of);
  return value;
}

float shuffle_xor(float value, int mask) {
  return shuffle(value, mask, __builtin_return_address(0));
}
double shuffle_xor(double value, int mask) {
  return shuffle(value, mask, __builtin_return_address(0));
}
long long shuffle_xor(long long value, int mask) {
  return shuffle(value, mask, __builtin_return_address(0));
}

void atomic_add(unsigned long long* address, unsigned long long value) {
  current_block()->note_access(AccessKind::atomic, address, sizeof *address, __builtin_return_address(0));
  __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
unsigned int atomic_add(unsigned int* address, unsigned int value) {
  current_block()->note_access(AccessKind::atomic, address, sizeof *address, __builtin_return_address(0));
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
void expect_count(const unsigned int* count, unsigned int least) {
  if (*count >= least) return;
  current_block()->fail("a wait for a count of " + std::to_string(least) + ", which is " +
                            std::to_string(*count) + " and stays that",
                        __builtin_return_address(0));
}

void mma_m16n8k16_bf16(float (&d)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1) {
  Mma operand{d, a, {b0, b1}};
  current_block()->meet_warp("mma", __builtin_return_address(0), &operand, multiply);
}

void ldmatrix_x4(unsigned int (&r)[4], const void* shared_row, bool transposed) {
  current_block()->require_shared("ldmatrix", shared_row, 16, __builtin_return_address(0));
  current_block()->note_access(AccessKind::read, shared_row, 16, __builtin_return_address(0));
  LoadMatrices operand{r, static_cast<const unsigned char*>(shared_row)};
  current_block()->meet_warp(transposed ? "ldmatrix.trans" : "ldmatrix", __builtin_return_address(0),
                             &operand, transposed ? load_matrices<true> : load_matrices<false>);
}

void stmatrix_x4(void* shared_row, const unsigned int (&r)[4], bool transposed) {
  current_block()->require_shared("stmatrix", shared_row, 16, __builtin_return_address(0));
  current_block()->note_access(AccessKind::write, shared_row, 16, __builtin_return_address(0));
  StoreMatrices operand{static_cast<unsigned char*>(shared_row), r};
  current_block()->meet_warp(transposed ? "stmatrix.trans" : "stmatrix", __builtin_return_address(0),
                             &operand, transposed ? store_matrices<true> : store_matrices<false>);
}

void copy_async(void* shared, const void* global, int bytes, bool valid) {
  Block& block = *current_block();
  block.require_shared("copy_async", shared, bytes, __builtin_return_address(0));
  if (reinterpret_cast<std::uintptr_t>(global) % static_cast<std::uintptr_t>(bytes) != 0) {
    block.fail("copy_async from a global address that is not a multiple of " + std::to_string(bytes),
               __builtin_return_address(0));
  }
  block.note_access(AccessKind::start_copy, shared, static_cast<std::size_t>(bytes),
                    __builtin_return_address(0));
  if (valid) {
    block.note_global_access(AccessKind::read, global, static_cast<std::size_t>(bytes),
                             __builtin_return_address(0));
  }
  std::memset(shared, 0xff, static_cast<std::size_t>(bytes));
  block.thread().copies.push_back({shared, global, bytes, valid, block.thread().copy_group});
}

void copy_async_commit() {
  ++current_block()->thread().copy_group;
}

void copy_async_wait(int pending) {
  Block& block = *current_block();
  Thread& thread = block.thread();
  const int arrived = thread.copy_group - pending;  // groups before this one must be complete
  const auto late = std::find_if(thread.copies.begin(), thread.copies.end(),
                                 [&](const PendingCopy& copy) { return copy.group >= arrived; });
  std::for_each(thread.copies.begin(), late, [&](const PendingCopy& copy) {
    const auto bytes = static_cast<std::size_t>(copy.bytes);
    block.note_access(AccessKind::finish_copy, copy.shared, bytes, nullptr);
    if (copy.valid) {
      std::memcpy(copy.shared, copy.global, bytes);
    } else {
      std::memset(copy.shared, 0, bytes);
    }
  });
  thread.copies.erase(thread.copies.begin(), late);
}

}  // namespace gla::emulator
