// The products of chunk_backward's walks over key channels by mma.sync: a warp's 16 rows of the state, and of the operands
// that it has in registers, times tiles that all read.
#pragma once

#include "device/tile.cuh"
#include "key_work.cuh"

namespace gla {

template <class Config, bool kForward, Pass kPass>
struct KeyProducts : KeyWork<Config, kForward, kPass> {
  using Work = KeyWork<Config, kForward, kPass>;
  using typename Work::Element;
  using Work::kChunk, Work::kColumns, Work::kHeads, Work::kK, Work::kOutputs, Work::kPaddedV, Work::kShape,
      Work::state;
  using Work::Work;
  static constexpr int kParts = kShape.operand_parts(), kPartsV = kShape.v_parts();
  using Sums = float[kChunk / 8][4];             ///< of 16 key channels and a chunk, as an MMA leaves them
  using Words = Bits32[kChunk / 16][kParts][4];  ///< an operand of the same

  /// sums += rows of the state times those of a tile of value channels: S dO^T or dU V^T, of the warp's columns.
  template <class TileOf>
  GLA_DEVICE void add_state_product(Sums& sums, TileOf tile_of) const {
    GLA_UNROLL
    for (int j = 0; j < kColumns / 16; ++j) {
      Bits32 a[kShape.state_parts][4];
      state.operand(a, j);
      GLA_UNROLL
      for (int t = 0; t < kChunk; t += 16) {
        Bits32 b[kPartsV][4];
        GLA_UNROLL
        for (int part = 0; part < kPartsV; ++part)
          load_b(b[part], tile_of(part), this->first_column() + 16 * j, t);
        multiply_parts<kShape.state_parts>(sums[t / 8], sums[t / 8 + 1], a, b);
      }
    }
  }

  /// state += operand times the rows of a tile of value channels: k^T V or q^T dO, of the warp's columns.
  template <class TileOf>
  GLA_DEVICE void add_to_state(const Words& words, TileOf tile_of) {
    GLA_UNROLL
    for (int j = 0; j < kColumns / 16; ++j) {
      GLA_UNROLL
      for (int t = 0; t < kChunk; t += 16) {
        Bits32 b[kPartsV][4];
        GLA_UNROLL
        for (int part = 0; part < kPartsV; ++part)
          load_b_transposed(b[part], tile_of(part), t, this->first_column() + 16 * j);
        multiply_parts<kShape.state_parts>(state.tiles[2 * j], state.tiles[2 * j + 1], words[t / 16], b);
      }
    }
  }

  /// The scores with which blocks of 16 tokens add to each other, from one to another, as B operands.
  template <class TileOf>
  GLA_DEVICE static void load_scores(Bits32 (&b)[kShape.score_parts][4], TileOf scores, int from, int to) {
    GLA_UNROLL
    for (int part = 0; part < kShape.score_parts; ++part) {
      if constexpr (kForward) {
        load_b(b[part], scores(part), 16 * from, 16 * to);
      } else {
        load_b_transposed(b[part], scores(part), 16 * from, 16 * to);
      }
    }
  }

  /// Writes an octet pair of tokens, of 16 bits, in the place of a raw tile's.
  GLA_DEVICE static void stage_words(const Bits32 (&words)[4], const OperandTile& to, int row0) {
    store_a_transposed(words, to, Work::first_channel(), row0);
  }
  /// Where there are no channels no load writes, and what must stay zero in a tile may be NaN in what is staged there.
  GLA_DEVICE void clear_padding(float (&x)[2][2][2]) const {
    if constexpr (kK % 16 != 0) {
      GLA_UNROLL
      for (int i = 0; i < 8; ++i)
        if (lane_channel(i / 2 % 2) >= Work::valid_rows()) x[i / 4][i / 2 % 2][i % 2] = 0;
    }
  }
  /// Element i of an octet pair of tokens that a lane has, which begin at a multiple of 8: then all that rows differ by within a
  /// panel, 8 apart, is a constant, and no register has to hold another address.
  template <class T>
  GLA_DEVICE static T* element(const RawTile<T>& tile, int row0, int i) {
    expect(row0 % 8 == 0 && row0 + 16 <= tile.rows);
    unsigned char* const first =
        tile.at(TokenMap<16>::token(0, i % 2), Work::first_channel() + lane_channel(i / 2 % 2));
    return reinterpret_cast<T*>(first + (row0 + i / 4 * 8) * tile.row_bytes);
  }
  /// Writes what a lane has of an octet pair of tokens in the place of a raw tile's.
  template <class T>
  GLA_DEVICE void stage_octets(float (&x)[2][2][2], const RawTile<T>& to, int row0) const {
    clear_padding(x);
    if constexpr (sizeof(T) == 2) {
      Bits32 words[4];
      GLA_UNROLL
      for (int word = 0; word < 4; ++word)
        words[word] = pack<T>(x[word / 2][word % 2][0], x[word / 2][word % 2][1]);
      stage_words(words, to.operand(), row0);
    } else {
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) *element(to, row0, i) = from_float<T>(x[i / 4][i / 2 % 2][i % 2]);
    }
  }
};

}  // namespace gla
