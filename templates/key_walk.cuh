// The walks over key channels of chunk_backward: dq forward in time with the state S, dk and the gates' gradients backward
// with its gradient dS (DESIGN section 5, whose names are used here). With P = tril(dO V^T), which no gate touches,
//   forward    dq^ = dO S'^T + P k^       S  = after (.) (S' + k^T V)        S' = before (.) S
//   backward   dk^ = V dU^T + P^T q^      dS = before (.) (dU + q^T dO)      dU = after (.) dS
// A warp has its key channels of everything (key_work.cuh): rows of the state and, in the same lanes, those channels of all
// tokens of a chunk. So operands, sums over tokens and the choice of a path are each warp's own (key_unit.cuh), and only P is
// made by all. What the walk forward knows of the gates' gradients it leaves for the other one in the memory of dgk, of 16 bits
// as a sum of two in that of dgk and dk.
//
// Segmented, both walk each segment for its own share of the state before and behind it first (Pass::segment_states); scans
// chain those, and D is known behind every segment.
#pragma once

#include "device/copy.cuh"
#include "key_products.cuh"
#include "key_unit.cuh"
#include "triangle.cuh"

namespace gla {

/// By warps that all do the same.
template <class Config, bool kForward, Pass kPass>
class KeyWalk : public KeyProducts<Config, kForward, kPass> {
  using Products = KeyProducts<Config, kForward, kPass>;
  template <class, bool>
  friend struct KeyUnit;
  template <class>
  friend struct KeySteep;

 public:
  using Products::Products;

  GLA_DEVICE void run() {
    if (!this->find_work()) return;
    zero_shared<kShape.threads()>(shared, kLayout.raw_bytes);
    block_sync();
    this->begin();
    const Index steps = this->count_chunks() * kHeads;
    for (Index step = 0; step < kShape.stages; ++step) start_loads(step, steps);
    for (Index step = 0; step < steps; step += kHeads) {
      if constexpr (kHeads == 1) {
        walk_chunk(step, steps);
      } else {
        walk_group(step, steps);
      }
    }
    this->end([this](float(&sums)[1][4]) { add_members(sums); });
  }

 private:
  using Products::args, Products::shared, Products::head, Products::tile, Products::sequence,
      Products::first_token, Products::state;
  using Products::kChunk, Products::kTileK, Products::kSplit, Products::kK, Products::kV, Products::kPaddedV,
      Products::kOutputs, Products::kQueries, Products::kKeys, Products::kHeads, Products::kGated,
      Products::kPartsV, Products::kShape, Products::kSplitsFlows;
  using typename Products::Element, typename Products::Gate, typename Products::GateGradient,
      typename Products::Sums, typename Products::Team, typename Products::Words;
  static constexpr KeyWalkLayout kLayout{kShape, !kForward};

  int slot = 0;  ///< of the ring of stages

  // ---- tiles -----------------------------------------------------------------------------------------------------

