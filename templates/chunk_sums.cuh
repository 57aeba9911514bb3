// Sums of gates over the tokens of a chunk, by one warp for 16 channels. Values lie as MMA accumulators do (mma.cuh):
// x[i][j][e] of a lane is token 16 i + lane / 4 + e / 2 * 8 and channel 8 j + lane % 4 * 2 + e % 2.
// bf16 gates are summed by the tensor cores, times triangles of ones: the products are exact, the sums fp32. Other gates
// are summed in fp32 across the lanes that hold a channel.
#pragma once

#include "device/mma.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "device/tile.cuh"

namespace gla {

/// A gate below this many nats is an exact reset: one step of 127 log2 units.
inline constexpr float kMinGate = -88.0f;

/// Of the inclusive sums of a lane's four channels, in nats: the last one, and their extremes.
struct SumRange {
  float last[2][2], least[2][2], most[2][2];
};

/// Calls visit(j, c) for the lane's channels 8 j + lane % 4 * 2 + c.
template <class Visit>
GLA_DEVICE void each_channel(Visit visit) {
  GLA_UNROLL
  for (int j = 0; j < 2; ++j) {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) visit(j, c);
  }
}

/// Takes the sums of 16 tokens into the lane's extremes; share_extremes() then joins those of the lanes.
GLA_DEVICE void widen(SumRange& range, const float (&sums)[2][4]) {
  each_channel([&](int j, int c) {
    range.least[j][c] = fminf(range.least[j][c], fminf(sums[j][c], sums[j][c + 2]));
    range.most[j][c] = fmaxf(range.most[j][c], fmaxf(sums[j][c], sums[j][c + 2]));
  });
}

GLA_DEVICE void share_extremes(SumRange& range) {
  each_channel([&](int j, int c) {
    GLA_UNROLL
    for (int mask = 4; mask < kWarpSize; mask *= 2) {
      range.least[j][c] = fminf(range.least[j][c], shuffle_xor(range.least[j][c], mask));
      range.most[j][c] = fmaxf(range.most[j][c], shuffle_xor(range.most[j][c], mask));
    }
  });
}

/// Inclusive sums, 16 tokens after 16 tokens; NaN where a gate before or there is NaN, and for bf16 gates, whose products
/// with zeros are NaN then, in all 16 tokens of it.
template <class Gate>
class GateSums;

// ---- bf16: products with ones --------------------------------------------------------------------------------------

inline constexpr Bits32 kOnes = 0x3f803f80u;  // two bf16 ones

/// The lane's part of A operands (16 x 16) of zeros and ones.
struct OnesOperands {
  Bits32 through[4], after[4], first[4], all[4];  ///< column <= row; column > row; column 0; every column

  GLA_DEVICE OnesOperands() {
    const int row = lane_index() / 4, column = lane_index() % 4 * 2;
    const Bits32 diagonal =
        (column <= row ? kOnes & 0xffffu : 0) | (column + 1 <= row ? kOnes & 0xffff0000u : 0);
    const Bits32 left = column == 0 ? kOnes & 0xffffu : 0;
    GLA_UNROLL
    for (int quarter = 0; quarter < 4; ++quarter) {  // (row, column), (row + 8, ..), (.., column + 8), both
      const bool diagonal_quarter = quarter == 0 || quarter == 3;
      through[quarter] = diagonal_quarter ? diagonal : quarter == 1 ? kOnes : 0;
      after[quarter] = kOnes - through[quarter];
      first[quarter] = quarter < 2 ? left : 0;
      all[quarter] = kOnes;
    }
  }
};

/// Clamped gates of 16 tokens and 16 channels as two B operands.
GLA_DEVICE void load_gates(Bits32 (&gates)[4], const RawTile<bf16>& tile, int row, int channel) {
  load_b_transposed(gates, tile.operand(), row, channel);
  const Bits32 least = pack_bf16(kMinGate, kMinGate);
  GLA_UNROLL
  for (int r = 0; r < 4; ++r) gates[r] = max_bf16(gates[r], least);
}

template <>
class GateSums<bf16> {
 public:
  GLA_DEVICE void next(float (&sums)[2][4], const RawTile<bf16>& tile, int row, int channel) {
    add(tile, row, channel, [&](int j, const Bits32(&gates)[4]) {
      GLA_UNROLL
      for (int e = 0; e < 4; ++e) sums[j][e] = total[j][e];
      multiply_accumulate(sums[j], ones.through, gates[2 * j], gates[2 * j + 1]);
    });
  }
  /// The same without the sums on the way.
  GLA_DEVICE void pass(const RawTile<bf16>& tile, int row, int channel) {
    add(tile, row, channel, [](int, const Bits32(&)[4]) {});
  }

  /// Of all tokens so far; the extremes only where falls().
  GLA_DEVICE void range(SumRange& range) const {
    each_channel([&](int j, int c) {
      range.last[j][c] = range.least[j][c] = total[j][c];
      range.most[j][c] = first[j][c];
    });
  }
  /// Whether no gate of the warp's channels was above 0: then the sums fall from the first to the last.
  GLA_DEVICE bool falls() const { return !warp_any(low_of(most) > 0.0f || high_of(most) > 0.0f); }

