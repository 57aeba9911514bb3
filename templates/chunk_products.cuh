// A chunk's products by warps (mma.sync), and the way of its outputs to memory. S^T stays in
// accumulators, which rounded to bf16 are the A operand of O^T = S'^T q^T.
#pragma once

#include "chunk_gates.cuh"
#include "chunk_layout.h"
#include "chunk_state.cuh"
#include "chunk_work.cuh"
#include "device/copy.cuh"
#include "device/tile.cuh"
#include "sequence.cuh"
#include "steep_chunk.cuh"
#include "triangle.cuh"

namespace gla {

/// `Team`: the warps that hold the state.
template <class Config, Pass kPass, class Tiles, class Team>
struct ChunkProducts {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  /// The walk is that of the gradients of v, backwards in time (chunk_forward.cuh).
  static constexpr bool kValueGradients = kShape.value_gradients;
  static constexpr int kChunk = kShape.chunk, kTileV = kShape.tile_v, kPaddedK = kShape.padded_k();
  using State = ChunkState<kShape>;
  static constexpr int kBlocksV = State::kBlocksV, kBlocksK = State::kBlocksK, kWarpK = State::kWarpK;
  static constexpr int kScoreParts = kShape.score_parts;
  static constexpr int kStateParts = kShape.state_parts;
  static constexpr int kParts = kShape.operand_parts();
  static constexpr int kPartsV = kShape.v_parts();
  static constexpr int kScoresOut = kShape.score_operand_parts();
  /// Parts of both sides of the product with the state, and of what it takes up: the scores decide the error of dv.
  static constexpr int kOwnParts = kValueGradients && kShape.element_is_bf16 ? 1 : kStateParts;
  using Element = typename Config::Element;
  using Work = ChunkWork<Config, kPass>;
  using Gates = ChunkGates<Config, Tiles, Team>;

  const Work& work;
  Tiles tiles;
  State& state;

  GLA_DEVICE Gates gates() const { return {tiles, work.args.scale}; }

  /// Whether all threads of the team say so; a barrier.
  GLA_DEVICE static bool agree([[maybe_unused]] bool value) {
    if constexpr (kGated) return Team::agree(value);
    Team::sync();  // ungated chunks always agree, and the paths of others are no code
    return true;
  }

  /// The operands of the chunk, whole behind its barrier; or false if it may not have one pivot.
  template <bool WithOutputs>
  GLA_DEVICE bool make_operands() {
    const bool within = gates().template make_operands<WithOutputs>();
    if constexpr (!kShape.element_is_bf16) split_v();
    return agree(within);
  }

  /// O^T of the chunk.
  using Sums = float[kBlocksV][kChunk / 8][4];

  /// Output, if any, and state, from `token` of the walk on; `steep`: without operands so far, which may not have one pivot. That is no
  /// template parameter, lest the rare path be compiled twice. use(sums, query head) is where the outputs go.
  template <bool WithOutputs, class UseSums>
  GLA_DEVICE void multiply(Index token, bool steep, UseSums use) {
    if (kGated && !steep) state.scale(tiles.before());
    // The last chunk, which is most of what the walk leaves behind, takes every part of k^ that the scores have made, and so
    // does a steep one, of whose state the last few tokens are most.
    const int k_parts = steep || token + kChunk >= work.tokens ? kParts : kStateParts;
    if constexpr (WithOutputs) {
      for (int query_head = 0; query_head < kShape.group_tile; ++query_head) {
        Sums sums = {};
        make_scores(query_head, steep);
        // What needs no scores stands before the barrier that they need.
        add_state_product(sums, query_head);
        if (query_head == kShape.group_tile - 1) update_state(k_parts, steep);
        Team::sync();
        add_score_product(sums);
        use(sums, query_head);
      }
    } else {
      update_state(k_parts, steep);
    }
    if (kGated && !steep) state.scale(tiles.after());
  }

  /// The same for the gradients of v, of one query head, which may be the first or the last of its group: with
  /// dS' = q^T dO + dU, dU = after (.) dS, dS of the chunk before = before (.) dS',  dV += tril(q^ k^T)^T dO + k^ dU.
  GLA_DEVICE void add_value_gradients(Sums& sums, bool steep, bool first, bool last) {
    if (kGated && !steep && first) state.scale(tiles.after());
    make_scores(0, steep);
    if (first) {
      GLA_UNROLL
      for (int i = 0; i < kBlocksV * kChunk / 2; ++i) sums[i / (kChunk / 2)][i % (kChunk / 2) / 4][i % 4] = 0;
      add_state_product(sums, 0);
      if (kGated && steep) state.scale(tiles.before());
    }
    add_update<0, kOwnParts>();
    Team::sync();
    add_score_product(sums);
    if (kGated && !steep && last) state.scale(tiles.before());
  }

