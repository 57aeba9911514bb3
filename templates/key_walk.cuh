// The walks over key channels of chunk_backward: dq forward in time with the state S, dk and the gates' gradients backward
// with its gradient dS (DESIGN section 5, whose names are used here). With P = tril(dO V^T), which no gate touches,
//   forward    dq^ = dO S'^T + P k^       S  = after (.) (S' + k^T V)        S' = before (.) S
//   backward   dk^ = V dU^T + P^T q^      dS = before (.) (dU + q^T dO)      dU = after (.) dS
// A warp owns 16 key channels, with nobody but the warps that have other value channels of the same: their rows of the
// state, and, in the same lanes, those channels of all tokens of a chunk. So operands, sums over tokens and the choice of a
// path are each warp's own, and only P is made by all.
//
// Gates' gradients are flows through the gates, not differences of long sums. With x_t the sum over s >= t in the chunk of
// q_s dq_s - k_s dk^x_s (^x: the part that comes through P), which the forward walk leaves for the other one,
//   dg_t = F + sum over s < t of k_s dk^in_s + x_t      F = D_next - sum over the chunk of k_s dk^in_s      D = F + x_first
// where D is the sum over V of S (.) dS at a chunk's border. Of 16 bits, x is kept in the memory of dgk and dk, as a sum of two.
//
// Segmented, both walk each segment for its own share of the state before and behind it first (Pass::segment_states); scans
// chain those, and D is known behind every segment.
#pragma once

#include "backward_args.h"
#include "chunk_gates.cuh"
#include "chunk_work.cuh"
#include "device/copy.cuh"
#include "device/tile.cuh"
#include "key_walk_layout.h"
#include "row_state.cuh"
#include "sequence.cuh"
#include "team.cuh"
#include "triangle.cuh"

namespace gla {

template <class Config, bool kForward, Pass kPass>
class KeyWalk {
 public:
  GLA_DEVICE explicit KeyWalk(const BackwardArgs& backward_args) : args(backward_args) {}

  GLA_DEVICE void run() {
    if (!find_work()) return;
    zero_shared<kShape.threads()>(shared, kLayout.raw_bytes);
    block_sync();
    load_state();
    if constexpr (!kForward && kOutputs) load_flow();
    const Index chunks = (tokens + kChunk - 1) / kChunk, steps = chunks * kHeads;
    for (Index step = 0; step < kShape.stages; ++step) start_loads(step, steps);
    for (Index step = 0; step < steps; step += kHeads) {
      if constexpr (kHeads == 1) {
        walk_chunk(step, steps);
      } else {
        walk_group(step, steps);
      }
    }
    if constexpr (!kOutputs) {
      store_state();
    } else if constexpr (kForward) {
      store_flow();
    }
  }

 private:
  static constexpr KeyWalkShape kShape = Config::key_walk;
  static constexpr KeyWalkLayout kLayout{kShape, !kForward};
  static constexpr int kChunk = kShape.chunk, kTileK = kShape.tile_k, kSplit = kShape.split();
  static constexpr int kK = kShape.head_dim_k, kV = kShape.head_dim_v, kPaddedV = kShape.padded_v();
  static constexpr int kColumns = kPaddedV / kSplit;  // value channels of a warp
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  /// Which side is loaded: what goes into the state, and for outputs both.
  static constexpr bool kQueries = !kForward || kOutputs;
  static constexpr bool kKeys = kForward || kOutputs;
  static constexpr int kHeads = kQueries ? Config::group : 1;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  static constexpr int kParts = kShape.operand_parts(), kPartsV = kShape.v_parts();
  static_assert(kHeads == 1 || kChunk == kSubChunk);  // the queries of a group meet in every unit
  static_assert(kTileK % 16 == 0 && 16 * kShape.warps % kTileK == 0);
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  using Team = gla::Team<0, kShape.warps, 0>;
  using Gates = ChunkGates<Config, ChunkTiles<Config::shape, Element, Gate>, Team>;
  using Pivots = typename Gates::Pivots;
  template <int Tokens>
  using Sums = float[Tokens / 8][4];  ///< of 16 key channels and these tokens, as an MMA leaves them
  template <int Tokens>
  using Words = Bits32[Tokens / 16][kParts][4];  ///< an operand of the same

  const BackwardArgs& args;
  unsigned char* const shared = shared_memory();
  Sequence sequence{};
  Index n = 0, walk_slot = 0;        ///< of the states between passes
  int head = 0, tile = 0, slot = 0;  ///< slot: of the ring of stages
  Index first = 0, tokens = 0;       ///< of the walk, in tokens of the sequence
  Index first_token = 0;             ///< of the chunk
  bool is_last = true;               ///< in time
  RowState<kColumns> state;
  float flow[2] = {};   ///< D of the lane's channels
  float decay[2] = {};  ///< of the walk, log2

  // ---- what a block and a warp have ------------------------------------------------------------------------------

