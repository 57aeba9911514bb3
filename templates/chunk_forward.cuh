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
#include "chunk_tiles.cuh"
#include "chunk_warpgroup.cuh"
#include "device/copy.cuh"
#include "device/tile.cuh"
#include "sequence.cuh"

namespace gla {

enum class Pass { whole, segment_states, segment_outputs };

template <class Config, Pass kPass>
class ChunkForward {
 public:
  GLA_DEVICE explicit ChunkForward(const KernelArgs& kernel_args)
      : args(kernel_args), tiles{shared_memory(), 0}, gates{tiles, kernel_args.scale, 0} {}

  GLA_DEVICE void run() {
    if (!find_work()) return;
    prepare_shared();
    const Index chunks = (tokens + kChunk - 1) / kChunk;
    if constexpr (kShape.producers > 0) {
      if (warp_any(thread_index() >= kMultipliers)) {
        produce(static_cast<int>(chunks));
      } else {
        consume(static_cast<int>(chunks));
      }
      return;
    }
    load_state();
    for (Index chunk = 0; chunk < kShape.stages; ++chunk) start_loads(chunk, chunks);
    for (Index chunk = 0; chunk < chunks; ++chunk) {
      copy_async_wait<kShape.stages - 1>();
      block_sync();
      enter(chunk);
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
  static constexpr int kWarps = kShape.warps();            // that multiply
  static constexpr int kMultipliers = kWarpSize * kWarps;  // their threads, the block's first ones
  /// That load: the block's last ones, or all. Copies wait for each other (docs/performance.md), so the warpgroup that
  /// makes the scores has none.
  static constexpr int kLoaders = kShape.producers                         ? kWarpSize * kShape.producers
                                  : kShape.wgmma && kOutputs && kWarps > 4 ? kMultipliers - kWarpSize * 4
                                                                           : kMultipliers;
  static constexpr int kGroupTiles = Config::group / kShape.group_tile;
  static constexpr int kTilesV = (kShape.head_dim_v + kTileV - 1) / kTileV;
  using State = ChunkState<kShape>;
  static constexpr int kBlocksV = State::kBlocksV, kBlocksK = State::kBlocksK, kWarpK = State::kWarpK;
  static constexpr int kScoreParts = kShape.score_parts;
  static constexpr int kStateParts = kShape.state_parts;
  static constexpr int kPartsV = kShape.v_parts();
  static constexpr bool kGated = kShape.gate_bytes != 0;
  static_assert(kChunk % kSubChunk == 0 && Config::group % kShape.group_tile == 0);
  static_assert(kShape.producers == 0 || (kShape.wgmma && kShape.stages == 2 && kShape.group_tile == 1));
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  /// Which part of a block's work a thread has.
  enum class Role { all, consumer, producer };

  const KernelArgs& args;
  ChunkTiles<kShape, Element, Gate> tiles;
  ChunkGates<Config> gates;
  int v_slot = 0;  // of the chunk in work
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

  /// Columns that no load writes must be zero, in every stage; and a product of 64 rows reads past a chunk of 32.
  GLA_DEVICE void prepare_shared() {
    if constexpr (kPaddedK != kShape.head_dim_k || kShape.head_dim_v % kTileV != 0) {
      zero_shared<kShape.threads()>(tiles.shared, kLayout.raw_bytes);
    }
    if constexpr (kShape.wgmma && kChunk < 64) {
      zero_shared<kShape.threads()>(tiles.shared + kLayout.q_operand, kLayout.scores - kLayout.q_operand);
    }
    if constexpr (kShape.wgmma) fence_for_warpgroup();
    if constexpr (kGated) {
      for (int i = thread_index(); i < kPaddedK; i += kShape.threads()) tiles.vector(kLayout.decay)[i] = 0;
    }
    block_sync();
  }

  /// One group of copies per chunk; an empty one past the last, so that waits can count groups.
  GLA_DEVICE void start_loads(Index chunk, Index chunks) {
    if (chunk < chunks && loader() >= 0) {
      copy_keys(chunk);
      copy_values(chunk);
    }
    copy_async_commit();
  }

  GLA_DEVICE static int loader() { return thread_index() - (kShape.threads() - kLoaders); }
  GLA_DEVICE int rows_of(Index chunk) const {
    const Index left = tokens - chunk * kChunk;
    return left < kChunk ? static_cast<int>(left) : kChunk;
  }

  /// Gates, k and q.
  GLA_DEVICE void copy_keys(Index chunk) const {
    const int slot = static_cast<int>(chunk % kShape.stages);
    const int rows = rows_of(chunk);
    const Index token = first + chunk * kChunk;
    constexpr int kK = kShape.head_dim_k;
    constexpr int kBytes = row_alignment(kK, sizeof(Element));
    if constexpr (kGated) {
      copy_rows<Gate, kChunk, kK, row_alignment(kK, sizeof(Gate)), kLoaders, kShape.async_copy>(
          tiles.raw_gates(slot), row_of<const Gate>(args.gk, sequence, token, head), args.gk.stride_token,
          rows, kK, loader());
    }
    copy_rows<Element, kChunk, kK, kBytes, kLoaders, kShape.async_copy>(
        tiles.raw_k(slot), row_of<const Element>(args.k, sequence, token, head), args.k.stride_token, rows,
        kK, loader());
    if constexpr (kOutputs) {
      for (int i = 0; i < kShape.group_tile; ++i) {
        copy_rows<Element, kChunk, kK, kBytes, kLoaders, kShape.async_copy>(
            tiles.raw_q(slot, i), row_of<const Element>(args.q, sequence, token, first_query_head + i),
            args.q.stride_token, rows, kK, loader());
      }
    }
  }

  GLA_DEVICE void copy_values(Index chunk) const {
    constexpr int kBytes = row_alignment(kShape.head_dim_v, sizeof(Element));
    copy_rows<Element, kChunk, kTileV, kBytes, kLoaders, kShape.async_copy>(
        tiles.raw_v(static_cast<int>(chunk % kShape.v_slots())),
        row_of<const Element>(args.v, sequence, first + chunk * kChunk, head) + tile * kTileV,
        args.v.stride_token, rows_of(chunk), valid_v, loader());
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
        for (int i = thread_index(); i < kShape.head_dim_k; i += kMultipliers) {
          args.segment_decays[slot() * kShape.head_dim_k + i] =
              kGated ? tiles.vector(kLayout.decay)[i] : 0.0f;
        }
      }
    } else if (args.final_state != nullptr && writes_state) {
      strides = state_strides(kShape.head_dim_k, kShape.head_dim_v, Config::state_v_first);
      target = static_cast<float*>(args.final_state) + state_offset();
    }
    if (target != nullptr) state.store(target, strides, tile, valid_v);
  }