  // ---- outputs -------------------------------------------------------------------------------------------------

  static constexpr bool kStageElements = kShape.warps_k == 1 && sizeof(Element) == 2;

  /// O^T accumulators into rows of O; fp32 in one plane per warp along K.
  GLA_DEVICE void stage_outputs(const Sums& sums) const {
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) stage_block<kChunk>(sums[i], State::block_v(i));
  }

  /// The same of 16 value channels from v on, as rows from first_row on of those staged, of which there are `Staged`.
  template <int Tokens, int Staged = Tokens>
  GLA_DEVICE void stage_block(const float (&sums)[Tokens / 8][4], int v, int first_row = 0) const {
    const float scale = kShape.scales_outputs() ? work.args.scale : 1.0f;
    GLA_UNROLL
    for (int t = 0; t < Tokens / 16; ++t) {
      if constexpr (kStageElements) {
        Bits32 words[4];
        GLA_UNROLL
        for (int pair = 0; pair < 4; ++pair) {
          const float(&two)[4] = sums[2 * t + pair / 2];
          words[pair] = pack<Element>(scale * two[pair % 2 * 2], scale * two[pair % 2 * 2 + 1]);
        }
        store_a_transposed(words, tiles.template out<Staged>(), v, first_row + 16 * t);
      } else {
        GLA_UNROLL
        for (int e = 0; e < 8; ++e) {
          const int token = first_row + 16 * t + e / 4 * 8 + lane_index() % 4 * 2 + e % 2;
          tiles.out_row(State::warp_k(), token)[v + lane_index() / 4 + e / 2 % 2 * 8] =
              scale * sums[2 * t + e / 4][e % 4];
        }
      }
    }
  }

  /// Stages the outputs of the chunk, which begins with `token`, and stores them.
  GLA_DEVICE void put_outputs(const Sums& sums, int query_head, Index token) const {
    stage_outputs(sums);
    Team::sync();
    store_outputs<kChunk>(query_head, token);
  }

  static constexpr int kOutElements =
      row_alignment(kShape.head_dim_v, sizeof(Element)) / static_cast<int>(sizeof(Element));
  static constexpr int kOutBytes = kOutElements * static_cast<int>(sizeof(Element));
  using OutPacket = Packet<kOutBytes>;

  template <int Tokens>
  GLA_DEVICE OutPacket staged(int row, int column) const {
    if constexpr (kStageElements) {
      return *reinterpret_cast<const OutPacket*>(tiles.template out<Tokens>().at(row, column));
    } else {
      Vector<Element, kOutElements> result;
      GLA_UNROLL
      for (int e = 0; e < kOutElements; ++e) {
        float sum = 0;
        GLA_UNROLL
        for (int plane = 0; plane < kShape.warps_k; ++plane) sum += tiles.out_row(plane, row)[column + e];
        result.item[e] = from_float<Element>(sum);
      }
      return __builtin_bit_cast(OutPacket, result);
    }
  }

  /// Stores staged rows, from first_row on. Up to four packets at a time, so that their
  /// latencies overlap.
  template <int Tokens, int Staged = Tokens>
  GLA_DEVICE void store_outputs(int query_head, Index token, int first_row = 0) const {
    constexpr int kVectors = kShape.out_v() / kOutElements, kEach = Tokens * kVectors / Team::kThreads;
    constexpr int kBatch = Tokens * kVectors % Team::kThreads != 0 ? 1
                           : kEach % 4 == 0                        ? 4
                           : kEach % 2 == 0                        ? 2
                                                                   : 1;
    const Index left = work.tokens - token;
    const int rows = left < Tokens ? static_cast<int>(left) : Tokens;
    const Tensor& o_tensor = work.args.o;
    Element* o =
        row_of<Element>(o_tensor, work.sequence, work.first + token, work.first_query_head + query_head) +
        work.first_out_v();
    GLA_UNROLL_BY(1)
    for (int batch = Team::thread(); batch < Tokens * kVectors; batch += kBatch * Team::kThreads) {
      OutPacket packets[kBatch];
      GLA_UNROLL
      for (int n = 0; n < kBatch; ++n) {
        const int i = batch + n * Team::kThreads;
        packets[n] = staged<Staged>(first_row + i / kVectors, i % kVectors * kOutElements);
      }
      GLA_UNROLL
      for (int n = 0; n < kBatch; ++n) {
        const int i = batch + n * Team::kThreads;
        const int row = i / kVectors, column = i % kVectors * kOutElements;
        if (row < rows && column < work.valid_out_v())
          store_packet<kOutBytes>(o + row * o_tensor.stride_token + column, packets[n]);
      }
    }
  }