  /// False if there is none for this block.
  GLA_DEVICE bool find_work() {
    constexpr int kTiles = (kShape.head_dim_k + kTileK - 1) / kTileK;
    Index block = block_index();
    tile = static_cast<int>(block % kTiles);
    block /= kTiles;
    head = static_cast<int>(block % args.heads);
    block /= args.heads;
    Segment segment{static_cast<int>(block), 0};
    if constexpr (kPass != Pass::whole) segment = segment_of(args, block);
    n = segment.n;
    sequence = sequence_of(args, n);
    tokens = sequence.length;
    walk_slot = n;
    if constexpr (kPass != Pass::whole) {
      walk_slot = first_segment_slot(args, n) + segment.index;
      first = Index{segment.index} * args.segment_tokens;
      is_last = first + args.segment_tokens >= sequence.length;
      if (segment.index > 0 && first >= sequence.length) return false;
      // Nothing follows what the walk would leave behind.
      if (!kOutputs && (kForward ? is_last : segment.index == 0)) return false;
      tokens = is_last ? sequence.length - first : args.segment_tokens;
    }
    return true;
  }
  GLA_DEVICE static int min_of(int a, int b) { return a < b ? a : b; }
  GLA_DEVICE static int member() { return warp_index() % kSplit; }
  GLA_DEVICE static bool leads() { return kSplit == 1 || member() == 0; }
  /// Within the tile.
  GLA_DEVICE static int first_channel() { return warp_index() / kSplit * 16; }
  GLA_DEVICE static int first_column() { return member() * kColumns; }
  GLA_DEVICE int first_row() const { return tile * kTileK + first_channel(); }
  GLA_DEVICE int valid_rows() const { return kShape.head_dim_k - first_row(); }
  GLA_DEVICE static int valid_columns() { return kShape.head_dim_v - first_column(); }
  /// Of the tile.
  GLA_DEVICE int valid_channels() const { return min_of(kTileK, kShape.head_dim_k - tile * kTileK); }
  /// The warp's part of a state in memory.
  struct StatePart {
    float* first;
    StateStrides strides;
  };
  /// Of what the caller gave, which may be nothing.
  GLA_DEVICE StatePart callers(const void* states) const {
    return part_of(states, n, state_strides(kK, kV, Config::state_v_first));
  }
  /// Of those between passes.
  GLA_DEVICE StatePart segments_own(float* states) const {
    return part_of(states, walk_slot, state_strides(kK, kV, false));
  }
  GLA_DEVICE StatePart part_of(const void* states, Index at, StateStrides strides) const {
    if (states == nullptr) return {nullptr, strides};
    return {const_cast<float*>(static_cast<const float*>(states)) + (at * args.heads + head) * (kK * kV) +
                first_row() * strides.k + first_column() * strides.v,
            strides};
  }
  GLA_DEVICE void load_state() {
    StatePart from{nullptr, {}};
    if constexpr (kPass == Pass::whole) from = callers(kForward ? args.initial_state : args.d_final_state);
    if constexpr (kPass == Pass::segment_outputs)
      from = segments_own(kForward ? args.segment_states : args.segment_gradients);
    state.load(from.first, from.strides, valid_rows(), valid_columns());
  }
  GLA_DEVICE void store_state() {
    const StatePart to = segments_own(kForward ? args.segment_states : args.segment_gradients);
    state.store(to.first, to.strides, valid_rows(), valid_columns());
    if (leads()) store_channels(kForward ? args.segment_decays : args.segment_gradient_decays, decay);
  }
  /// The lane's channels of a vector [slots, H, K].
  GLA_DEVICE float* channels_of(float* vectors) const {
    return vectors + (walk_slot * args.heads + head) * kK + first_row();
  }
  GLA_DEVICE void store_channels(float* vectors, const float (&values)[2]) const {
    GLA_UNROLL
    for (int c = 0; c < 2; ++c)
      if (lane_index() % 4 == 0 && lane_channel(c) < valid_rows())
        channels_of(vectors)[lane_channel(c)] = values[c];
  }
  GLA_DEVICE int rows() const {
    const Index left = first + tokens - first_token;
    return left < kChunk ? static_cast<int>(left) : kChunk;
  }

  GLA_DEVICE bool wants_flows() const { return kGated && args.dgk.data != nullptr; }
  /// Whether there is a D behind the walk: not where no gradient of the final state is given.
  GLA_DEVICE bool has_flow() const {
    return wants_flows() && (kPass != Pass::whole || args.d_final_state != nullptr);
  }
  GLA_DEVICE void store_flow() {
    if (!has_flow()) return;
    const StatePart behind =
        kPass == Pass::whole ? callers(args.d_final_state) : segments_own(args.segment_gradients);
    float lane_sums[2] = {}, sums[1][4] = {};
    state.add_products(lane_sums, behind.first, behind.strides, valid_rows(), valid_columns());
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) sums[0][c] = sum_quad(lane_sums[c]);
    add_members(sums);
    if (leads()) store_channels(args.flows, {sums[0][0], sums[0][1]});
  }
  GLA_DEVICE void load_flow() {
    if (!has_flow()) return;
    GLA_UNROLL
    for (int c = 0; c < 2; ++c)
      if (lane_channel(c) < valid_rows()) flow[c] = channels_of(args.flows)[lane_channel(c)];
  }

  // ---- tiles -----------------------------------------------------------------------------------------------------

