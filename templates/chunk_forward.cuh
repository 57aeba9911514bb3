// chunk_forward: gated linear attention, chunk by chunk (Yang et al., arXiv 2312.06635, section 4, in the coordinates of
// DESIGN section 5). With the operands of chunk_gates.cuh and the state S' = before (.) S of a chunk,
//   O = q^ S' + tril(q^ k^T) V        U = S' + k^T V        S = after (.) U
// A block owns one (sequence, key/value head, V tile) and walks its chunks in time. Everything is kept transposed: a
// warp holds rows of S^T [V, K] in MMA accumulators, which rounded to bf16 are the A operand of O^T = S'^T q^T, so the
// state never leaves registers. Family `segmented` runs the same walk per segment: once for the segments' own states
// (Pass::segment_states), then, after segment_scan (chunk_segmented.cuh) has chained them, for the outputs.
#pragma once

#include "args.h"
#include "chunk_gates.cuh"
#include "chunk_layout.h"
#include "chunk_state.cuh"
#include "device/copy.cuh"
#include "device/tile.cuh"
#include "sequence.cuh"

namespace gla {

enum class Pass { whole, segment_states, segment_outputs };

template <class Config, Pass kPass>
class ChunkForward {
 public:
  GLA_DEVICE explicit ChunkForward(const KernelArgs& kernel_args)
      : args(kernel_args), shared(shared_memory()), gates{shared, shared, kernel_args.scale} {}

  GLA_DEVICE void run() {
    if (!find_work()) return;
    prepare_shared();
    load_state();
    const Index chunks = (tokens + kChunk - 1) / kChunk;
    for (Index chunk = 0; chunk < kShape.stages; ++chunk) start_loads(chunk, chunks);
    for (Index chunk = 0; chunk < chunks; ++chunk) {
      copy_async_wait<kShape.stages - 1>();
      block_sync();
      gates.stage = stage(chunk);
      raw_v = v_slot(chunk);
      walk_chunk(chunk, chunks);
    }
    store_state();
  }

 private:
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr ChunkLayout kLayout{kShape};
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kTileV = kShape.tile_v;
  static constexpr int kPaddedK = kShape.padded_k();
  static constexpr int kThreads = kShape.threads();
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kGroupTiles = Config::group / kShape.group_tile;
  static constexpr int kTilesV = (kShape.head_dim_v + kTileV - 1) / kTileV;
  using State = ChunkState<kShape>;
  static constexpr int kBlocksV = State::kBlocksV, kBlocksK = State::kBlocksK, kWarpK = State::kWarpK;
  static constexpr int kScoreParts = kShape.score_parts;
  static constexpr int kStateParts = kShape.state_parts;
  static constexpr int kPartsV = kShape.v_parts();
  static constexpr bool kGated = kShape.gate_bytes != 0;
  static_assert(kChunk % kSubChunk == 0 && Config::group % kShape.group_tile == 0);
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;

  const KernelArgs& args;
  unsigned char* shared;
  const unsigned char* raw_v = nullptr;  // of the chunk in work
  ChunkGates<Config> gates;
  Sequence sequence;
  Index n = 0, head = 0, segment = 0;
  Index first = 0, tokens = 0;  // of this block's walk, in tokens of the sequence
  int first_query_head = 0, tile = 0, valid_v = 0;
  bool writes_state = false;
  State state;

  // ---- where the block works -----------------------------------------------------------------------------------