  // ---- one chunk -----------------------------------------------------------------------------------------------

  GLA_DEVICE void enter(Index chunk) {
    gates.slot = static_cast<int>(chunk % kShape.stages);
    v_slot = static_cast<int>(chunk % kShape.v_slots());
    if constexpr (kShape.producers > 0)
      tiles.scaling_set = gates.tiles.scaling_set = static_cast<int>(chunk % 2);
  }

  /// Whether all threads say so; a barrier. The warp's vote tells the compiler that the branch on it is uniform.
  GLA_DEVICE static bool agree([[maybe_unused]] bool value) {
    if constexpr (kGated) return warp_any(block_sync_and(value));
    block_sync();  // ungated chunks always agree, and the paths of others are no code
    return true;
  }

  /// Decides the path before any product: inf in k^ would meet 0 in the scores.
  GLA_DEVICE void walk_chunk(Index chunk, Index chunks) {
    const Index token = chunk * kChunk;
    if (make_operands<kChunk, Role::all>(0)) {
      count_path(0);
      add_decay();
      // The raw q, k and gates are spent, and so is the v of the chunk before: their slots can take the next loads.
      const auto load_next = [&] { start_loads(chunk + kShape.stages, chunks); };
      if constexpr (!kShape.wgmma) load_next();
      multiply<kChunk, false>(token, 0, load_next);
    } else {
      walk_sub_chunks<Role::all>(token);
      start_loads(chunk + kShape.stages, chunks);
    }
  }

  template <Role kRole>
  GLA_DEVICE void walk_sub_chunks(Index token) {
    for (int row0 = 0; row0 < kChunk && token + row0 < tokens; row0 += kSubChunk) {
      block_sync();  // outputs that were staged where operands lie are read
      const bool within = make_operands<kSubChunk, kRole>(row0);
      if (!within) {
        if constexpr (kRole != Role::consumer) gates.template make_direct_operands<kOutputs>(row0);
        block_sync();
      }
      if constexpr (kRole == Role::producer) {
        for (int i = 0; kOutputs && i < 2 * kShape.group_tile; ++i) block_sync();  // those of multiply
      } else {
        count_path(within ? 1 : 2);
        add_decay();
        if (within) {
          multiply<kSubChunk, false>(token, row0, [] {});
        } else {
          multiply<kSubChunk, true>(token, row0, [] {});
        }
      }
    }
  }