  GLA_DEVICE unsigned char* stage() const { return shared + slot * kLayout.stage_bytes; }
  GLA_DEVICE RawTile<Element> raw_keys(int offset) const {
    return {stage() + offset, kLayout.key_row, kChunk, kTileK};
  }
  GLA_DEVICE RawTile<Element> raw_q() const { return raw_keys(kLayout.q); }
  GLA_DEVICE RawTile<Element> raw_k() const { return raw_keys(kLayout.k); }
  template <class T = Gate>
  GLA_DEVICE RawTile<T> raw_gates(int offset = kLayout.gate) const {
    return {stage() + offset, kLayout.gate_row, kChunk, kTileK};
  }
  /// v or dO from row0 on.
  GLA_DEVICE OperandTile values(int raw_offset, int parts_offset, int row0, int part) const {
    unsigned char* base =
        kShape.element_is_bf16 ? stage() + raw_offset : shared + parts_offset + part * kLayout.value_plane;
    return {base + row0 * kLayout.value_row, kChunk - row0, kPaddedV, kLayout.value_row};
  }
  GLA_DEVICE OperandTile v(int row0, int part) const {
    return values(kLayout.v, kLayout.v_operand, row0, part);
  }
  GLA_DEVICE OperandTile d_o(int row0, int part) const {
    return values(kLayout.d_o, kLayout.d_o_operand, row0, part);
  }
  GLA_DEVICE OperandTile scores(int part) const {
    return {shared + kLayout.scores + part * kLayout.score_plane, kChunk, kChunk, kLayout.score_row};
  }
  GLA_DEVICE float* cumulative() const { return reinterpret_cast<float*>(shared + kLayout.cumulative); }

  template <class T>
  GLA_DEVICE T* keys_of(const Tensor& tensor, Index token, Index of_head) const {
    return row_of<T>(tensor, sequence, token, of_head) + tile * kTileK;
  }
  template <class T, int Columns, int Channels, class Tile>
  GLA_DEVICE void copy(const Tile& to, const T* from, const Tensor& tensor, int valid_rows,
                       int columns) const {
    copy_rows<T, kChunk, Columns, row_alignment(Channels, sizeof(T)), kShape.threads(), kShape.async_copy>(
        to, from, tensor.stride_token, valid_rows, columns, thread_index());
  }

  /// Step s is a query head of a chunk. One group of copies each; an empty one past the last, so that waits can count groups.
  GLA_DEVICE void start_loads(Index step, Index steps) {
    if (step < steps) {
      open(step, steps);
      const int query_head = head * kHeads + static_cast<int>(step % kHeads);
      if constexpr (kGated)
        copy<Gate, kTileK, kK>(raw_gates(), keys_of<const Gate>(args.gk, first_token, head), args.gk, rows(),
                               valid_channels());
      if constexpr (kKeys)
        copy<Element, kTileK, kK>(raw_k(), keys_of<const Element>(args.k, first_token, head), args.k, rows(),
                                  valid_channels());
      if constexpr (kQueries)
        copy<Element, kTileK, kK>(raw_q(), keys_of<const Element>(args.q, first_token, query_head), args.q,
                                  rows(), valid_channels());
      if constexpr (kKeys && kShape.element_is_bf16)
        copy<Element, kPaddedV, kV>(v(0, 0), row_of<const Element>(args.v, sequence, first_token, head),
                                    args.v, rows(), kV);
      if constexpr (kQueries && kShape.element_is_bf16)
        copy<Element, kPaddedV, kV>(d_o(0, 0),
                                    row_of<const Element>(args.d_o, sequence, first_token, query_head),
                                    args.d_o, rows(), kV);
      if constexpr (!kForward && kOutputs && kGated) {
        if (args.dgk.data != nullptr) {
          copy<Gate, kTileK, kK>(raw_gates(kLayout.carried), keys_of<const Gate>(args.dgk, first_token, head),
                                 args.dgk, rows(), valid_channels());
          if constexpr (kShape.gate_bytes == 2)
            copy<Gate, kTileK, kK>(raw_gates(kLayout.carried_low),
                                   keys_of<const Gate>(args.dk, first_token, head), args.dk, rows(),
                                   valid_channels());
        }
      }
    }
    copy_async_commit();
  }

  /// Makes the step's chunk and stage the current ones.
  GLA_DEVICE void open(Index step, Index steps) {
    const Index chunk = step / kHeads;
    first_token = first + (kForward ? chunk : steps / kHeads - 1 - chunk) * kChunk;
    slot = static_cast<int>(step % kShape.stages);
  }

  /// Waits for the step's tiles and makes P of them.
  GLA_DEVICE void prepare(Index step, Index steps) {
    copy_async_wait<kShape.stages - 1>();
    block_sync();
    open(step, steps);
    if constexpr (!kShape.element_is_bf16) {
      if constexpr (kKeys)
        split_values(row_of<const Element>(args.v, sequence, first_token, head), args.v,
                     [this](int part) { return v(0, part); });
      if constexpr (kQueries)
        split_values(row_of<const Element>(args.d_o, sequence, first_token,
                                           head * kHeads + static_cast<int>(step % kHeads)),
                     args.d_o, [this](int part) { return d_o(0, part); });
      block_sync();
    }
    if constexpr (kOutputs) {
      lower_triangle<kChunk, kPaddedV, kPartsV, kShape.score_parts, kShape.score_parts, Team>(
          [this](int part) { return d_o(0, part); }, [this](int part) { return v(0, part); },
          [this](int part) { return scores(part); });
      block_sync();
    }
  }

