// A chunk's products by warps (mma.sync), whole or in sub-chunks, and the way of its outputs to memory. S^T stays in
// accumulators, which rounded to bf16 are the A operand of O^T = S'^T q^T.
#pragma once

#include "chunk_gates.cuh"
#include "chunk_layout.h"
#include "chunk_state.cuh"
#include "chunk_work.cuh"
#include "device/copy.cuh"
#include "device/tile.cuh"
#include "sequence.cuh"
#include "triangle.cuh"

namespace gla {

/// `Team`: the warps that hold the state.
template <class Config, Pass kPass, class Tiles, class Team>
struct ChunkProducts {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  /// The walk is that of the gradients of v, backwards in time (chunk_forward.cuh).
  static constexpr bool kValueGradients = kShape.value_gradients;
  static constexpr int kChunk = kShape.chunk, kTileV = kShape.tile_v, kPaddedK = kShape.padded_k();
  using State = ChunkState<kShape>;
  static constexpr int kBlocksV = State::kBlocksV, kBlocksK = State::kBlocksK, kWarpK = State::kWarpK;
  static constexpr int kScoreParts = kShape.score_parts;
  static constexpr int kStateParts = kShape.state_parts;
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

  /// The operands of `Tokens` tokens, whole behind its barrier; whether these tokens may share a pivot.
  template <int Tokens>
  GLA_DEVICE bool make_operands(int row0) {
    const bool within = gates().template make_operands<Tokens, kOutputs>(row0);
    if constexpr (!kShape.element_is_bf16) split_v<Tokens>(row0);
    return agree(within);
  }

  /// O^T of `Tokens` tokens.
  template <int Tokens>
  using Sums = float[kBlocksV][Tokens / 8][4];

  /// The operands of a sub-chunk, behind a barrier; whether it is a direct one.
  GLA_DEVICE bool make_sub_operands(int row0) {
    Team::sync();  // outputs that were staged where operands lie are read
    if constexpr (!kShape.element_is_bf16) split_v<kSubChunk>(row0);
    bool direct = false;
    while (!agree(gates().template make_sub_operands<kOutputs>(row0, direct))) direct = true;
    return direct;
  }

  /// A chunk that may not have one pivot, from `token` of the walk on. `use`: see multiply(); the third is the first row.
  template <class UseSums>
  GLA_DEVICE void walk_sub_chunks(Index token, UseSums use) {
    GLA_UNROLL_BY(1)
    for (int step = 0; step < kChunk; step += kSubChunk) {
      const int row0 = kValueGradients ? kChunk - kSubChunk - step : step;
      if (token + row0 >= work.tokens) continue;
      const bool direct = make_sub_operands(row0);
      if constexpr (kValueGradients) {
        Sums<kSubChunk> sums;
        add_value_gradients<kSubChunk>(sums, row0, direct, true, true);
        use(sums, 0, row0);
        continue;
      }
      work.count_path(direct ? 2 : 1);
      Work::add_decay(tiles.decay(), tiles.last());
      multiply<kSubChunk>(token, row0, direct,
                          [&](const Sums<kSubChunk>& sums, int query_head) { use(sums, query_head, row0); });
    }
  }

  /// Output and state of `Tokens` tokens whose operands lie ready from operand row 0 on; row0 is their first raw row.
  /// `direct` is no template parameter, lest the rare path be compiled twice. use(sums, query head) is where the outputs go.
  template <int Tokens, class UseSums>
  GLA_DEVICE void multiply(Index token, int row0, bool direct, UseSums use) {
    if (kGated && !direct) state.scale(tiles.before());
    // The last chunk, which is most of what the walk leaves behind, takes every part of k^ that the scores have made,
    // and so does a sub-chunk.
    const int k_parts =
        Tokens == kSubChunk || token + Tokens >= work.tokens ? kShape.k_parts(Tokens) : kStateParts;
    if constexpr (kOutputs) {
      for (int query_head = 0; query_head < kShape.group_tile; ++query_head) {
        Sums<Tokens> sums = {};
        if (kGated && direct) {
          gates().direct_scores(query_head, row0,
                                [this](int i, int j, float score) { store_score(i, j, score); });
        } else {
          make_scores<Tokens>(query_head);
        }
        // What needs no scores stands before the barrier that they need.
        add_state_product<Tokens>(sums, query_head);
        if (query_head == kShape.group_tile - 1) update_state<Tokens>(k_parts, row0, direct);
        Team::sync();
        add_score_product<Tokens>(sums, row0);
        use(sums, query_head);
      }
    } else {
      update_state<Tokens>(k_parts, row0, direct);
    }
    if (kGated && !direct) state.scale(tiles.after());
  }

