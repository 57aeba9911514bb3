// Tiles in shared memory as MMA operands. A tile is rows of 16-bit elements, `row_bytes` apart; each function names the
// matrix that a warp receives and how the tile stores it.
#pragma once

#include "expect.cuh"
#include "mma.cuh"
#include "numeric.cuh"
#include "thread.cuh"
#include "warpgroup.cuh"

namespace gla {

inline constexpr int kPanelColumns = kPanelRowBytes / 2;

/// Address of byte `byte` of a row whose panels follow each other.
GLA_DEVICE unsigned char* in_panels(unsigned char* base, int panel_bytes, int row, int byte) {
  // Without a sign: the compiler does not know that there is none, and quotients of signed numbers are more instructions.
  const unsigned int unsigned_byte = static_cast<unsigned int>(byte);
  return base + static_cast<int>(unsigned_byte / kPanelRowBytes) * panel_bytes +
         swizzled(row, static_cast<int>(unsigned_byte % kPanelRowBytes));
}

/// A [rows, columns] tile of 16-bit elements: rows `row_bytes` apart, or, with `panel_bytes`, panels of 64 columns in the
/// layout of warpgroup.cuh.
struct OperandTile {
  unsigned char* base;
  int rows, columns;
  int row_bytes;
  int panel_bytes = 0;

  /// Address of an element. In a panel only eight elements that start at a multiple of eight are neighbours.
  GLA_DEVICE unsigned char* at(int row, int column) const {
    expect(row >= 0 && row < rows && column >= 0 && column < columns);
    if (panel_bytes == 0) return base + row * row_bytes + 2 * column;
    return in_panels(base, panel_bytes, row, 2 * column);
  }
};

/// A [rows, columns] tile as it was loaded: rows `row_bytes` apart, or panels of 128 bytes a row.
template <class T>
struct RawTile {
  unsigned char* base;
  int row_bytes;
  int rows, columns;
  int panel_bytes = 0;

  /// Address of an element. In a panel only the elements of 16 aligned bytes are neighbours.
  GLA_DEVICE unsigned char* at(int row, int column) const {
    expect(row >= 0 && row < rows && column >= 0 && column < columns);
    const int byte = column * static_cast<int>(sizeof(T));
    if (panel_bytes == 0) return base + row * row_bytes + byte;
    return in_panels(base, panel_bytes, row, byte);
  }
  GLA_DEVICE OperandTile operand() const {
    static_assert(sizeof(T) == 2);
    return {base, rows, columns, row_bytes, panel_bytes};
  }
};

/// A operand (16 x 16) from a tile that stores it [m][k]. (`lane`: where the compiler is not to know it.)
GLA_DEVICE void load_a(Bits32 (&a)[4], const OperandTile& tile, int m, int k, int lane = lane_index()) {
  load_matrices(a, tile.at(m + lane % 16, k + lane / 16 * 8));
}

/// A operand (16 x 16) from a tile that stores its transpose [k][m].
GLA_DEVICE void load_a_transposed(Bits32 (&a)[4], const OperandTile& tile, int m, int k) {
  const int lane = lane_index();
  load_matrices_transposed(a, tile.at(k + lane % 8 + lane / 16 * 8, m + lane / 8 % 2 * 8));
}

/// A operand from a tile that stores its transpose, of any 16 rows: this lane's is the k that it gives an address for,
/// lane % 8 of the first eight in lanes 0 to 15, of the last eight in the others.
GLA_DEVICE void load_rows_transposed(Bits32 (&a)[4], const OperandTile& tile, int row, int m) {
  load_matrices_transposed(a, tile.at(row, m + lane_index() / 8 % 2 * 8));
}

/// The way back (sm_90 and later).
GLA_DEVICE void store_rows_transposed(const Bits32 (&a)[4], const OperandTile& tile, int row, int m) {
  store_matrices_transposed(tile.at(row, m + lane_index() / 8 % 2 * 8), a);
}

/// Two neighbouring B operands (16 x 8 each): b[0], b[1] for columns n..n+7 and b[2], b[3] for n+8..n+15, from a tile
/// that stores [n][k].
GLA_DEVICE void load_b(Bits32 (&b)[4], const OperandTile& tile, int k, int n, int lane = lane_index()) {
  load_matrices(b, tile.at(n + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
}

/// The same from a tile that stores [k][n].
GLA_DEVICE void load_b_transposed(Bits32 (&b)[4], const OperandTile& tile, int k, int n) {
  const int lane = lane_index();
  load_matrices_transposed(b, tile.at(k + lane % 16, n + lane / 16 * 8));
}

/// Writes an A operand (16 x 16) to a tile that stores it [m][k].
GLA_DEVICE void store_a(const Bits32 (&a)[4], const OperandTile& tile, int m, int k,
                        int lane = lane_index()) {
  if constexpr (kStoresMatrices) {
    store_matrices(tile.at(m + lane % 16, k + lane / 16 * 8), a);
  } else {
    GLA_UNROLL
    for (int quarter = 0; quarter < 4; ++quarter) {
      unsigned char* row = tile.at(m + lane / 4 + quarter % 2 * 8, k + quarter / 2 * 8);
      reinterpret_cast<Bits32*>(row)[lane % 4] = a[quarter];
    }
  }
}

/// Writes an A operand (16 x 16) to a tile that stores its transpose [k][m].
GLA_DEVICE void store_a_transposed(const Bits32 (&a)[4], const OperandTile& tile, int m, int k) {
  const int lane = lane_index();
  if constexpr (kStoresMatrices) {
    store_matrices_transposed(tile.at(k + lane % 8 + lane / 16 * 8, m + lane / 8 % 2 * 8), a);
  } else {
    GLA_UNROLL
    for (int half = 0; half < 8; ++half) {
      const int quarter = half / 2;
      unsigned char* row = tile.at(k + quarter / 2 * 8 + lane % 4 * 2 + half % 2, m + quarter % 2 * 8);
      reinterpret_cast<Bits16*>(row)[lane / 4] = static_cast<Bits16>(a[quarter] >> 16 * (half % 2));
    }
  }
}

/// Two neighbouring elements as floats.
template <class T>
GLA_DEVICE Vector<float, 2> load_pair(const RawTile<T>& tile, int row, int column) {
  const auto pair = *reinterpret_cast<const Vector<T, 2>*>(tile.at(row, column));
  return {to_float(pair.item[0]), to_float(pair.item[1])};
}

/// A matrix written as a sum of bf16 parts: d[0..1] += sum over parts p + q < Parts of a[p] * b[q], two column blocks.
/// Parts = 1 is the plain bf16 product, 2 drops terms of 2^-16, 3 of 2^-24.
template <int Parts, int PartsA, int PartsB>
GLA_DEVICE void multiply_parts(float (&d0)[4], float (&d1)[4], const Bits32 (&a)[PartsA][4],
                               const Bits32 (&b)[PartsB][4]) {
  GLA_UNROLL
  for (int p = 0; p < PartsA; ++p) {
    GLA_UNROLL
    for (int q = 0; q < PartsB; ++q) {
      if (p + q >= Parts) continue;
      multiply_accumulate(d0, a[p], b[q][0], b[q][1]);
      multiply_accumulate(d1, a[p], b[q][2], b[q][3]);
    }
  }
}

}  // namespace gla