  /// Rows of value channels as bf16 parts.
  template <class TileOf>
  GLA_DEVICE void split_values(const Element* rows_from, const Tensor& tensor, TileOf tile_of) const {
    constexpr int kPairs = kPaddedV / 2;
    for (int i = thread_index(); i < kChunk * kPairs; i += kShape.threads()) {
      const int row = i / kPairs, column = i % kPairs * 2;
      const Element* from = rows_from + row * tensor.stride_token + column;
      const float low = row < rows() && column < kV ? to_float(from[0]) : 0.0f;
      const float high = row < rows() && column + 1 < kV ? to_float(from[1]) : 0.0f;
      Bits32 parts[kPartsV];
      split_bf16(low, high, parts);
      GLA_UNROLL
      for (int part = 0; part < kPartsV; ++part)
        *reinterpret_cast<Bits32*>(tile_of(part).at(row, column)) = parts[part];
    }
  }

  // ---- the walk --------------------------------------------------------------------------------------------------

  /// Where outputs lie staged: dq in the place of q, what is for dgk in that of gates, dk or the low part of x in that of k.
  /// What a thread stores there it loads anew by itself, so no barrier stands between.
  GLA_DEVICE void walk_chunk(Index step, Index steps) {
    prepare(step, steps);
    if (!walk_unit<kChunk>(0)) {
      GLA_UNROLL_BY(1)
      for (int i = 0; i < kChunk / kSubChunk; ++i) {
        const int row0 = (kForward ? i : kChunk / kSubChunk - 1 - i) * kSubChunk;
        if (row0 < rows()) walk_unit<kSubChunk>(row0);
      }
    }
    block_sync();
    if constexpr (kOutputs) {
      store_keys();
      if constexpr (kForward) store_queries(head);
    }
    start_loads(step + kShape.stages, steps);
  }

  template <int Tokens>
  GLA_DEVICE bool walk_unit(int row0) {
    Unit<Tokens> unit;
    if (!unit.find_factors(*this, row0)) return false;
    unit.enter(*this);
    if constexpr (kQueries) unit.add_queries(*this);
    unit.leave(*this);
    return true;
  }

  /// The same for the query heads of a group, whose tiles come one after the other.
  GLA_DEVICE void walk_group(Index step, Index steps) {
    Unit<kSubChunk> unit;
    for (int query = 0; query < kHeads; ++query) {
      prepare(step + query, steps);
      if (query == 0) {
        unit.find_factors(*this, 0);
        unit.enter(*this);
      }
      unit.add_queries(*this);
      if (query == kHeads - 1) unit.leave(*this);
      block_sync();
      if constexpr (kOutputs) {
        if constexpr (kForward) store_queries(head * kHeads + query);
        if (query == kHeads - 1) store_keys();
      }
      start_loads(step + query + kShape.stages, steps);
      open(step + query, steps);
    }
  }

  template <class T>
  GLA_DEVICE void put(const RawTile<T>& staged, const Tensor& tensor, Index of_head) const {
    if (tensor.data == nullptr) return;
    store_rows<T, kChunk, kTileK, row_alignment(kShape.head_dim_k, sizeof(T)), kShape.threads()>(
        keys_of<T>(tensor, first_token, of_head), tensor.stride_token, staged, rows(), valid_channels(),
        thread_index());
  }
  GLA_DEVICE void store_queries(int query_head) const { put(raw_q(), args.dq, query_head); }
  GLA_DEVICE void store_keys() const {
    if constexpr (kGated) put(raw_gates(), args.dgk, head);
    if (!kForward || (wants_flows() && kShape.gate_bytes == 2)) put(raw_k(), args.dk, head);
  }

  // ---- a unit: tokens with one pivot, or a direct sub-chunk --------------------------------------------------------

  /// Adds the sums of the warps that share key channels up in the first of them.
  template <int Tiles>
  GLA_DEVICE void add_members(float (&sums)[Tiles][4]) const {
    if constexpr (kSplit > 1) {
      const int group = warp_index() / kSplit;
      const auto plane = [&](int of_member) {
        return reinterpret_cast<float*>(shared + kLayout.exchange +
                                        (group * (kSplit - 1) + of_member - 1) * kLayout.exchange_plane) +
               lane_index();
      };
      if (!leads()) {
        GLA_UNROLL
        for (int i = 0; i < 4 * Tiles; ++i) plane(member())[i * kWarpSize] = sums[i / 4][i % 4];
      }
      part_sync<kSplit * kWarpSize>(1 + group);
      if (leads()) {
        for (int other = 1; other < kSplit; ++other) {
          GLA_UNROLL
          for (int i = 0; i < 4 * Tiles; ++i) sums[i / 4][i % 4] += plane(other)[i * kWarpSize];
        }
      }
      part_sync<kSplit * kWarpSize>(1 + group);
    }
  }

  /// sums += rows of the state times those of a tile of value channels: S dO^T or dU V^T, of the warp's columns.
  template <int Tokens, class TileOf>
  GLA_DEVICE void add_state_product(Sums<Tokens>& sums, TileOf tile_of) const {
    GLA_UNROLL
    for (int j = 0; j < kColumns / 16; ++j) {
      Bits32 a[kShape.state_parts][4];
      state.operand(a, j);
      GLA_UNROLL
      for (int t = 0; t < Tokens; t += 16) {
        Bits32 b[kPartsV][4];
        GLA_UNROLL
        for (int part = 0; part < kPartsV; ++part) load_b(b[part], tile_of(part), first_column() + 16 * j, t);
        multiply_parts<kShape.state_parts>(sums[t / 8], sums[t / 8 + 1], a, b);
      }
    }
  }