 private:
  /// v as bf16 parts, where it is not bf16 already.
  GLA_DEVICE void split_v() const {
    for (int i = Team::thread(); i < kChunk * kTileV / 2; i += Team::kThreads) {
      const int row = i / (kTileV / 2);
      const int column = i % (kTileV / 2) * 2;
      const Vector<float, 2> pair = load_pair(tiles.raw_v(), row, column);
      Bits32 parts[kPartsV];
      split_bf16(pair.item[0], pair.item[1], parts);
      GLA_UNROLL
      for (int part = 0; part < kPartsV; ++part)
        *reinterpret_cast<Bits32*>(tiles.split_v(part).at(row, column)) = parts[part];
    }
  }

  template <int Parts, class Tile>
  GLA_DEVICE static void load_v_parts(Bits32 (&a)[Parts][4], Tile tile_of, int m, int k) {
    GLA_UNROLL
    for (int part = 0; part < Parts; ++part) load_a_transposed(a[part], tile_of(part), m, k);
  }

  // ---- products ------------------------------------------------------------------------------------------------

  /// tril(q^ k^T), and of a steep chunk the operands.
  GLA_DEVICE void make_scores(int query_head, bool steep) const {
    if constexpr (kGated) {
      if (steep) return SteepChunk<Config, Tiles, Team>{tiles, query_head, work.args.scale}.make();
    }
    lower_triangle<kChunk, kPaddedK, kScoreParts, kScoreParts, kScoresOut, Team>(
        [this, query_head](int part) { return tiles.q(query_head, part); },
        [this](int part) { return tiles.k(part); }, [this](int part) { return tiles.scores(part); });
  }

  /// O^T += S'^T q^T over this warp's value and key channels; dV^T += dU^T k^T.
  GLA_DEVICE void add_state_product(Sums& sums, int query_head) const {
    GLA_UNROLL
    for (int k = 0; k < kWarpK; k += 16) {
      Bits32 a[kBlocksV][kOwnParts][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) state.operand(a[i], i, k / 8);
      GLA_UNROLL
      for (int t = 0; t < kChunk; t += 16) {
        Bits32 b[kOwnParts][4];
        GLA_UNROLL
        for (int part = 0; part < kOwnParts; ++part)
          load_b(b[part], kValueGradients ? tiles.k(part) : tiles.q(query_head, part), State::first_k() + k,
                 t);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kOwnParts>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// O^T += V^T tril(q^ k^T)^T over this warp's value channels; dV^T += dO^T tril(q^ k^T), with dO for V. Warps along K
  /// share out the tokens of V.
  GLA_DEVICE void add_score_product(Sums& sums) const {
    const auto v_of = [&](int part) { return tiles.v(part); };
    GLA_UNROLL
    for (int j = 0; j < kChunk; j += 16) {
      if (j / 16 % kShape.warps_k != State::warp_k()) continue;
      Bits32 a[kBlocksV][kPartsV][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) load_v_parts(a[i], v_of, State::block_v(i), j);
      GLA_UNROLL
      for (int t = kValueGradients ? 0 : j; t < (kValueGradients ? j + 16 : kChunk); t += 16) {
        Bits32 b[kScoresOut][4];
        GLA_UNROLL
        for (int part = 0; part < kScoresOut; ++part) {
          if constexpr (kValueGradients) {
            load_b_transposed(b[part], tiles.scores(part), j, t);
          } else {
            load_b(b[part], tiles.scores(part), j, t);
          }
        }
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kScoresOut>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// U^T += V^T k^ with the first k_parts parts of k^. A steep chunk decays the state here, between its two uses.
  GLA_DEVICE void update_state(int k_parts, bool steep) {
    if (kGated && steep) state.scale(tiles.before());
    add_update<0, kStateParts>();
    if constexpr (kStateParts < kParts) {
      static_assert(kPartsV == 1);
      if (k_parts > kStateParts) add_update<kStateParts, kParts>();
    }
  }

  /// U^T += V^T k^ for parts [First, Last) of k^; dS'^T += dO^T q^.
  template <int First, int Last>
  GLA_DEVICE void add_update() {
    constexpr int kTaken = Last - First;
    const auto v_of = [&](int part) { return tiles.v(part); };
    GLA_UNROLL_BY(1)
    for (int t = 0; t < kChunk; t += 16) {
      Bits32 a[kBlocksV][kPartsV][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) load_v_parts(a[i], v_of, State::block_v(i), t);
      GLA_UNROLL
      for (int j = 0; j < kBlocksK; j += 2) {
        Bits32 b[kTaken][4];
        GLA_UNROLL
        for (int part = 0; part < kTaken; ++part)
          load_b_transposed(b[part], kValueGradients ? tiles.q(0, First + part) : tiles.k(First + part), t,
                            State::first_k() + 8 * j);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kTaken>(state.tiles[i][j], state.tiles[i][j + 1], a[i], b);
      }
    }
  }
};

}  // namespace gla
