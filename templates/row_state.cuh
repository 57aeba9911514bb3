// Part of a state in MMA accumulators: 16 of its rows, some of its columns, by one warp.
#pragma once

#include "device/mma.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "sequence.cuh"

namespace gla {

/// Rows are key channels. A lane has rows lane / 4 and lane / 4 + 8 (mma.cuh).
template <int kColumns>
struct RowState {
  static_assert(kColumns % 16 == 0);
  float tiles[kColumns / 8][4];

  /// `first`: of the warp's rows and columns in memory; zero without, and where there are no channels.
  GLA_DEVICE void load(const float* first, StateStrides strides, int valid_rows, int valid_columns) {
    GLA_UNROLL
    for (int n = 0; n < kColumns / 2; ++n) tiles[n / 4][n % 4] = 0;
    if (first != nullptr)
      each(first, strides, valid_rows, valid_columns, [](float& value, float other) { value = other; });
  }

  GLA_DEVICE void store(float* first, StateStrides strides, int valid_rows, int valid_columns) {
    each(first, strides, valid_rows, valid_columns, [](float value, float& other) { other = value; });
  }

  /// Adds to a lane's two sums over its columns, of the products with another state's elements.
  GLA_DEVICE void add_products(float (&sums)[2], const float* first, StateStrides strides, int valid_rows,
                               int valid_columns) {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      float& sum = sums[c];
      each_of_row(c, first, strides, valid_rows, valid_columns,
                  [&sum](float& value, float other) { sum += value * other; });
    }
  }

  GLA_DEVICE void scale(const float (&factors)[2]) {
    GLA_UNROLL
    for (int n = 0; n < kColumns / 2; ++n) tiles[n / 4][n % 4] *= factors[n % 4 / 2];
  }

  /// Columns 16 j on as an A operand, in bf16 parts.
  template <int Parts>
  GLA_DEVICE void operand(Bits32 (&a)[Parts][4], int j) const {
    GLA_UNROLL
    for (int quarter = 0; quarter < 4; ++quarter) {
      const float(&pair)[4] = tiles[2 * j + quarter / 2];
      Bits32 parts[Parts];
      split_bf16(pair[quarter % 2 * 2], pair[quarter % 2 * 2 + 1], parts);
      GLA_UNROLL
      for (int part = 0; part < Parts; ++part) a[part][quarter] = parts[part];
    }
  }

 private:
  template <class T, class Use>
  GLA_DEVICE void each(T* first, StateStrides strides, int valid_rows, int valid_columns, Use use) {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) each_of_row(c, first, strides, valid_rows, valid_columns, use);
  }
  template <class T, class Use>
  GLA_DEVICE void each_of_row(int c, T* first, StateStrides strides, int valid_rows, int valid_columns,
                              Use use) {
    const int row = lane_index() / 4 + 8 * c, column = lane_index() % 4 * 2;
    if (row >= valid_rows) return;
    GLA_UNROLL
    for (int n = 0; n < kColumns / 4; ++n) {
      const int at = column + n / 2 * 8 + n % 2;
      if (at < valid_columns) use(tiles[n / 2][2 * c + n % 2], first[row * strides.k + at * strides.v]);
    }
  }
};

}  // namespace gla