  /// state += operand times the rows of a tile of value channels: k^T V or q^T dO, of the warp's columns.
  template <int Tokens, class TileOf>
  GLA_DEVICE void add_to_state(const Words<Tokens>& words, TileOf tile_of) {
    GLA_UNROLL
    for (int j = 0; j < kColumns / 16; ++j) {
      GLA_UNROLL
      for (int t = 0; t < Tokens; t += 16) {
        Bits32 b[kPartsV][4];
        GLA_UNROLL
        for (int part = 0; part < kPartsV; ++part)
          load_b_transposed(b[part], tile_of(part), t, first_column() + 16 * j);
        multiply_parts<kShape.state_parts>(state.tiles[2 * j], state.tiles[2 * j + 1], words[t / 16], b);
      }
    }
  }

  /// sums += k^T P^T, or with `kTransposed` q^T P, of tokens from 16 * First on, `Blocks` blocks of them.
  template <int Tokens, bool kTransposed, int First, int Blocks>
  GLA_DEVICE void add_score_product(float (&sums)[2 * Blocks][4], const Words<Tokens>& words,
                                    int row0) const {
    GLA_UNROLL
    for (int from = 0; from < Tokens / 16; ++from) {
      GLA_UNROLL
      for (int to = First; to < First + Blocks; ++to) {
        if (kTransposed ? from < to : from > to) continue;
        Bits32 b[kShape.score_parts][4];
        GLA_UNROLL
        for (int part = 0; part < kShape.score_parts; ++part) {
          if constexpr (kTransposed) {
            load_b_transposed(b[part], scores(part), row0 + 16 * from, row0 + 16 * to);
          } else {
            load_b(b[part], scores(part), row0 + 16 * from, row0 + 16 * to);
          }
        }
        multiply_parts<kShape.score_parts>(sums[2 * (to - First)], sums[2 * (to - First) + 1], words[from],
                                           b);
      }
    }
  }

  /// Writes what a lane has of an octet pair of tokens in the place of a raw tile's. Where there are no channels no load
  /// writes, and what must stay zero may be NaN here.
  template <class T>
  GLA_DEVICE void stage_octets(float (&x)[2][2][2], const RawTile<T>& to, int row0) const {
    if constexpr (kK % 16 != 0) {
      GLA_UNROLL
      for (int i = 0; i < 8; ++i)
        if (lane_channel(i / 2 % 2) >= valid_rows()) x[i / 4][i / 2 % 2][i % 2] = 0;
    }
    if constexpr (sizeof(T) == 2) {
      Bits32 words[4];
      GLA_UNROLL
      for (int word = 0; word < 4; ++word)
        words[word] = pack<T>(x[word / 2][word % 2][0], x[word / 2][word % 2][1]);
      store_a_transposed(words, to.operand(), first_channel(), row0);
    } else {
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int row = row0 + TokenMap<16>::token(i / 4, i % 2);
        *reinterpret_cast<T*>(to.at(row, first_channel() + lane_channel(i / 2 % 2))) =
            from_float<T>(x[i / 4][i / 2 % 2][i % 2]);
      }
    }
  }

  template <int Tokens>
  struct Unit;
};

/// What a warp has of it, in the layout of LaneValues<16> (chunk_sums.cuh), 16 tokens after 16. A direct one differs: its
/// factors are exp2 of sums that are never above 0 for gates of at most 0, the state takes exp2(b_C) between the product and
/// the addition, and P's products are made element by element.
template <class Config, bool kForward, Pass kPass>
template <int Tokens>
struct KeyWalk<Config, kForward, kPass>::Unit {
  using Walk = KeyWalk;
  static constexpr bool kMayBeDirect = Tokens == kSubChunk && kGated;
  static constexpr int kPairs = Tokens / 16;

  int row0;
  bool direct = false;
  LaneValues<Tokens> of_q;     ///< log2 of q^ over scale q
  LaneValues<kSubChunk> of_k;  ///< of k^ over k, where it is not the negative of that: of a direct unit
  float before[2], middle[2], after[2];  ///< what the state takes, in the order of time
  Words<Tokens> k_words;                 ///< forward
  Sums<Tokens> sums;                     ///< dq^ of a query head, or dk^
  LaneValues<kSubChunk> apart;           ///< of a direct unit: what P adds to dk
  LaneValues<Tokens> flows;              ///< x, or dg without x

  GLA_DEVICE float log_q(int o, int c, int e) const { return kGated ? of_q[o][c][e] : 0.0f; }
  GLA_DEVICE float log_k(int o, int c, int e) const {
    if constexpr (!kGated) return 0.0f;
    if (kMayBeDirect && direct) return of_k[o % 2][c][e];
    return -of_q[o][c][e];
  }