  /// The same for the gradients of v, of one query head, which may be the first or the last of its group: with
  /// dS' = q^T dO + dU, dU = after (.) dS, dS of the chunk before = before (.) dS',  dV += tril(q^ k^T)^T dO + k^ dU.
  template <int Tokens>
  GLA_DEVICE void add_value_gradients(Sums<Tokens>& sums, int row0, bool direct, bool first, bool last) {
    if (kGated && !direct && first) state.scale(tiles.after());
    if (kGated && direct) {
      gates().direct_scores(0, row0, [this](int i, int j, float score) { store_score(i, j, score); });
    } else {
      make_scores<Tokens>(0);
    }
    if (first) {
      GLA_UNROLL
      for (int i = 0; i < kBlocksV * Tokens / 2; ++i) sums[i / (Tokens / 2)][i % (Tokens / 2) / 4][i % 4] = 0;
      add_state_product<Tokens>(sums, 0);
      if (kGated && direct) state.scale(tiles.before());
    }
    add_update<Tokens, 0, kOwnParts>(row0);
    Team::sync();
    add_score_product<Tokens>(sums, row0);
    if (kGated && !direct && last) state.scale(tiles.before());
  }

  // ---- outputs -------------------------------------------------------------------------------------------------

  static constexpr bool kStageElements = kShape.warps_k == 1 && sizeof(Element) == 2;

  /// O^T accumulators into rows of O; fp32 in one plane per warp along K.
  template <int Tokens>
  GLA_DEVICE void stage_outputs(const Sums<Tokens>& sums) const {
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) stage_block<Tokens>(sums[i], State::block_v(i));
  }

  /// The same of 16 value channels from v on, as rows from first_row on of those staged, of which there are `Staged`.
  template <int Tokens, int Staged = Tokens>
  GLA_DEVICE void stage_block(const float (&sums)[Tokens / 8][4], int v, int first_row = 0) const {
    GLA_UNROLL
    for (int t = 0; t < Tokens / 16; ++t) {
      if constexpr (kStageElements) {
        Bits32 words[4];
        GLA_UNROLL
        for (int pair = 0; pair < 4; ++pair) {
          const float(&two)[4] = sums[2 * t + pair / 2];
          words[pair] = pack<Element>(two[pair % 2 * 2], two[pair % 2 * 2 + 1]);
        }
        store_a_transposed(words, tiles.template out<Staged>(), v, first_row + 16 * t);
      } else {
        GLA_UNROLL
        for (int e = 0; e < 8; ++e) {
          const int token = first_row + 16 * t + e / 4 * 8 + lane_index() % 4 * 2 + e % 2;
          tiles.out_row(State::warp_k(), token)[v + lane_index() / 4 + e / 2 % 2 * 8] =
              sums[2 * t + e / 4][e % 4];
        }
      }
    }
  }