  GLA_DEVICE unsigned char* stage() const { return shared + slot * kLayout.stage_bytes; }
  GLA_DEVICE RawTile<Element> raw_keys(int offset) const {
    return {stage() + offset, kLayout.key_row, kChunk, kTileK};
  }
  GLA_DEVICE RawTile<Element> raw_q() const { return raw_keys(kLayout.q); }
  GLA_DEVICE RawTile<Element> raw_k() const { return raw_keys(kLayout.k); }
  template <class T = Gate>
  GLA_DEVICE RawTile<T> raw_gates() const {
    return {stage() + kLayout.gate, kLayout.gate_row, kChunk, kTileK};
  }
  template <class T = GateGradient>
  GLA_DEVICE RawTile<T> gate_gradients_at(int offset) const {
    return {stage() + offset, kLayout.gate_gradient_row, kChunk, kTileK};
  }
  /// What the walk forward has left of a gate's gradient, and the low part of it; and where it leaves that.
  template <class T = GateGradient>
  GLA_DEVICE RawTile<T> carried() const {
    return gate_gradients_at<T>(kLayout.carried);
  }
  GLA_DEVICE RawTile<bf16> carried_low() const { return gate_gradients_at<bf16>(kLayout.carried_low); }
  GLA_DEVICE RawTile<bf16> low_flows() const { return {raw_k().base, kLayout.key_row, kChunk, kTileK}; }
  /// Where what is for dgk is staged: in the place of gates, if that is wide enough.
  GLA_DEVICE RawTile<GateGradient> staged_gates() const {
    if constexpr (kShape.fp32_gate_gradients) {
      return carried();
    } else {
      return raw_gates();
    }
  }
  GLA_DEVICE OperandTile values(int raw_offset, int parts_offset, int part) const {
    unsigned char* base =
        kShape.element_is_bf16 ? stage() + raw_offset : shared + parts_offset + part * kLayout.value_plane;
    return {base, kChunk, kPaddedV, kLayout.value_row};
  }
  GLA_DEVICE OperandTile v(int part) const { return values(kLayout.v, kLayout.v_operand, part); }
  GLA_DEVICE OperandTile d_o(int part) const { return values(kLayout.d_o, kLayout.d_o_operand, part); }
  GLA_DEVICE OperandTile scores(int part) const {
    return {shared + kLayout.scores + part * kLayout.score_plane, kChunk, kChunk, kLayout.score_row};
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
        copy<Gate, kTileK, kK>(raw_gates(), this->template keys_of<const Gate>(args.gk, head), args.gk,
                               this->rows(), this->valid_channels());
      if constexpr (kKeys)
        copy<Element, kTileK, kK>(raw_k(), this->template keys_of<const Element>(args.k, head), args.k,
                                  this->rows(), this->valid_channels());
      if constexpr (kQueries)
        copy<Element, kTileK, kK>(raw_q(), this->template keys_of<const Element>(args.q, query_head), args.q,
                                  this->rows(), this->valid_channels());
      if constexpr (kKeys && kShape.element_is_bf16)
        copy<Element, kPaddedV, kV>(v(0), row_of<const Element>(args.v, sequence, first_token, head), args.v,
                                    this->rows(), kV);
      if constexpr (kQueries && kShape.element_is_bf16)
        copy<Element, kPaddedV, kV>(d_o(0),
                                    row_of<const Element>(args.d_o, sequence, first_token, query_head),
                                    args.d_o, this->rows(), kV);
      if constexpr (!kForward && kOutputs && kGated) {
        if (args.dgk.data != nullptr) {
          copy<GateGradient, kTileK, kK>(carried(),
                                         this->template keys_of<const GateGradient>(args.dgk, head), args.dgk,
                                         this->rows(), this->valid_channels());
          if constexpr (kSplitsFlows)
            copy<GateGradient, kTileK, kK>(gate_gradients_at(kLayout.carried_low),
                                           this->template keys_of<const GateGradient>(args.dk, head), args.dk,
                                           this->rows(), this->valid_channels());
        }
      }
    }
    copy_async_commit();
  }