  /// False if the tokens of a chunk may not have one pivot; a sub-chunk's that may not are direct.
  GLA_DEVICE bool find_factors(Walk& walk, int first_row) {
    row0 = first_row;
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) before[c] = middle[c] = after[c] = 1;
    if constexpr (kGated) {
      SumRange range;
      const RawTile<Gate> gates = walk.raw_gates();
      if (warp_any(sum_in_order(range, gates))) widen<Tokens>(range, of_q);
      Pivots pivots;
      const bool within = !warp_any(!Gates::find_pivots(pivots, range));
      if (!within && Tokens != kSubChunk) return false;
      direct = !within;
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        if (direct) {
          middle[c] = exp2_fast(kLog2E * range.last[c]);
        } else {
          before[c] = exp2_fast(pivots.pivot[c]);
          after[c] = exp2_fast(pivots.after(c));
        }
        walk.decay[c] += kLog2E * range.last[c];
        GLA_UNROLL
        for (int i = 0; i < Tokens / 4; ++i) {
          float& sum = of_q[i / 2][c][i % 2];
          sum = kLog2E * sum - (direct ? 0.0f : pivots.pivot[c]);
        }
      }
      if (kMayBeDirect && direct) keep_sums(walk, gates);
      count_path(walk);
    }
    return true;
  }

  /// Inclusive sums of the gates, in nats, as sum_gates() makes them in another order of tokens.
  GLA_DEVICE bool sum_in_order(SumRange& range, const RawTile<Gate>& gates) {
    Most<Gate> most;
    float total[2] = {};
    GLA_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      LaneValues<16> part;
      load_gates<16>(part, most.value, gates, row0 + 16 * pair, first_channel(), 0);
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        if (pair == 0) range.most[c] = sum_quad(lane_index() % 4 == 0 ? part[0][c][0] : 0.0f);
        const float all = sum_tokens<16>(part, c);
        GLA_UNROLL
        for (int i = 0; i < 4; ++i) of_q[2 * pair + i / 2][c][i % 2] = total[c] + part[i / 2][c][i % 2];
        total[c] += all;
        range.last[c] = range.least[c] = total[c];
      }
    }
    return most.rises();
  }

  /// Of a direct unit: sums from its end, because those from the beginning may be large, and all where every lane finds them.
  GLA_DEVICE void keep_sums(Walk& walk, const RawTile<Gate>& gates) {
    sum_gates_after(of_k, gates, row0, first_channel());
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int o = i / 4, c = i / 2 % 2, e = i % 2;
      of_k[o][c][e] *= kLog2E;
      if (leads())
        walk.cumulative()[TokenMap<16>::token(o, e) * kTileK + first_channel() + lane_channel(c)] =
            of_q[o][c][e];
    }
    warp_sync();
  }

  GLA_DEVICE void count_path(const Walk& walk) const {
    if (kForward && kOutputs && walk.args.path_counts != nullptr && thread_index() == 0 && walk.tile == 0)
      atomic_add(walk.args.path_counts + (direct ? 2 : Tokens == kChunk ? 0 : 1), 1);
  }

  /// The rows of an operand, before they are rounded.
  GLA_DEVICE void values_of_k(float (&x)[2][2][2], const Walk& walk, int pair) const {
    load_octets<16>(x, walk.raw_k(), row0 + 16 * pair, first_channel(), 0);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i)
      if constexpr (kGated)
        x[i / 4][i / 2 % 2][i % 2] *= exp2_fast(log_k(2 * pair + i / 4, i / 2 % 2, i % 2));
  }
  GLA_DEVICE void values_of_q(float (&x)[2][2][2], const Walk& walk, int pair) const {
    load_octets<16>(x, walk.raw_q(), row0 + 16 * pair, first_channel(), 0);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      x[i / 4][i / 2 % 2][i % 2] *=
          kGated ? walk.args.scale * exp2_fast(log_q(2 * pair + i / 4, i / 2 % 2, i % 2)) : walk.args.scale;
    }
  }
  /// What the parts of a word pair add up to.
  GLA_DEVICE static void values_of(float (&x)[2][2][2], const Bits32 (&words)[kParts][4]) {
    GLA_UNROLL
    for (int word = 0; word < 4; ++word) {
      float low = 0, high = 0;
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part) {
        low += low_of(words[part][word]);
        high += high_of(words[part][word]);
      }
      x[word / 2][word % 2][0] = low;
      x[word / 2][word % 2][1] = high;
    }
  }
  GLA_DEVICE void make_k(const Walk& walk) {
    GLA_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      float x[2][2][2];
      values_of_k(x, walk, pair);
      Gates::template split<kParts>(k_words[pair], x);
    }
  }
  GLA_DEVICE void make_q(Words<Tokens>& words, const Walk& walk) const {
    GLA_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      float x[2][2][2];
      values_of_q(x, walk, pair);
      Gates::template split<kParts>(words[pair], x);
    }
  }
  GLA_DEVICE void clear(LaneValues<Tokens>& values) const {
    GLA_UNROLL
    for (int i = 0; i < Tokens / 2; ++i) values[i / 4][i / 2 % 2][i % 2] = 0;
  }

  // ---- forward: dq and x; backward: dk and dg --------------------------------------------------------------------

  GLA_DEVICE void enter(Walk& walk) {
    if constexpr (kForward) {
      walk.state.scale(before);
      make_k(walk);
      clear(flows);
    } else if constexpr (!kOutputs) {
      walk.state.scale(after);
      walk.state.scale(middle);
    } else {
      walk.state.scale(after);
      clear_sums();
      walk.template add_state_product<Tokens>(sums, [&](int part) { return walk.v(row0, part); });
      walk.add_members(sums);
      walk.state.scale(middle);
      if constexpr (kMayBeDirect) clear(apart);
      if (walk.wants_flows() && leads()) sum_key_flows(walk);
    }
  }

  GLA_DEVICE void add_queries(Walk& walk) {
    Words<Tokens> q_words;
    if constexpr (kForward) {
      make_q(q_words, walk);
      clear_sums();
      walk.template add_state_product<Tokens>(sums, [&](int part) { return walk.d_o(row0, part); });
      walk.add_members(sums);
      if (!leads()) return;
      if (kMayBeDirect && direct) {
        finish_direct(walk);
      } else {
        walk.template add_score_product<Tokens, false, 0, kPairs>(sums, k_words, row0);
        if (walk.wants_flows()) add_flows(walk, q_words);
        stage_gradient(walk, walk.raw_q());
      }
    } else {
      make_q(q_words, walk);
      walk.template add_to_state<Tokens>(q_words, [&](int part) { return walk.d_o(row0, part); });
      if (!kOutputs || !leads()) return;
      if (kMayBeDirect && direct) {
        add_direct<true>(apart, walk, true);
      } else {
        walk.template add_score_product<Tokens, true, 0, kPairs>(sums, q_words, row0);
      }
    }
  }

  GLA_DEVICE void leave(Walk& walk) {
    if constexpr (kForward) {
      walk.state.scale(middle);
      walk.template add_to_state<Tokens>(k_words, [&](int part) { return walk.v(row0, part); });
      walk.state.scale(after);
      if (kOutputs && walk.wants_flows() && leads()) stage_flows(walk);
    } else {
      walk.state.scale(before);
      if (!kOutputs || !leads()) return;
      stage_gradient(walk, walk.raw_k());
      if (walk.wants_flows()) stage_gate_gradients(walk);
    }
  }

  GLA_DEVICE void clear_sums() {
    GLA_UNROLL
    for (int i = 0; i < Tokens / 2; ++i) sums[i / 4][i % 4] = 0;
  }

  /// dq = scale exp2(log q) dq^, or dk = exp2(log k) dk^ and in a direct unit what P adds.
  GLA_DEVICE void stage_gradient(const Walk& walk, const RawTile<Element>& to) const {
    warp_sync();  // others still read what is overwritten
    GLA_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      float x[2][2][2];
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = 2 * pair + i / 4, c = i / 2 % 2, e = i % 2;
        const float log = kForward ? log_q(o, c, e) : log_k(o, c, e);
        float value = sums[o][2 * c + e];
        if constexpr (kGated) value *= exp2_fast(log);
        if constexpr (kForward) value *= walk.args.scale;
        if constexpr (kMayBeDirect && !kForward) value += apart[i / 4][c][e];
        x[i / 4][c][e] = value;
      }
      walk.stage_octets(x, to, row0 + 16 * pair);
    }
  }

  /// flows += q^ dq^ - k^ (q^T P), of the very operands of the products, so that they telescope.
  GLA_DEVICE void add_flows(const Walk& walk, const Words<Tokens>& q_words) {
    add_pair_flows<0>(walk, q_words);
    if constexpr (kPairs > 1) add_pair_flows<1>(walk, q_words);
    if constexpr (kPairs > 2) {
      add_pair_flows<2>(walk, q_words);
      add_pair_flows<3>(walk, q_words);
    }
    static_assert(kPairs == 1 || kPairs == 2 || kPairs == 4);
  }
  template <int Pair>
  GLA_DEVICE void add_pair_flows(const Walk& walk, const Words<Tokens>& q_words) {
    float through[2][4] = {};
    walk.template add_score_product<Tokens, true, Pair, 1>(through, q_words, row0);
    float q[2][2][2], k[2][2][2];
    values_of(q, q_words[Pair]);
    values_of(k, k_words[Pair]);
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int o = i / 4, c = i / 2 % 2, e = i % 2;
      flows[2 * Pair + o][c][e] +=
          q[o][c][e] * sums[2 * Pair + o][2 * c + e] - k[o][c][e] * through[o][2 * c + e];
    }
  }

  /// x, of the sums from each token to the unit's last.
  GLA_DEVICE void stage_flows(const Walk& walk) {
    float behind[2] = {};
    GLA_UNROLL
    for (int pair = kPairs - 1; pair >= 0; --pair) {
      float x[2][2][2], rest[2][2][2];
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        GLA_UNROLL
        for (int o = 1; o >= 0; --o) {
          const float(&own)[2] = flows[2 * pair + o][c];
          float others;
          const float all = scan_quad<true>(others, own[0] + own[1]);
          x[o][c][1] = behind[c] + others + own[1];
          x[o][c][0] = x[o][c][1] + own[0];
          behind[c] += all;
        }
      }
      if constexpr (kShape.gate_bytes == 2) {
        GLA_UNROLL
        for (int i = 0; i < 8; ++i) {
          float& value = x[i / 4][i / 2 % 2][i % 2];
          rest[i / 4][i / 2 % 2][i % 2] = value - to_float(from_float<bf16>(value));
        }
        walk.stage_octets(x, walk.template raw_gates<bf16>(), row0 + 16 * pair);
        walk.stage_octets(rest, low_flows(walk), row0 + 16 * pair);
      } else {
        walk.stage_octets(x, walk.raw_gates(), row0 + 16 * pair);
      }
    }
  }
  GLA_DEVICE static RawTile<bf16> low_flows(const Walk& walk) {
    return {walk.raw_k().base, kLayout.key_row, kChunk, kTileK};
  }

  /// flows become dg without x: F and the sum over earlier tokens of k dk^in.
  GLA_DEVICE void sum_key_flows(Walk& walk) {
    float total[2] = {};
    GLA_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      float k[2][2][2];
      values_of_k(k, walk, pair);
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) {
        GLA_UNROLL
        for (int o = 0; o < 2; ++o) {
          float own[2];
          GLA_UNROLL
          for (int e = 0; e < 2; ++e) own[e] = k[o][c][e] * sums[2 * pair + o][2 * c + e];
          float others;
          const float all = scan_quad<false>(others, own[0] + own[1]);
          flows[2 * pair + o][c][0] = total[c] + others;
          flows[2 * pair + o][c][1] = total[c] + others + own[0];
          total[c] += all;
        }
      }
    }
    GLA_UNROLL
    for (int c = 0; c < 2; ++c) {
      walk.flow[c] -= total[c];  // F
      GLA_UNROLL
      for (int i = 0; i < Tokens / 4; ++i) flows[i / 2][c][i % 2] += walk.flow[c];
    }
  }

  GLA_DEVICE void stage_gate_gradients(Walk& walk) {
    GLA_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      float x[2][2][2], low[2][2][2];
      if constexpr (kShape.gate_bytes == 2) {
        load_octets<16>(x, walk.template raw_gates<bf16>(kLayout.carried), row0 + 16 * pair, first_channel(),
                        0);
        load_octets<16>(low, walk.template raw_gates<bf16>(kLayout.carried_low), row0 + 16 * pair,
                        first_channel(), 0);
      } else {
        load_octets<16>(x, walk.raw_gates(kLayout.carried), row0 + 16 * pair, first_channel(), 0);
      }
      GLA_UNROLL
      for (int i = 0; i < 8; ++i) {
        const int o = i / 4, c = i / 2 % 2, e = i % 2;
        if constexpr (kShape.gate_bytes == 2) x[o][c][e] += low[o][c][e];
        if (pair == 0 && o == 0 && e == 0) {  // D = F + x_first
          walk.flow[c] += sum_quad(lane_index() % 4 == 0 ? x[0][c][0] : 0.0f);
        }
        x[o][c][e] += flows[2 * pair + o][c][e];
      }
      walk.stage_octets(x, walk.raw_gates(), row0 + 16 * pair);
    }
  }

  // ---- direct ----------------------------------------------------------------------------------------------------

  GLA_DEVICE static float score(const Walk& walk, int i, int j) {
    float sum = 0;
    GLA_UNROLL
    for (int part = 0; part < kShape.score_parts; ++part)
      sum += to_float(*reinterpret_cast<const bf16*>(walk.scores(part).at(i, j)));
    return sum;
  }
  template <class T>
  GLA_DEVICE static float element(const RawTile<T>& tile, int row, int channel) {
    return to_float(*reinterpret_cast<const T*>(tile.at(row, channel)));
  }

  /// to += what P adds to dk (`kOfKeys`) or dq of each token, element by element; `diagonal`: its own too.
  template <bool kOfKeys>
  GLA_DEVICE void add_direct(LaneValues<kSubChunk>& to, const Walk& walk, bool diagonal) const {
    GLA_UNROLL_BY(1)
    for (int other = 0; other < kSubChunk; ++other) {
      GLA_UNROLL
      for (int n = 0; n < 8; ++n) {
        const int o = n / 4, c = n / 2 % 2, e = n % 2;
        const int token = TokenMap<16>::token(o, e), channel = first_channel() + lane_channel(c);
        const int i = kOfKeys ? other : token, j = kOfKeys ? token : other;
        if (j > i || (j == i && !diagonal)) continue;
        const float decay =
            exp2_fast(walk.cumulative()[i * kTileK + channel] - walk.cumulative()[j * kTileK + channel]);
        const float value =
            kOfKeys ? element(walk.raw_q(), row0 + i, channel) : element(walk.raw_k(), row0 + j, channel);
        to[o][c][e] += walk.args.scale * score(walk, row0 + i, row0 + j) * decay * value;
      }
    }
  }

  /// dq of a query head, and its part of the flows: a token's own term of P is in both of their sums and left out of both.
  GLA_DEVICE void finish_direct(const Walk& walk) {
    LaneValues<kSubChunk> of_dq, of_dk;
    GLA_UNROLL
    for (int i = 0; i < 8; ++i) of_dq[i / 4][i / 2 % 2][i % 2] = of_dk[i / 4][i / 2 % 2][i % 2] = 0;
    add_direct<false>(of_dq, walk, false);
    add_direct<true>(of_dk, walk, false);
    float dq[2][2][2];
    GLA_UNROLL
    for (int n = 0; n < 8; ++n) {
      const int o = n / 4, c = n / 2 % 2, e = n % 2;
      const int row = row0 + TokenMap<16>::token(o, e), channel = first_channel() + lane_channel(c);
      const float q = element(walk.raw_q(), row, channel), k = element(walk.raw_k(), row, channel);
      const float value = walk.args.scale * exp2_fast(of_q[o][c][e]) * sums[o][2 * c + e] + of_dq[o][c][e];
      flows[o][c][e] += q * value - k * of_dk[o][c][e];
      dq[o][c][e] = value + walk.args.scale * score(walk, row, row) * k;
    }
    warp_sync();
    walk.stage_octets(dq, walk.raw_q(), row0);
  }
};

}  // namespace gla