  /// The operands of `Tokens` tokens, whole behind its barrier; whether these tokens may share a pivot.
  template <int Tokens, Role kRole>
  GLA_DEVICE bool make_operands(int row0) {
    bool within = true;
    if constexpr (kRole != Role::consumer) {
      within = gates.template make_operands<Tokens, kOutputs>(row0);
      if constexpr (!kShape.element_is_bf16) split_v<Tokens>(row0);
      if constexpr (kShape.wgmma && Tokens == kChunk) fence_for_warpgroup();
    }
    return agree(within);
  }

  // ---- producers and consumers -----------------------------------------------------------------------------------
  // While consumers multiply a chunk, producers load the ones after it and make the operands of the next in registers.
  // Three barriers a chunk, which both sides meet: the scores are there, and all know whether the next chunk may have one
  // pivot; the operands are spent; the next ones are there.

  GLA_DEVICE void produce(int chunks) {
    if (chunks == 0) return;
    typename ChunkGates<Config>::template Ahead<kOutputs> ahead;
    copy_keys(0);
    copy_async_commit();
    copy_async_wait<0>();
    block_sync();
    bool within = true;
    for (int chunk = -1; chunk < chunks; ++chunk) {
      if (!within) walk_sub_chunks<Role::producer>(Index{chunk} * kChunk);
      const bool more = chunk + 1 < chunks;
      if (more) copy_values(chunk + 1);
      if (chunk + 2 < chunks) copy_keys(chunk + 2);
      copy_async_commit();
      enter(chunk + 1);
      within = agree(!kGated || !more || ahead.find_pivots(gates));
      if (more && within) ahead.make(gates);
      block_sync();
      if (more && within) ahead.store(gates);
      copy_async_wait<0>();
      fence_for_warpgroup();
      block_sync();
    }
  }

  GLA_DEVICE void consume(int chunks) {
    load_state();
    if (chunks > 0) {
      block_sync();  // the first chunk is made as the others are, but nothing is multiplied meanwhile
      bool within = agree(true);
      block_sync();
      block_sync();
      for (int chunk = 0; chunk < chunks; ++chunk) {
        enter(chunk);
        const bool whole = within;
        if (whole) {
          count_path(0);
          add_decay();
          within = multiply_ahead(Index{chunk} * kChunk);
        } else {
          walk_sub_chunks<Role::consumer>(Index{chunk} * kChunk);
          within = agree(true);
        }
        block_sync();
        if (kOutputs && whole) store_outputs<kChunk>(0, Index{chunk} * kChunk);
        block_sync();
      }
    }
    store_state();
  }

  /// A whole chunk up to its staged outputs. Returns whether the next one may have one pivot.
  GLA_DEVICE bool multiply_ahead(Index token) {
    if constexpr (kGated) state.scale(tiles.scaling(kLayout.before));
    const int k_parts = token + kChunk >= tokens ? kShape.k_parts(kChunk) : kStateParts;
    bool within = true;
    if constexpr (kOutputs) {
      float sums[kBlocksV][kChunk / 8][4] = {};
      warpgroups().multiply(
          sums[0], 0, k_parts, [] {}, [&] { within = agree(true); });
      stage_outputs<kChunk>(sums);
    } else {
      warpgroups().update(k_parts, [] {});
      within = agree(true);
    }
    if constexpr (kGated) state.scale(tiles.scaling(kLayout.after));
    return within;
  }

