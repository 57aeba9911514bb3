// Tiles in shared memory as MMA operands. A tile is rows of 16-bit elements, `row_bytes` apart; each function names the
// matrix that a warp receives and how the tile stores it.
#pragma once

#include "expect.cuh"
#include "mma.cuh"
#include "thread.cuh"

namespace gla {

/// A [rows, columns] tile of 16-bit elements.
struct OperandTile {
  const unsigned char* base;
  int row_bytes;
  int rows, columns;

  /// Address of eight elements of a row, as ldmatrix reads them.
  GLA_DEVICE const unsigned char* at(int row, int column) const {
    expect(row >= 0 && row < rows && column >= 0 && column + 8 <= columns);
    return base + row * row_bytes + 2 * column;
  }
};

/// A operand (16 x 16) from a tile that stores it [m][k].
GLA_DEVICE void load_a(Bits32 (&a)[4], const OperandTile& tile, int m, int k) {
  const int lane = lane_index();
  load_matrices(a, tile.at(m + lane % 16, k + lane / 16 * 8));
}

/// A operand (16 x 16) from a tile that stores its transpose [k][m].
GLA_DEVICE void load_a_transposed(Bits32 (&a)[4], const OperandTile& tile, int m, int k) {
  const int lane = lane_index();
  load_matrices_transposed(a, tile.at(k + lane % 8 + lane / 16 * 8, m + lane / 8 % 2 * 8));
}

/// Two neighbouring B operands (16 x 8 each): b[0], b[1] for columns n..n+7 and b[2], b[3] for n+8..n+15, from a tile
/// that stores [n][k].
GLA_DEVICE void load_b(Bits32 (&b)[4], const OperandTile& tile, int k, int n) {
  const int lane = lane_index();
  load_matrices(b, tile.at(n + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
}

/// The same from a tile that stores [k][n].
GLA_DEVICE void load_b_transposed(Bits32 (&b)[4], const OperandTile& tile, int k, int n) {
  const int lane = lane_index();
  load_matrices_transposed(b, tile.at(k + lane % 16, n + lane / 16 * 8));
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