  GLA_DEVICE bool find_work() {
    Index block = block_index();
    tile = static_cast<int>(block % kTilesV);
    block /= kTilesV;
    int group_tile = 0;
    if constexpr (kOutputs) {
      group_tile = static_cast<int>(block % kGroupTiles);
      block /= kGroupTiles;
    }
    head = block % args.heads;
    block /= args.heads;
    n = block % args.sequences;
    segment = block / args.sequences;
    sequence = sequence_of(args, n);
    first_query_head = static_cast<int>(head) * Config::group + group_tile * kShape.group_tile;
    valid_v = min_of(kTileV, kShape.head_dim_v - tile * kTileV);
    tokens = sequence.length;
    bool is_last_segment = true;
    if constexpr (kPass != Pass::whole) {
      first = segment * args.segment_tokens;
      is_last_segment = first + args.segment_tokens >= sequence.length;
      if (segment > 0 && first >= sequence.length) return false;
      if (kPass == Pass::segment_states && is_last_segment) return false;  // nothing follows it
      tokens = is_last_segment ? sequence.length - first : args.segment_tokens;
    }
    writes_state = is_last_segment && group_tile == 0;  // one of the blocks that hold this state
    return true;
  }

  GLA_DEVICE static int min_of(int a, int b) { return a < b ? a : b; }

  GLA_DEVICE float* segment_state() const {
    return args.segment_states + slot() * kShape.head_dim_k * kShape.head_dim_v;
  }

  /// (slot of this block's segment, head); sequence n owns slots from cu_seqlens[n] / segment_tokens + n.
  GLA_DEVICE Index slot() const {
    const Index base = args.cu_seqlens ? sequence.begin / args.segment_tokens + n : n * args.segments;
    return (base + segment) * args.heads + head;
  }

  // ---- memory --------------------------------------------------------------------------------------------------

  /// Columns that no load writes must be zero, in every stage.
  GLA_DEVICE void prepare_shared() {
    if constexpr (kPaddedK != kShape.head_dim_k || kShape.head_dim_v % kTileV != 0) {
      zero_shared<kThreads>(shared, kLayout.raw_bytes);
    }
    if constexpr (kGated) {
      for (int i = thread_index(); i < kPaddedK; i += kThreads) gates.vector(kLayout.decay)[i] = 0;
    }
    block_sync();
  }

  /// One group of copies per chunk; an empty one past the last, so that waits can count groups.
  GLA_DEVICE void start_loads(Index chunk, Index chunks) {
    if (chunk < chunks) copy_chunk(chunk);
    copy_async_commit();
  }

  GLA_DEVICE unsigned char* stage(Index chunk) const {
    return shared + static_cast<int>(chunk % kShape.stages) * kLayout.stage_bytes;
  }
  GLA_DEVICE unsigned char* v_slot(Index chunk) const {
    return shared + kLayout.v + static_cast<int>(chunk % kShape.v_slots()) * kLayout.v_bytes;
  }

  GLA_DEVICE void copy_chunk(Index chunk) {
    unsigned char* slot = stage(chunk);
    const Index left = tokens - chunk * kChunk;
    const int rows = left < kChunk ? static_cast<int>(left) : kChunk;
    const Index token = first + chunk * kChunk;
    constexpr int kK = kShape.head_dim_k;
    constexpr int kBytesK = row_alignment(kK, sizeof(Element));
    constexpr int kBytesV = row_alignment(kShape.head_dim_v, sizeof(Element));
    if constexpr (kOutputs) {
      for (int i = 0; i < kShape.group_tile; ++i) {
        copy_rows<Element, kChunk, kK, kBytesK, kThreads, kShape.async_copy>(
            slot + kLayout.q + i * kChunk * kLayout.q_row, kLayout.q_row,
            row_of<const Element>(args.q, sequence, token, first_query_head + i), args.q.stride_token, rows,
            kK);
      }
    }
    copy_rows<Element, kChunk, kK, kBytesK, kThreads, kShape.async_copy>(
        slot + kLayout.k, kLayout.k_row, row_of<const Element>(args.k, sequence, token, head),
        args.k.stride_token, rows, kK);
    if constexpr (kGated) {
      copy_rows<Gate, kChunk, kK, row_alignment(kK, sizeof(Gate)), kThreads, kShape.async_copy>(
          slot + kLayout.gate, kLayout.gate_row, row_of<const Gate>(args.gk, sequence, token, head),
          args.gk.stride_token, rows, kK);
    }
    copy_rows<Element, kChunk, kTileV, kBytesV, kThreads, kShape.async_copy>(
        v_slot(chunk), kLayout.v_row, row_of<const Element>(args.v, sequence, token, head) + tile * kTileV,
        args.v.stride_token, rows, valid_v);
  }

