// The lower triangle of a product of two tiles' rows, by all warps of a team.
#pragma once

#include "device/mma.cuh"
#include "device/tile.cuh"

namespace gla {

/// tril(A B^T) of `Tokens` rows of `Columns` columns each, as bf16 parts; 16 x 16 blocks are dealt to the warps. a, b and to
/// give the tile of a part. A barrier must follow.
template <int Tokens, int Columns, int Parts, int ProductParts, int PartsOut, class Team, class TileA,
          class TileB, class TileOut>
GLA_DEVICE void lower_triangle(TileA tile_a, TileB tile_b, TileOut to) {
  constexpr int kBlocks = Tokens / 16;
  const int lane = lane_index();
  for (int block = Team::warp(); block < kBlocks * (kBlocks + 1) / 2; block += Team::kWarps) {
    int bi = 0;
    while ((bi + 1) * (bi + 2) / 2 <= block) ++bi;
    const int bj = block - bi * (bi + 1) / 2;
    float sums[2][4] = {};
    GLA_UNROLL_BY(2)
    for (int k = 0; k < Columns; k += 16) {
      Bits32 a[Parts][4], b[Parts][4];
      GLA_UNROLL
      for (int part = 0; part < Parts; ++part) {
        load_a(a[part], tile_a(part), 16 * bi, k);
        load_b(b[part], tile_b(part), k, 16 * bj);
      }
      multiply_parts<ProductParts>(sums[0], sums[1], a, b);
    }
    Bits32 words[PartsOut][4];
    GLA_UNROLL
    for (int pair = 0; pair < 4; ++pair) {
      const int i = 16 * bi + lane / 4 + pair % 2 * 8;
      const int j = 16 * bj + pair / 2 * 8 + lane % 4 * 2;
      const float(&two)[4] = sums[pair / 2];
      Bits32 parts[PartsOut];
      split_bf16(j <= i ? two[pair % 2 * 2] : 0.0f, j + 1 <= i ? two[pair % 2 * 2 + 1] : 0.0f, parts);
      GLA_UNROLL
      for (int part = 0; part < PartsOut; ++part) words[part][pair] = parts[part];
    }
    GLA_UNROLL
    for (int part = 0; part < PartsOut; ++part) store_a(words[part], to(part), 16 * bi, 16 * bj);
  }
}

}  // namespace gla
