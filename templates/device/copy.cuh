// Rows of a global tensor into a shared tile, asynchronously or through registers.
#pragma once

#include "async_copy.cuh"
#include "numeric.cuh"
#include "thread.cuh"

namespace gla {

GLA_HOST_DEVICE constexpr int greatest_common_divisor(int a, int b) {
  while (b != 0) {
    const int rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

/// The widest access that every row start of a dense [.., D] tensor allows, in bytes, 16 at most.
GLA_HOST_DEVICE constexpr int row_alignment(int channels, int element_bytes) {
  return greatest_common_divisor(16, channels * element_bytes);
}

/// `Bytes` bytes that move as one access: 2, 4, 8 or 16.
template <int Bytes>
struct PacketOf {
  using type = Vector<Bits32, Bytes / 4>;
};
template <>
struct PacketOf<2> {
  using type = Vector<Bits16, 1>;
};
template <int Bytes>
using Packet = typename PacketOf<Bytes>::type;

/// Stores a packet to global memory as one access; left to itself the compiler may take it apart.
template <int Bytes>
GLA_DEVICE void store_packet(void* global, const Packet<Bytes>& packet) {
#if !defined(GLA_EMULATOR)
  if constexpr (Bytes == 16) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"l"(__cvta_generic_to_global(global)),
                 "r"(packet.item[0]), "r"(packet.item[1]), "r"(packet.item[2]), "r"(packet.item[3])
                 : "memory");
    return;
  }
  if constexpr (Bytes == 8) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};\n" ::"l"(__cvta_generic_to_global(global)),
                 "r"(packet.item[0]), "r"(packet.item[1])
                 : "memory");
    return;
  }
#endif
  *static_cast<Packet<Bytes>*>(global) = packet;
}

/// Copies `Rows` rows of `Columns` elements, `columns` of which exist (a multiple of the vector), to a tile; the caller is
/// thread `thread` of `Threads` that do so. Rows from `valid_rows` on become zero: 0 * NaN must not leak from a packed neighbour.
template <class T, int Rows, int Columns, int VectorBytes, int Threads, bool Async, class Tile>
GLA_DEVICE void copy_rows(const Tile& tile, const T* global, long long row_stride, int valid_rows,
                          int columns, int thread) {
  constexpr int kElements = VectorBytes / static_cast<int>(sizeof(T));
  constexpr int kVectors = (Columns + kElements - 1) / kElements;
  const auto copy = [&](int row, int column, const T* source) {
    unsigned char* target = tile.at(row, column);
    if constexpr (Async) {
      copy_async<VectorBytes>(target, source, row < valid_rows);
    } else {
      Packet<VectorBytes> data{};
      if (row < valid_rows) data = *reinterpret_cast<const Packet<VectorBytes>*>(source);
      *reinterpret_cast<Packet<VectorBytes>*>(target) = data;
    }
  };
  if constexpr (Threads % kVectors == 0) {  // a thread stays in its column
    constexpr int kRowStep = Threads / kVectors;
    const int first = thread / kVectors;
    const int column = thread % kVectors * kElements;
    if (column >= columns) return;
    const T* source = global + first * row_stride + column;
    const long long step = kRowStep * row_stride;
    GLA_UNROLL_BY(4)
    for (int n = 0; n < (Rows + kRowStep - 1) / kRowStep; ++n, source += step) {
      if (Rows % kRowStep == 0 || first + n * kRowStep < Rows) copy(first + n * kRowStep, column, source);
    }
  } else {
    for (int i = thread; i < Rows * kVectors; i += Threads) {
      const int row = i / kVectors;
      const int column = i % kVectors * kElements;
      if (column < columns) copy(row, column, global + row * row_stride + column);
    }
  }
}

/// The way back, of the first `valid_rows` rows and `columns` columns.
template <class T, int Rows, int Columns, int VectorBytes, int Threads, class Tile>
GLA_DEVICE void store_rows(T* global, long long row_stride, const Tile& tile, int valid_rows, int columns,
                           int thread) {
  constexpr int kElements = VectorBytes / static_cast<int>(sizeof(T));
  constexpr int kVectors = (Columns + kElements - 1) / kElements;
  const auto store = [&](int row, int column, T* target) {
    if (row < valid_rows)
      store_packet<VectorBytes>(target, *reinterpret_cast<const Packet<VectorBytes>*>(tile.at(row, column)));
  };
  if constexpr (Threads % kVectors == 0) {  // a thread stays in its column
    constexpr int kRowStep = Threads / kVectors;
    const int first = thread / kVectors;
    const int column = thread % kVectors * kElements;
    if (column >= columns) return;
    T* target = global + first * row_stride + column;
    const long long step = kRowStep * row_stride;
    GLA_UNROLL
    for (int n = 0; n < (Rows + kRowStep - 1) / kRowStep; ++n, target += step) {
      if (Rows % kRowStep == 0 || first + n * kRowStep < Rows) store(first + n * kRowStep, column, target);
    }
  } else {
    for (int i = thread; i < Rows * kVectors; i += Threads) {
      const int row = i / kVectors, column = i % kVectors * kElements;
      if (column < columns) store(row, column, global + row * row_stride + column);
    }
  }
}

/// Zeroes `bytes` (a multiple of 16) of shared memory.
template <int Threads>
GLA_DEVICE void zero_shared(unsigned char* shared, int bytes) {
  for (int i = 16 * thread_index(); i < bytes; i += 16 * Threads)
    *reinterpret_cast<Packet<16>*>(shared + i) = {};
}

}  // namespace gla