  GLA_DEVICE void load_state() {
    const float* source = nullptr;
    StateStrides strides = state_strides(kShape.head_dim_k, kShape.head_dim_v, false);
    if constexpr (kPass == Pass::segment_outputs) {
      source = segment_state();
    } else if constexpr (kPass == Pass::whole) {
      strides = state_strides(kShape.head_dim_k, kShape.head_dim_v, Config::state_v_first);
      if (args.initial_state != nullptr)
        source = static_cast<const float*>(args.initial_state) + state_offset();
    }
    state.load(source, strides, tile, valid_v);
  }

  GLA_DEVICE Index state_offset() const {
    return (n * args.heads + head) * kShape.head_dim_k * kShape.head_dim_v;
  }

  GLA_DEVICE void store_state() {
    float* target = nullptr;
    StateStrides strides = state_strides(kShape.head_dim_k, kShape.head_dim_v, false);
    if constexpr (kPass == Pass::segment_states) {
      target = segment_state();
      if (tile == 0) {
        for (int i = thread_index(); i < kShape.head_dim_k; i += kThreads) {
          args.segment_decays[slot() * kShape.head_dim_k + i] =
              kGated ? gates.vector(kLayout.decay)[i] : 0.0f;
        }
      }
    } else if (args.final_state != nullptr && writes_state) {
      strides = state_strides(kShape.head_dim_k, kShape.head_dim_v, Config::state_v_first);
      target = static_cast<float*>(args.final_state) + state_offset();
    }
    if (target != nullptr) state.store(target, strides, tile, valid_v);
  }

  // ---- one chunk -----------------------------------------------------------------------------------------------

  /// Decides the path before any product: inf in k^ would meet 0 in the scores.
  GLA_DEVICE void walk_chunk(Index chunk, Index chunks) {
    const Index token = chunk * kChunk;
    if constexpr (kGated) {
      gates.template sum_groups<kChunk>(0);
      block_sync();
      if (!gates.template within_range<kChunk>()) {
        for (int row0 = 0; row0 < kChunk && token + row0 < tokens; row0 += kSubChunk)
          walk_sub_chunk(token, row0);
        start_loads(chunk + kShape.stages, chunks);
        return;
      }
    }
    count_path(0);
    gates.template make_operands<kChunk, kOutputs>(0);
    if constexpr (!kShape.element_is_bf16) split_v<kChunk>(0);
    block_sync();
    // The raw q, k and gates are spent, and so is the v of the chunk before: their slots can take the next loads.
    start_loads(chunk + kShape.stages, chunks);
    multiply<kChunk, false>(token, 0);
  }

  GLA_DEVICE void walk_sub_chunk(Index token, int row0) {
    gates.template sum_groups<kSubChunk>(row0);
    block_sync();
    const bool within = gates.template within_range<kSubChunk>();
    count_path(within ? 1 : 2);
    if constexpr (!kShape.element_is_bf16) split_v<kSubChunk>(row0);
    if (within) {
      gates.template make_operands<kSubChunk, kOutputs>(row0);
      block_sync();
      multiply<kSubChunk, false>(token, row0);
    } else {
      gates.template make_direct_operands<kOutputs>(row0);
      block_sync();
      multiply<kSubChunk, true>(token, row0);
    }
  }

  GLA_DEVICE void count_path(int path) const {
    if (kOutputs && args.path_counts != nullptr && thread_index() == 0 && tile == 0 &&
        first_query_head == head * Config::group) {
      atomic_add(args.path_counts + path, 1);
    }
  }