  /// Makes the step's chunk and stage the current ones.
  GLA_DEVICE void open(Index step, Index steps) {
    this->open_chunk(step / kHeads, steps / kHeads);
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
                     [this](int part) { return v(part); });
      if constexpr (kQueries)
        split_values(row_of<const Element>(args.d_o, sequence, first_token,
                                           head * kHeads + static_cast<int>(step % kHeads)),
                     args.d_o, [this](int part) { return d_o(part); });
      block_sync();
    }
    if constexpr (kOutputs) {
      lower_triangle<kChunk, kPaddedV, kPartsV, kShape.score_parts, kShape.score_parts, Team>(
          [this](int part) { return d_o(part); }, [this](int part) { return v(part); },
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
      const float low = row < this->rows() && column < kV ? to_float(from[0]) : 0.0f;
      const float high = row < this->rows() && column + 1 < kV ? to_float(from[1]) : 0.0f;
      Bits32 parts[kPartsV];
      split_bf16(low, high, parts);
      GLA_UNROLL
      for (int part = 0; part < kPartsV; ++part)
        *reinterpret_cast<Bits32*>(tile_of(part).at(row, column)) = parts[part];
    }
  }

  // ---- the walk --------------------------------------------------------------------------------------------------

  /// Where outputs lie staged: dq in the place of q, what is for dgk in staged_gates(), dk or the low part of x in that of k.
  /// What a thread stores there it loads anew by itself, so no barrier stands between.
  GLA_DEVICE void walk_chunk(Index step, Index steps) {
    prepare(step, steps);
    if (!walk_unit<false>()) {
      if constexpr (kGated) walk_unit<true>();
    }
    block_sync();
    if constexpr (kOutputs) {
      store_keys();
      if constexpr (kForward) store_queries(head);
    }
    start_loads(step + kShape.stages, steps);
  }

  template <bool kSteep>
  GLA_DEVICE bool walk_unit() {
    KeySteep<KeyWalk> steep;
    KeyUnit<KeyWalk, kSteep> unit;
    unit.steep = &steep;
    if (!unit.find_factors(*this)) return false;
    unit.enter(*this);
    if constexpr (kQueries) unit.add_queries(*this);
    unit.leave(*this);
    return true;
  }

  /// The same for the query heads of a group, whose tiles come one after the other. Warps may differ in which of the two they
  /// go through, and meet all the same.
  GLA_DEVICE void walk_group(Index step, Index steps) {
    prepare(step, steps);
    if (!walk_heads<false>(step, steps)) {
      if constexpr (kGated) walk_heads<true>(step, steps);
    }
  }
  template <bool kSteep>
  GLA_DEVICE bool walk_heads(Index step, Index steps) {
    KeySteep<KeyWalk> steep;
    KeyUnit<KeyWalk, kSteep> unit;
    unit.steep = &steep;
    if (!unit.find_factors(*this)) return false;
    unit.enter(*this);
    GLA_UNROLL_BY(1)
    for (int query = 0; query < kHeads; ++query) {
      if (query > 0) prepare(step + query, steps);
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
    return true;
  }

  template <class T>
  GLA_DEVICE void put(const RawTile<T>& staged, const Tensor& tensor, Index of_head) const {
    if (tensor.data == nullptr) return;
    store_rows<T, kChunk, kTileK, row_alignment(kShape.head_dim_k, sizeof(T)), kShape.threads()>(
        this->template keys_of<T>(tensor, of_head), tensor.stride_token, staged, this->rows(),
        this->valid_channels(), thread_index());
  }
  GLA_DEVICE void store_queries(int query_head) const { put(raw_q(), args.dq, query_head); }
  GLA_DEVICE void store_keys() const {
    if constexpr (kGated) put(staged_gates(), args.dgk, head);
    if (!kForward || this->leaves_low_flows()) put(raw_k(), args.dk, head);
  }

  // ---- for KeyUnit -----------------------------------------------------------------------------------------------

  GLA_DEVICE static bool agree(bool within) { return !warp_any(!within); }
  GLA_DEVICE static void wait_for_carried() {}
  GLA_DEVICE void add_state_product(Sums& sums) const {
    Products::add_state_product(sums, [this](int part) { return kForward ? d_o(part) : v(part); });
  }
  GLA_DEVICE static void finish_state_product(Sums&) {}
  GLA_DEVICE void load_scores(Bits32 (&b)[kShape.score_parts][4], int from, int to) const {
    Products::load_scores(
        b, [this](int part) { return scores(part); }, from, to);
  }
  /// sums += the scores' part, k^T P^T or going back q^T P; and the update of the state.
  GLA_DEVICE void add_products(Sums& sums, const Words& words, bool with_scores, bool with_update) {
    if (with_scores) {
      GLA_UNROLL
      for (int from = 0; from < kChunk / 16; ++from) {
        GLA_UNROLL
        for (int to = 0; to < kChunk / 16; ++to) {
          if (kForward ? from > to : from < to) continue;
          Bits32 b[kShape.score_parts][4];
          load_scores(b, from, to);
          multiply_parts<kShape.score_parts>(sums[2 * to], sums[2 * to + 1], words[from], b);
        }
      }
    }
    if (with_update) add_update(words);
  }
  GLA_DEVICE void add_update(const Words& words) {
    this->add_to_state(words, [this](int part) { return kForward ? v(part) : d_o(part); });
  }
  GLA_DEVICE static void finish_update(Words&) {}
  // One of the members finishes all, and needs nothing of the others for it.
  GLA_DEVICE static void meet() {}
  template <int N>
  GLA_DEVICE static void trade(float (&)[N], const float (&)[N]) {}
  /// Adds the sums of the warps that share key channels up in the first of them. The block meets before it does so again.
  template <int Tiles>
  GLA_DEVICE void add_members(float (&sums)[Tiles][4]) const {
    if constexpr (kSplit > 1) {
      const int group = warp_index() / kSplit;
      const auto plane = [&](int of_member) {
        return reinterpret_cast<float*>(shared + kLayout.exchange +
                                        (group * (kSplit - 1) + of_member - 1) * kLayout.exchange_plane) +
               lane_index();
      };
      if (!this->leads()) {
        GLA_UNROLL
        for (int i = 0; i < 4 * Tiles; ++i) plane(this->member)[i * kWarpSize] = sums[i / 4][i % 4];
      }
      part_sync<kSplit * kWarpSize>(1 + group);
      if (this->leads()) {
        for (int other = 1; other < kSplit; ++other) {
          GLA_UNROLL
          for (int i = 0; i < 4 * Tiles; ++i) sums[i / 4][i % 4] += plane(other)[i * kWarpSize];
        }
      }
    }
  }
};

}  // namespace gla