 private:
  template <class Visit>
  GLA_DEVICE void add(const RawTile<bf16>& tile, int row, int channel, Visit visit) {
    Bits32 gates[4];
    load_gates(gates, tile, row, channel);
    GLA_UNROLL
    for (int j = 0; j < 2; ++j) {
      visit(j, gates);
      if (!started) multiply_accumulate(first[j], ones.first, gates[2 * j], gates[2 * j + 1]);
      multiply_accumulate(total[j], ones.all, gates[2 * j], gates[2 * j + 1]);
    }
    GLA_UNROLL
    for (int r = 0; r < 4; ++r) most = max_bf16(most, gates[r]);
    started = true;
  }

  OnesOperands ones;
  float total[2][4] = {}, first[2][4] = {};
  Bits32 most = 0;
  bool started = false;
};

/// Sums of the gates of the 16 rows behind each row.
GLA_DEVICE void sum_gates_after(float (&sums)[2][4], const RawTile<bf16>& tile, int row0, int channel) {
  const OnesOperands ones;
  Bits32 gates[4];
  load_gates(gates, tile, row0, channel);
  GLA_UNROLL
  for (int j = 0; j < 2; ++j) {
    GLA_UNROLL
    for (int e = 0; e < 4; ++e) sums[j][e] = 0;
    multiply_accumulate(sums[j], ones.after, gates[2 * j], gates[2 * j + 1]);
  }
}

// ---- fp16, fp32: sums across lanes -----------------------------------------------------------------------------------

/// Clamped gates of 16 tokens and 16 channels; NaN stays NaN.
template <class Gate>
GLA_DEVICE void load_gates(float (&gates)[2][4], const RawTile<Gate>& tile, int row, int channel) {
  load_block(gates, tile, row, channel);
  GLA_UNROLL
  for (int e = 0; e < 8; ++e) {
    float& gate = gates[e / 4][e % 4];
    gate = gate < kMinGate ? kMinGate : gate;
  }
}

/// Sums over eight rows, one per group of four lanes: `value` becomes the sum of the rows up to the lane's own, or behind
/// it; returns the sum of all.
template <bool Behind>
GLA_DEVICE float sum_rows(float& value) {
  float total = value;
  if (Behind) value = 0;
  GLA_UNROLL
  for (int mask = 4; mask < kWarpSize; mask *= 2) {
    const float other = shuffle_xor(total, mask);
    const bool other_is_behind = (lane_index() & mask) == 0;
    if (other_is_behind == Behind) value += other;
    total += other;
  }
  return total;
}

template <class Gate>
class GateSums {
 public:
  GLA_DEVICE void next(float (&sums)[2][4], const RawTile<Gate>& tile, int row, int channel) {
    load_gates(sums, tile, row, channel);
    GLA_UNROLL
    for (int half = 0; half < 2; ++half) {
      each_channel([&](int j, int c) {
        float& sum = sums[j][2 * half + c];
        const float all = sum_rows<false>(sum);
        sum += total[j][c];
        total[j][c] += all;
      });
    }
  }
  GLA_DEVICE void pass(const RawTile<Gate>& tile, int row, int channel) {
    float sums[2][4];
    next(sums, tile, row, channel);
  }
  GLA_DEVICE void range(SumRange& range) const {
    each_channel(
        [&](int j, int c) { range.last[j][c] = range.least[j][c] = range.most[j][c] = total[j][c]; });
  }
  GLA_DEVICE bool falls() const { return false; }

 private:
  float total[2][2] = {};
};

template <class Gate>
GLA_DEVICE void sum_gates_after(float (&sums)[2][4], const RawTile<Gate>& tile, int row0, int channel) {
  load_gates(sums, tile, row0, channel);
  each_channel([&](int j, int c) {
    sum_rows<true>(sums[j][c]);
    sums[j][c] += sum_rows<true>(sums[j][c + 2]);
  });
}

// ---- of a chunk ------------------------------------------------------------------------------------------------------

/// Sums of the gates of rows [row0, row0 + 16 Blocks).
template <int Blocks, class Gate>
GLA_DEVICE void sum_gates(float (&sums)[Blocks][2][4], SumRange& range, const RawTile<Gate>& tile, int row0,
                          int channel) {
  GateSums<Gate> running;
  GLA_UNROLL
  for (int i = 0; i < Blocks; ++i) running.next(sums[i], tile, row0 + 16 * i, channel);
  running.range(range);
  if (running.falls()) return;
  GLA_UNROLL
  for (int i = 0; i < Blocks; ++i) widen(range, sums[i]);
  share_extremes(range);
}

/// Their range alone.
template <int Blocks, class Gate>
GLA_DEVICE void find_range(SumRange& range, const RawTile<Gate>& tile, int row0, int channel) {
  GateSums<Gate> running;
  GLA_UNROLL
  for (int i = 0; i < Blocks; ++i) running.pass(tile, row0 + 16 * i, channel);
  running.range(range);
  if (running.falls()) return;
  GateSums<Gate> again;
  for (int i = 0; i < Blocks; ++i) {
    float sums[2][4];
    again.next(sums, tile, row0 + 16 * i, channel);
    widen(range, sums);
  }
  share_extremes(range);
}

}  // namespace gla