  /// v as bf16 parts, where it is not bf16 already.
  template <int Tokens>
  GLA_DEVICE void split_v(int row0) const {
    for (int i = thread_index(); i < Tokens * kTileV / 2; i += kThreads) {
      const int row = i / (kTileV / 2);
      const int column = i % (kTileV / 2) * 2;
      const auto pair = *reinterpret_cast<const Vector<Element, 2>*>(
          raw_v + (row0 + row) * kLayout.v_row + column * static_cast<int>(sizeof(Element)));
      Bits32 parts[kPartsV];
      split_bf16(to_float(pair.item[0]), to_float(pair.item[1]), parts);
      GLA_UNROLL
      for (int part = 0; part < kPartsV; ++part) {
        *reinterpret_cast<Bits32*>(shared + kLayout.v_operand + part * kLayout.v_plane +
                                   row * kLayout.v_part_row + 2 * column) = parts[part];
      }
    }
  }

  // ---- operands as tiles ---------------------------------------------------------------------------------------

  template <int Tokens>
  GLA_DEVICE OperandTile q_tile(int query_head, int part) const {
    return {shared + kLayout.q_operand + part * kLayout.q_plane + query_head * kChunk * kLayout.operand_row,
            kLayout.operand_row, Tokens, kPaddedK};
  }
  template <int Tokens>
  GLA_DEVICE OperandTile k_tile(int part) const {
    return {shared + kLayout.k_operand + part * kLayout.k_plane(Tokens), kLayout.operand_row, Tokens,
            kPaddedK};
  }
  template <int Tokens>
  GLA_DEVICE OperandTile v_tile(int row0, int part) const {
    if constexpr (kShape.element_is_bf16) {
      return {raw_v + row0 * kLayout.v_row, kLayout.v_row, Tokens, kTileV};
    } else {
      return {shared + kLayout.v_operand + part * kLayout.v_plane, kLayout.v_part_row, Tokens, kTileV};
    }
  }
  template <int Tokens>
  GLA_DEVICE OperandTile score_tile(int part) const {
    return {shared + kLayout.scores + part * kLayout.score_plane, kLayout.score_row, Tokens, Tokens};
  }

  template <int Parts, class Tile>
  GLA_DEVICE static void load_v_parts(Bits32 (&a)[Parts][4], Tile tile_of, int m, int k) {
    GLA_UNROLL
    for (int part = 0; part < Parts; ++part) load_a_transposed(a[part], tile_of(part), m, k);
  }

  // ---- products ------------------------------------------------------------------------------------------------

  /// Output and state of `Tokens` tokens whose operands lie ready from operand row 0 on; row0 is their first raw row.
  template <int Tokens, bool Direct>
  GLA_DEVICE void multiply(Index token, int row0) {
    if constexpr (kGated && !Direct) state.scale(gates.vector(kLayout.before));
    if constexpr (kOutputs) {
      for (int query_head = 0; query_head < kShape.group_tile; ++query_head) {
        if constexpr (Direct) {
          gates.direct_scores(query_head, row0,
                              [this](int i, int j, float score) { store_scores(i, j, score, 0.0f, true); });
        } else {
          make_scores<Tokens>(query_head);
        }
        // What needs no scores stands before the barrier that they need.
        float sums[kBlocksV][Tokens / 8][4] = {};
        add_state_product<Tokens>(sums, query_head);
        if (query_head == kShape.group_tile - 1) update_state<Tokens, Direct>(token, row0);
        block_sync();
        add_score_product<Tokens>(sums, row0);
        stage_outputs<Tokens>(sums);
        block_sync();
        store_outputs<Tokens>(query_head, token + row0);
      }
    } else {
      update_state<Tokens, Direct>(token, row0);
    }
    if constexpr (kGated && !Direct) state.scale(gates.vector(kLayout.after));
  }

  /// Stores score (i, j) and, unless `single`, (i, j + 1) as bf16 parts.
  GLA_DEVICE void store_scores(int i, int j, float first_score, float second_score, bool single) const {
    Bits32 parts[kStateParts];
    split_bf16(first_score, second_score, parts);
    GLA_UNROLL
    for (int part = 0; part < kStateParts; ++part) {
      unsigned char* target =
          shared + kLayout.scores + part * kLayout.score_plane + i * kLayout.score_row + 2 * j;
      if (single) {
        *reinterpret_cast<Bits16*>(target) = static_cast<Bits16>(parts[part]);
      } else {
        *reinterpret_cast<Bits32*>(target) = parts[part];
      }
    }
  }