  GLA_DEVICE void add_decay() {
    if constexpr (kPass == Pass::segment_states && kGated) {
      for (int i = thread_index(); i < kPaddedK; i += kMultipliers)
        tiles.vector(kLayout.decay)[i] += tiles.scaling(kLayout.last)[i];
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
    for (int i = thread_index(); i < Tokens * kTileV / 2; i += kMultipliers) {
      const int row = i / (kTileV / 2);
      const int column = i % (kTileV / 2) * 2;
      const Vector<float, 2> pair = load_pair(tiles.raw_v(v_slot), row0 + row, column);
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

  /// Output and state of `Tokens` tokens whose operands lie ready from operand row 0 on; row0 is their first raw row.
  /// Warpgroups call meanwhile() once while their products run.
  template <int Tokens, bool Direct, class Meanwhile>
  GLA_DEVICE void multiply(Index token, int row0, Meanwhile meanwhile) {
    if constexpr (kGated && !Direct) state.scale(tiles.scaling(kLayout.before));
    constexpr bool kByWarpgroups = kShape.wgmma && Tokens == kChunk;
    // The last chunk, which is most of what the walk leaves behind, takes every part of k^ that the scores have made,
    // and so does a sub-chunk.
    const int k_parts =
        Tokens == kSubChunk || token + Tokens >= tokens ? kShape.k_parts(Tokens) : kStateParts;
    if constexpr (kOutputs) {
      for (int query_head = 0; query_head < kShape.group_tile; ++query_head) {
        const bool updates = query_head == kShape.group_tile - 1;
        float sums[kBlocksV][Tokens / 8][4] = {};
        if constexpr (kByWarpgroups) {
          warpgroups().multiply(
              sums[0], query_head, updates ? k_parts : 0,
              [&] {
                if (query_head == 0) meanwhile();
              },
              [] { block_sync(); });
        } else {
          if constexpr (Direct) {
            gates.direct_scores(query_head, row0,
                                [this](int i, int j, float score) { store_score(i, j, score); });
          } else {
            make_scores<Tokens>(query_head);
          }
          // What needs no scores stands before the barrier that they need.
          add_state_product<Tokens>(sums, query_head);
          if (updates) update_state<Tokens, Direct>(k_parts, row0);
          block_sync();
          add_score_product<Tokens>(sums, row0);
        }
        stage_outputs<Tokens>(sums);
        block_sync();
        store_outputs<Tokens>(query_head, token + row0);
      }
    } else if constexpr (kByWarpgroups) {
      warpgroups().update(k_parts, meanwhile);
    } else {
      update_state<Tokens, Direct>(k_parts, row0);
    }
    if constexpr (kGated && !Direct) state.scale(tiles.scaling(kLayout.after));
  }

  GLA_DEVICE auto warpgroups() { return WarpgroupProducts<kShape, Element, Gate>{tiles, state, v_slot}; }

  /// Stores one score of a direct sub-chunk as bf16 parts.
  GLA_DEVICE void store_score(int i, int j, float score) const {
    Bits32 parts[kStateParts];
    split_bf16(score, 0.0f, parts);
    GLA_UNROLL
    for (int part = 0; part < kStateParts; ++part) {
      const OperandTile tile = tiles.template scores<kSubChunk>(part);
      *reinterpret_cast<Bits16*>(tile.at(i, j)) = static_cast<Bits16>(parts[part]);
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
          load_a(a[part], tiles.template q<Tokens>(query_head, part), 16 * bi, k);
          load_b(b[part], tiles.template k<Tokens>(part), k, 16 * bj);
        }
        multiply_parts<kScoreParts>(sums[0], sums[1], a, b);
      }
      Bits32 words[kStateParts][4];
      GLA_UNROLL
      for (int pair = 0; pair < 4; ++pair) {
        const int i = 16 * bi + lane / 4 + pair % 2 * 8;
        const int j = 16 * bj + pair / 2 * 8 + lane % 4 * 2;
        const float(&two)[4] = sums[pair / 2];
        Bits32 parts[kStateParts];
        split_bf16(j <= i ? two[pair % 2 * 2] : 0.0f, j + 1 <= i ? two[pair % 2 * 2 + 1] : 0.0f, parts);
        GLA_UNROLL
        for (int part = 0; part < kStateParts; ++part) words[part][pair] = parts[part];
      }
      GLA_UNROLL
      for (int part = 0; part < kStateParts; ++part)
        store_a(words[part], tiles.template scores<Tokens>(part), 16 * bi, 16 * bj);
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
          load_b(b[part], tiles.template q<Tokens>(query_head, part), State::first_k() + k, t);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kStateParts>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// O^T += V^T tril(q^ k^T)^T over this warp's value channels; warps along K share out the tokens of V.
  template <int Tokens>
  GLA_DEVICE void add_score_product(float (&sums)[kBlocksV][Tokens / 8][4], int row0) const {
    const auto v_of = [&](int part) { return tiles.template v<Tokens>(v_slot, row0, part); };
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
        for (int part = 0; part < kStateParts; ++part)
          load_b(b[part], tiles.template scores<Tokens>(part), j, t);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kStateParts>(sums[i][t / 8], sums[i][t / 8 + 1], a[i], b);
      }
    }
  }

  /// U^T += V^T k^ with the first k_parts parts of k^. A direct sub-chunk decays the state here, between its two uses.
  template <int Tokens, bool Direct>
  GLA_DEVICE void update_state(int k_parts, int row0) {
    if constexpr (Direct) state.scale(tiles.scaling(kLayout.before));
    add_update<Tokens, 0, kStateParts>(row0);
    if constexpr (kStateParts < kShape.k_parts(Tokens)) {
      static_assert(kPartsV == 1);
      if (k_parts > kStateParts) add_update<Tokens, kStateParts, kShape.k_parts(Tokens)>(row0);
    }
  }

  /// U^T += V^T k^ for parts [First, Last) of k^.
  template <int Tokens, int First, int Last>
  GLA_DEVICE void add_update(int row0) {
    constexpr int kParts = Last - First;
    const auto v_of = [&](int part) { return tiles.template v<Tokens>(v_slot, row0, part); };
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
          load_b_transposed(b[part], tiles.template k<Tokens>(First + part), t, State::first_k() + 8 * j);
        GLA_UNROLL
        for (int i = 0; i < kBlocksV; ++i)
          multiply_parts<kParts>(state.tiles[i][j], state.tiles[i][j + 1], a[i], b);
      }
    }
  }