  /// Stages the outputs of `Tokens` tokens from `token` on, and stores them.
  template <int Tokens>
  GLA_DEVICE void put_outputs(const Sums<Tokens>& sums, int query_head, Index token) const {
    stage_outputs<Tokens>(sums);
    Team::sync();
    store_outputs<Tokens>(query_head, token);
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
  template <int Tokens>
  GLA_DEVICE void split_v(int row0) const {
    for (int i = Team::thread(); i < Tokens * kTileV / 2; i += Team::kThreads) {
      const int row = i / (kTileV / 2);
      const int column = i % (kTileV / 2) * 2;
      const Vector<float, 2> pair = load_pair(tiles.raw_v(), row0 + row, column);
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

  /// Stores one score of a direct sub-chunk as bf16 parts.
  GLA_DEVICE void store_score(int i, int j, float score) const {
    Bits32 parts[kScoresOut];
    split_bf16(score, 0.0f, parts);
    GLA_UNROLL
    for (int part = 0; part < kScoresOut; ++part) {
      const OperandTile tile = tiles.template scores<kSubChunk>(part);
      *reinterpret_cast<Bits16*>(tile.at(i, j)) = static_cast<Bits16>(parts[part]);
    }
  }

  /// tril(q^ k^T)
  template <int Tokens>
  GLA_DEVICE void make_scores(int query_head) const {
    lower_triangle<Tokens, kPaddedK, kScoreParts, kScoreParts, kScoresOut, Team>(
        [this, query_head](int part) { return tiles.template q<Tokens>(query_head, part); },
        [this](int part) { return tiles.template k<Tokens>(part); },
        [this](int part) { return tiles.template scores<Tokens>(part); });
  }

  /// O^T += S'^T q^T over this warp's value and key channels; dV^T += dU^T k^T.
  template <int Tokens>
  GLA_DEVICE void add_state_product(float (&sums)[kBlocksV][Tokens / 8][4], int query_head) const {
    GLA_UNROLL
    for (int k = 0; k < kWarpK; k += 16) {
      Bits32 a[kBlocksV][kOwnParts][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) state.operand(a[i], i, k / 8);
      GLA_UNROLL
      for (int t = 0; t < Tokens; t += 16) {
        Bits32 b[kOwnParts][4];
        GLA_UNROLL
        for (int part = 0; part < kOwnParts; ++part)
          load_b(
              b[part],
              kValueGradients ? tiles.template k<Tokens>(part) : tiles.template q<Tokens>(query_head, part),
              State::first_k() + k, t);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kOwnParts>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// O^T += V^T tril(q^ k^T)^T over this warp's value channels; dV^T += dO^T tril(q^ k^T), with dO for V. Warps along K
  /// share out the tokens of V.
  template <int Tokens>
  GLA_DEVICE void add_score_product(float (&sums)[kBlocksV][Tokens / 8][4], int row0) const {
    const auto v_of = [&](int part) { return tiles.template v<Tokens>(row0, part); };
    GLA_UNROLL
    for (int j = 0; j < Tokens; j += 16) {
      if (j / 16 % kShape.warps_k != State::warp_k()) continue;
      Bits32 a[kBlocksV][kPartsV][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) load_v_parts(a[i], v_of, State::block_v(i), j);
      GLA_UNROLL
      for (int t = kValueGradients ? 0 : j; t < (kValueGradients ? j + 16 : Tokens); t += 16) {
        Bits32 b[kScoresOut][4];
        GLA_UNROLL
        for (int part = 0; part < kScoresOut; ++part) {
          if constexpr (kValueGradients) {
            load_b_transposed(b[part], tiles.template scores<Tokens>(part), j, t);
          } else {
            load_b(b[part], tiles.template scores<Tokens>(part), j, t);
          }
        }
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kScoresOut>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// U^T += V^T k^ with the first k_parts parts of k^. A direct sub-chunk decays the state here, between its two uses.
  template <int Tokens>
  GLA_DEVICE void update_state(int k_parts, int row0, bool direct) {
    if (kGated && direct) state.scale(tiles.before());
    constexpr int kFirst = Tokens == kSubChunk ? kShape.k_parts(Tokens) : kStateParts;
    add_update<Tokens, 0, kFirst>(row0);
    if constexpr (kFirst < kShape.k_parts(Tokens)) {
      static_assert(kPartsV == 1);
      if (k_parts > kFirst) add_update<Tokens, kFirst, kShape.k_parts(Tokens)>(row0);
    }
  }

  /// U^T += V^T k^ for parts [First, Last) of k^; dS'^T += dO^T q^.
  template <int Tokens, int First, int Last>
  GLA_DEVICE void add_update(int row0) {
    constexpr int kParts = Last - First;
    const auto v_of = [&](int part) { return tiles.template v<Tokens>(row0, part); };
    GLA_UNROLL_BY(1)
    for (int t = 0; t < Tokens; t += 16) {
      Bits32 a[kBlocksV][kPartsV][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) load_v_parts(a[i], v_of, State::block_v(i), t);
      GLA_UNROLL
      for (int j = 0; j < kBlocksK; j += 2) {
        Bits32 b[kParts][4];
        GLA_UNROLL
        for (int part = 0; part < kParts; ++part)
          load_b_transposed(b[part],
                            kValueGradients ? tiles.template q<Tokens>(0, First + part)
                                            : tiles.template k<Tokens>(First + part),
                            t, State::first_k() + 8 * j);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kParts>(state.tiles[i][j], state.tiles[i][j + 1], a[i], b);
      }
    }
  }
};

}  // namespace gla