  /// tril(q^ k^T), 16 x 16 blocks dealt to the warps.
  template <int Tokens>
  GLA_DEVICE void make_scores(int query_head) const {
    constexpr int kBlocks = Tokens / 16;
    const int lane = lane_index();
    for (int block = warp_index(); block < kBlocks * (kBlocks + 1) / 2; block += kWarps) {
      int bi = 0;
      while ((bi + 1) * (bi + 2) / 2 <= block) ++bi;
      const int bj = block - bi * (bi + 1) / 2;
      float sums[2][4] = {};
      GLA_UNROLL_BY(2)
      for (int k = 0; k < kPaddedK; k += 16) {
        Bits32 a[kScoreParts][4], b[kScoreParts][4];
        GLA_UNROLL
        for (int part = 0; part < kScoreParts; ++part) {
          load_a(a[part], q_tile<Tokens>(query_head, part), 16 * bi, k);
          load_b(b[part], k_tile<Tokens>(part), k, 16 * bj);
        }
        multiply_parts<kScoreParts>(sums[0], sums[1], a, b);
      }
      GLA_UNROLL
      for (int half = 0; half < 2; ++half) {
        GLA_UNROLL
        for (int e = 0; e < 4; e += 2) {
          const int i = 16 * bi + lane / 4 + e / 2 * 8;
          const int j = 16 * bj + 8 * half + lane % 4 * 2;
          store_scores(i, j, j <= i ? sums[half][e] : 0.0f, j + 1 <= i ? sums[half][e + 1] : 0.0f, false);
        }
      }
    }
  }