  // ---- outputs -------------------------------------------------------------------------------------------------

  static constexpr bool kStageElements = kShape.warps_k == 1 && sizeof(Element) == 2;

  /// O^T accumulators into rows of O; fp32 in one plane per warp along K.
  template <int Tokens>
  GLA_DEVICE void stage_outputs(const float (&sums)[kBlocksV][Tokens / 8][4]) const {
    GLA_UNROLL
    for (int i = 0; i < kBlocksV; ++i) {
      GLA_UNROLL
      for (int t = 0; t < Tokens / 16; ++t) {
        const int v = State::first_v() + 16 * i;
        if constexpr (kStageElements) {
          Bits32 words[4];
          GLA_UNROLL
          for (int pair = 0; pair < 4; ++pair) {
            const float(&two)[4] = sums[i][2 * t + pair / 2];
            words[pair] = pack<Element>(two[pair % 2 * 2], two[pair % 2 * 2 + 1]);
          }
          store_a_transposed(words, tiles.template out<Tokens>(), v, 16 * t);
        } else {
          unsigned char* plane = tiles.shared + kLayout.out + State::warp_k() * kLayout.out_plane;
          GLA_UNROLL
          for (int e = 0; e < 8; ++e) {
            const int token = 16 * t + e / 4 * 8 + lane_index() % 4 * 2 + e % 2;
            reinterpret_cast<float*>(plane + token * kLayout.out_row)[v + lane_index() / 4 + e / 2 % 2 * 8] =
                sums[i][2 * t + e / 4][e % 4];
          }
        }
      }
    }
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
      const unsigned char* source = tiles.shared + kLayout.out + row * kLayout.out_row;
      Vector<Element, kOutElements> result;
      GLA_UNROLL
      for (int e = 0; e < kOutElements; ++e) {
        float sum = 0;
        GLA_UNROLL
        for (int plane = 0; plane < kShape.warps_k; ++plane)
          sum += reinterpret_cast<const float*>(source + plane * kLayout.out_plane)[column + e];
        result.item[e] = from_float<Element>(sum);
      }
      return __builtin_bit_cast(OutPacket, result);
    }
  }

  /// Up to four packets at a time, so that their latencies overlap.
  template <int Tokens>
  GLA_DEVICE void store_outputs(int query_head, Index token) const {
    constexpr int kVectors = kTileV / kOutElements, kEach = Tokens * kVectors / kMultipliers;
    constexpr int kBatch = Tokens * kVectors % kMultipliers != 0 ? 1 : kEach % 4 == 0 ? 4 : kEach % 2 == 0 ? 2 : 1;
    const Index left = tokens - token;
    const int rows = left < Tokens ? static_cast<int>(left) : Tokens;
    Element* o =
        row_of<Element>(args.o, sequence, first + token, first_query_head + query_head) + tile * kTileV;
    for (int batch = thread_index(); batch < Tokens * kVectors; batch += kBatch * kMultipliers) {
      OutPacket packets[kBatch];
      GLA_UNROLL
      for (int n = 0; n < kBatch; ++n) {
        const int i = batch + n * kMultipliers;
        packets[n] = staged<Tokens>(i / kVectors, i % kVectors * kOutElements);
      }
      GLA_UNROLL
      for (int n = 0; n < kBatch; ++n) {
        const int i = batch + n * kMultipliers;
        const int row = i / kVectors, column = i % kVectors * kOutElements;
        if (row < rows && column < valid_v)
          store_packet<kOutBytes>(o + row * args.o.stride_token + column, packets[n]);
      }
    }
  }
};

template <class Config, Pass kPass>
GLA_DEVICE void chunk_forward(const KernelArgs& args) {
  ChunkForward<Config, kPass>(args).run();
}

}  // namespace gla