  /// O^T += S'^T q^T over this warp's value and key channels.
  template <int Tokens>
  GLA_DEVICE void add_state_product(float (&sums)[kBlocksV][Tokens / 8][4], int query_head) const {
    GLA_UNROLL
    for (int k = 0; k < kWarpK; k += 16) {
      Bits32 a[kBlocksV][kStateParts][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) state.operand(a[i], i, k / 8);
      GLA_UNROLL
      for (int t = 0; t < Tokens; t += 16) {
        Bits32 b[kStateParts][4];
        GLA_UNROLL
        for (int part = 0; part < kStateParts; ++part)
          load_b(b[part], q_tile<Tokens>(query_head, part), State::first_k() + k, t);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kStateParts>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// O^T += V^T tril(q^ k^T)^T over this warp's value channels; warps along K share out the tokens of V.
  template <int Tokens>
  GLA_DEVICE void add_score_product(float (&sums)[kBlocksV][Tokens / 8][4], int row0) const {
    const auto v_of = [&](int part) { return v_tile<Tokens>(row0, part); };
    GLA_UNROLL
    for (int j = 0; j < Tokens; j += 16) {
      if (j / 16 % kShape.warps_k != State::warp_k()) continue;
      Bits32 a[kBlocksV][kPartsV][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) load_v_parts(a[i], v_of, State::first_v() + 16 * i, j);
      GLA_UNROLL
      for (int t = j; t < Tokens; t += 16) {
        Bits32 b[kStateParts][4];
        GLA_UNROLL
        for (int part = 0; part < kStateParts; ++part) load_b(b[part], score_tile<Tokens>(part), j, t);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kStateParts>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// U^T += V^T k^. A direct sub-chunk decays the state here, between its two uses. The last chunk, which is most of what
  /// the walk leaves behind, takes every part of k^ that the scores have made, and so does a sub-chunk.
  template <int Tokens, bool Direct>
  GLA_DEVICE void update_state(Index token, int row0) {
    if constexpr (Direct) state.scale(gates.vector(kLayout.before));
    add_update<Tokens, 0, kStateParts>(row0);
    if constexpr (kStateParts < kShape.k_parts(Tokens)) {
      static_assert(kPartsV == 1);
      if (Tokens == kSubChunk || token + Tokens >= tokens)
        add_update<Tokens, kStateParts, kShape.k_parts(Tokens)>(row0);
    }
  }

  /// U^T += V^T k^ for parts [First, Last) of k^.
  template <int Tokens, int First, int Last>
  GLA_DEVICE void add_update(int row0) {
    constexpr int kParts = Last - First;
    const auto v_of = [&](int part) { return v_tile<Tokens>(row0, part); };
    GLA_UNROLL_BY(1)
    for (int t = 0; t < Tokens; t += 16) {
      Bits32 a[kBlocksV][kPartsV][4];
      GLA_UNROLL
      for (int i = 0; i < kBlocksV; ++i) load_v_parts(a[i], v_of, State::first_v() + 16 * i, t);
      GLA_UNROLL
      for (int j = 0; j < kBlocksK; j += 2) {
        Bits32 b[kParts][4];
        GLA_UNROLL
        for (int part = 0; part < kParts; ++part)
          load_b_transposed(b[part], k_tile<Tokens>(First + part), t, State::first_k() + 8 * j);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kParts>(state.tiles[i][j], state.tiles[i][j + 1], a[i], b);
      }
    }
  }

  // ---- outputs -------------------------------------------------------------------------------------------------

  static constexpr bool kStageElements = kShape.warps_k == 1 && sizeof(Element) == 2;
  using Staged = typename Select<kStageElements, Element, float>::type;

  /// O^T accumulators into rows of O, one plane per warp along K.
  template <int Tokens>
  GLA_DEVICE void stage_outputs(const float (&sums)[kBlocksV][Tokens / 8][4]) const {
    const int lane = lane_index();
    unsigned char* plane = shared + kLayout.out + State::warp_k() * kLayout.out_plane;
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) {
      GLA_UNROLL
      for (int t = 0; t < Tokens / 8; ++t) {
        GLA_UNROLL
        for (int e = 0; e < 4; ++e) {
          const int token = 8 * t + lane % 4 * 2 + e % 2;
          const int v = State::first_v() + 16 * i + lane / 4 + e / 2 * 8;
          reinterpret_cast<Staged*>(plane + token * kLayout.out_row)[v] = from_float<Staged>(sums[i][t][e]);
        }
      }
    }
  }

  template <int Tokens>
  GLA_DEVICE void store_outputs(int query_head, Index token) const {
    constexpr int kElements =
        row_alignment(kShape.head_dim_v, sizeof(Element)) / static_cast<int>(sizeof(Element));
    constexpr int kVectors = kTileV / kElements;
    for (int i = thread_index(); i < Tokens * kVectors; i += kThreads) {
      const int row = i / kVectors;
      const int column = i % kVectors * kElements;
      if (column >= valid_v || token + row >= tokens) continue;
      const unsigned char* source = shared + kLayout.out + row * kLayout.out_row;
      Vector<Element, kElements> result;
      GLA_UNROLL
      for (int e = 0; e < kElements; ++e) {
        if constexpr (kStageElements) {
          result.item[e] = reinterpret_cast<const Element*>(source)[column + e];
        } else {
          float sum = 0;
          GLA_UNROLL
          for (int plane = 0; plane < kShape.warps_k; ++plane)
            sum += reinterpret_cast<const float*>(source + plane * kLayout.out_plane)[column + e];
          result.item[e] = from_float<Element>(sum);
        }
      }
      Element* target =
          row_of<Element>(args.o, sequence, first + token + row, first_query_head + query_head) +
          tile * kTileV;
      *reinterpret_cast<Vector<Element, kElements>*>(target + column) = result;
    }
  }
};

template <class Config, Pass kPass>
GLA_DEVICE void chunk_forward(const KernelArgs& args) {
  ChunkForward<Config, kPass>(args).run();
}

}  // namespace gla
