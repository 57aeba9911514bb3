// The walks over key channels of chunk_backward by producers and warpgroups (sm_90a): the mathematics of key_walk.cuh, where
// the rows of the state, of operands and of sums that a warp has are 16 of the 64 of a warpgroup's products (wgmma). So
// everything stays in registers but P, and v and dO are operands as tensor copies bring them. Producers start the copies and
// make P; consumers, warpgroups of 64 key channels, do the rest. Two of them may share those, each with half of the value
// channels: they add up their sums, and then each finishes half of the chunk's tokens. A chunk passes through a stage of
// KeyPipelineLayout's ring:
//   loaded    a transaction barrier: all its tiles have come
//   made      one arrival per producer warp: P is there, and v and dO have zeros where there are no tokens
//   used      one arrival per consumer warp: nobody needs P any more (one barrier: there is one P)
//   finished  one arrival per consumer warp: outputs are staged; a producer stores them and loads the chunk that comes there
//   carried_loaded  a transaction barrier: what the other walk left of the gates' gradients has come, or going forward the
//                   place to stage it in, where there is one, is free again
// Warpgroups choose a chunk's path by themselves: with one pivot, or steep.
#pragma once

#include "device/launch.cuh"
#include "key_stages.cuh"
#include "key_unit.cuh"
#include "turned_args.cuh"
#include "warpgroup_products.cuh"

namespace gla {

template <class Config, bool kForward, Pass kPass>
class KeyPipeline : public KeyStages<Config, kForward, kPass> {
  using Products = KeyProducts<Config, kForward, kPass>;
  using Stages = KeyStages<Config, kForward, kPass>;
  template <class, bool>
  friend struct KeyUnit;
  template <class>
  friend struct KeySteep;

 public:
  using Stages::Stages;

  /// Segments' states and their gradients are found side by side; dv may start beside dq. What would only wait starts once dq is
  /// done: before, it would keep others from multiprocessors.
  GLA_DEVICE void run() {
    prepare_shared();
    if constexpr (kForward || kOutputs) {
      wait_for_earlier_kernels();
      if (args.values_aside == 0) let_next_kernel_start();
      walk_all();
      if (args.values_aside != 0) let_next_kernel_start();
    } else {
      run_beside(walks_forward(args), [this] { walk_all(); });
    }
  }

 private:
  GLA_DEVICE void walk_all() {
    if (!this->find_work()) return;
    chunks = static_cast<int>(this->count_chunks());
    if (warp_any(warp_index() >= kShape.warps)) {
      if constexpr (moves_registers(kShape)) give_registers<kShape.producer_registers()>();
      produce();
    } else {
      if constexpr (moves_registers(kShape)) take_registers<kShape.consumer_registers()>();
      consume();
    }
  }

  using Products::args, Products::shared, Products::head, Products::tile, Products::sequence,
      Products::first_token, Products::state;
  using Products::kChunk, Products::kTileK, Products::kK, Products::kV, Products::kPaddedV,
      Products::kOutputs, Products::kQueries, Products::kKeys, Products::kGated, Products::kShape,
      Products::kParts, Products::kSplitsFlows, Products::kColumns, Products::kSplit, Products::kFinishers;
  using Stages::barrier, Stages::of_stage, Stages::stage_parity, Stages::parity, Stages::arrive,
      Stages::prepare_shared, Stages::open, Stages::is_cut;
  using Stages::kLayout, Stages::kStages, Stages::kHasCarried, Stages::chunks, Stages::chunk;
  using Stages::raw_q, Stages::raw_k, Stages::raw_v, Stages::raw_d_o, Stages::carried, Stages::carried_low,
      Stages::low_flows, Stages::staged_gates, Stages::read_values, Stages::added_values, Stages::scores;
  using Stages::start_loads, Stages::start_carried, Stages::store_outputs, Stages::stores_keys;
  using typename Products::Element, typename Products::Gate, typename Products::GateGradient,
      typename Products::Sums, typename Products::Words;
  template <class T = Gate>
  GLA_DEVICE RawTile<T> raw_gates() const {
    return Stages::template raw_gates<T>();
  }
  static constexpr int kGroupThreads = 4 * kWarpSize, kGroupChannels = 64;  // of a warpgroup
  static constexpr int kMemberThreads = kSplit * kGroupThreads;  // of those that share key channels
  static constexpr int kOwnTokens = kChunk / kFinishers;         // those that a warpgroup finishes
  using OwnSums = float[kOwnTokens / 8][4];
  static_assert(kShape.element_is_bf16 && Products::kHeads == 1 && kSplit <= 2);
  static_assert(kTileK % kGroupChannels == 0 && kColumns % 32 == 0 && kShape.producers == 4);

  // ---- producers -----------------------------------------------------------------------------------------------------

  GLA_DEVICE static int producer() { return warp_index() - kShape.warps; }

  GLA_DEVICE void produce() {
    // A vote tells the compiler that the warp goes one way, which elect_lane() asks for.
    const bool copies = warp_any(producer() == 0);
    if (copies) {
      for (int step = 0; step < kStages; ++step) start_loads(step);
      start_carried(0);
    }
    for (int step = 0; step < chunks; ++step) {
      open(step);
      barrier_wait(of_stage(kLayout.loaded), stage_parity());
      if (warp_any(is_cut())) zero_values();
      if constexpr (kOutputs) {
        if (step > 0) barrier_wait(barrier(kLayout.used), 1 - parity());
        make_scores();
      }
      fence_for_warpgroup();
      arrive(of_stage(kLayout.made));
      if (copies && step > 0) pass_on(step - 1);
    }
    if (copies) pass_on(chunks - 1);
  }

  /// Stores the outputs of a chunk, and loads what comes in its place.
  GLA_DEVICE void pass_on(int step) {
    if (step < 0) return;
    open(step);
    barrier_wait(of_stage(kLayout.finished), stage_parity());
    store_outputs();
    start_loads(step + kStages);
    start_carried(step + 1);
  }

  /// 0 * NaN must not leak from a packed neighbour.
  GLA_DEVICE void zero_values() const {
    const int thread = producer() * kWarpSize + lane_index();
    GLA_UNROLL_BY(1)
    for (int i = this->rows() * kPaddedV + thread; i < kChunk * kPaddedV; i += kShape.producers * kWarpSize) {
      if constexpr (kKeys) *reinterpret_cast<Element*>(raw_v().at(i / kPaddedV, i % kPaddedV)) = Element{};
      if constexpr (kQueries)
        *reinterpret_cast<Element*>(raw_d_o().at(i / kPaddedV, i % kPaddedV)) = Element{};
    }
    fence_for_warpgroup();
    part_sync<kGroupThreads>(kProducersBarrier);
  }

  /// P = tril(dO V^T), by the producers' warpgroup.
  GLA_DEVICE void make_scores() const {
    Sums sums;
    const OperandTile values = raw_v().operand();
    const MatrixDescriptor rows = row_major_descriptor(raw_d_o().base),
                           columns = row_major_descriptor(values.base);
    warpgroup_pin(sums);
    warpgroup_fence();
    GLA_UNROLL
    for (int channel = 0; channel < kPaddedV; channel += kStep) {
      const int bytes = along(values, channel);
      warpgroup_multiply<kChunk, Contraction::along_rows, Contraction::along_rows>(
          sums, further(rows, bytes), further(columns, bytes), channel > 0);
    }
    warpgroup_commit();
    warpgroup_wait<0>();
    warpgroup_pin(sums);
    const int row = producer() * 16;
    if (row >= kChunk) return;  // a product has 64 rows, whatever the chunk
    GLA_UNROLL
    for (int part = 0; part < kShape.score_parts; ++part) {
      store_triangle<kChunk>(sums, scores(part), row, 0);
      GLA_UNROLL
      for (int i = 0; i < kChunk / 2; ++i)
        sums[i / 4][i % 4] -= to_float(from_float<bf16>(sums[i / 4][i % 4]));
    }
  }

  // ---- consumers -----------------------------------------------------------------------------------------------------

  static constexpr int kProducersBarrier = 1, kFirstGroupBarrier = 2;
  static constexpr int kFirstMembersBarrier = kFirstGroupBarrier + kShape.warps / 4;
  GLA_DEVICE static int group_barrier() { return kFirstGroupBarrier + Products::group(); }
  /// Which 64 key channels of the tile the warpgroup has, alone or with another.
  GLA_DEVICE static int members() { return Products::group() / kSplit; }
  GLA_DEVICE static void members_sync() { part_sync<kMemberThreads>(kFirstMembersBarrier + members()); }

  /// Steep chunks are walked outside of the loop of the others: what the compiler computes ahead for them, and has no registers
  /// for, is not in the way of those.
  GLA_DEVICE void consume() {
    this->begin();
    int step = 0;
    while (true) {
      GLA_UNROLL_BY(1)
      for (; step < chunks; ++step) {
        receive(step);
        if (!walk_gentle()) break;
        send();
      }
      if (step == chunks) break;
      if constexpr (kGated) walk_steep();
      send();
      ++step;
    }
    this->end([this](float(&sums)[1][4]) {
      float others[2] = {};
      meet();  // what the last chunk's trade left is still read
      trade(others, {sums[0][0], sums[0][1]});
      GLA_UNROLL
      for (int c = 0; c < 2; ++c) sums[0][c] += others[c];
    });
  }
  GLA_DEVICE void receive(int step) {
    open(step);
    barrier_wait(of_stage(kLayout.loaded), stage_parity());
    if (warp_any(is_cut())) zero_keys();
  }
  GLA_DEVICE void send() const {
    if (kOutputs && warp_any(is_cut())) store_cut();
    fence_for_warpgroup();
    arrive(of_stage(kLayout.finished));
  }

  GLA_DEVICE void wait_for_scores() const { barrier_wait(of_stage(kLayout.made), stage_parity()); }
  GLA_DEVICE void leave_scores() const {
    if constexpr (kOutputs) arrive(barrier(kLayout.used));
  }

  GLA_DEVICE bool walk_gentle() {
    KeyUnit<KeyPipeline, false> unit;
    if (!unit.find_factors(*this)) return false;
    // Zeros in v and dO. Without outputs for every chunk: nothing else keeps producers from falling a barrier's phase behind.
    if (!kOutputs || warp_any(is_cut())) wait_for_scores();
    walk_unit(unit);
    return true;
  }
  GLA_DEVICE void walk_steep() {
    KeySteep<KeyPipeline> steep;
    KeyUnit<KeyPipeline, true> unit;
    unit.steep = &steep;
    unit.find_factors(*this);
    wait_for_scores();
    walk_unit(unit);
    leave_scores();
  }
  template <bool kSteep>
  GLA_DEVICE void walk_unit(KeyUnit<KeyPipeline, kSteep>& unit) {
    unit.enter(*this);
    if constexpr (kQueries) unit.add_queries(*this);
    unit.leave(*this);
  }

  GLA_DEVICE void zero_keys() const {
    if constexpr (kKeys) zero_channels(raw_k());
    if constexpr (kQueries) zero_channels(raw_q());
    if constexpr (kGated) zero_channels(raw_gates());
    meet();
    warp_sync();
  }
  /// The warp's channels of tokens that it finishes where there are none.
  template <class T>
  GLA_DEVICE void zero_channels(const RawTile<T>& tile) const {
    const int first = this->rows() > this->first_own() ? this->rows() : this->first_own();
    GLA_UNROLL_BY(1)
    for (int i = first * 16 + lane_index(); i < (this->first_own() + kOwnTokens) * 16; i += kWarpSize)
      *reinterpret_cast<T*>(tile.at(i / 16, this->first_channel() + i % 16)) = T{};
  }

  /// Outputs of a chunk whose box has tokens of another sequence, each warpgroup its channels.
  GLA_DEVICE void store_cut() const {
    members_sync();
    if constexpr (kForward) put(raw_q(), args.dq);
    if constexpr (kGated) put(staged_gates(), args.dgk);
    if (stores_keys()) put(raw_k(), args.dk);
  }
  template <class T>
  GLA_DEVICE void put(const RawTile<T>& staged, const Tensor& tensor) const {
    if (tensor.data == nullptr) return;
    const int channel = members() * kGroupChannels, left = kK - tile * kTileK - channel;
    RawTile<T> own = staged;
    own.base += channel * static_cast<int>(sizeof(T)) / kPanelRowBytes * kLayout.panel;
    store_rows<T, kChunk, kGroupChannels, row_alignment(kK, sizeof(T)), kMemberThreads>(
        this->template keys_of<T>(tensor, head) + channel, tensor.stride_token, own, this->rows(),
        left < kGroupChannels ? left : kGroupChannels, thread_index() % kMemberThreads);
  }

  // ---- for KeyUnit ---------------------------------------------------------------------------------------------------

  /// Whether all warps of a warpgroup, whose products are one, have one pivot. Those that share key channels read the same gates,
  /// before either stages anything in their place (add_members() comes first), and so choose the same path.
  GLA_DEVICE static bool agree(bool within) {
    return warp_any(part_sync_and<kGroupThreads>(group_barrier(), within));
  }
  GLA_DEVICE void wait_for_carried() const {
    if constexpr (kHasCarried) barrier_wait(barrier(kLayout.carried_loaded), parity());
    if (kForward || !warp_any(is_cut())) return;
    zero_channels(carried());
    if constexpr (kSplitsFlows) zero_channels(carried_low());
    warp_sync();
  }
  /// Sums of the tokens that the warpgroup finishes become those of all members, and come first.
  GLA_DEVICE void add_members(Sums& sums) const {
    if constexpr (kFinishers > 1) {
      constexpr int kOwn = kOwnTokens / 2;  // of a lane
      const bool is_later = this->member > 0;
      float* const mine = exchanged<kOwn>(kLayout.exchange, this->member);
      const float* const others = exchanged<kOwn>(kLayout.exchange, 1 - this->member);
      GLA_UNROLL
      for (int i = 0; i < kOwn; ++i) {
        const float early = sums[i / 4][i % 4], late = sums[(kOwn + i) / 4][i % 4];
        mine[i * kGroupThreads] = is_later ? early : late;
        sums[i / 4][i % 4] = is_later ? late : early;
      }
      members_sync();
      GLA_UNROLL
      for (int i = 0; i < kOwn; ++i) sums[i / 4][i % 4] += others[i * kGroupThreads];
    }
  }
  /// Where a thread has the first of N values for its fellow of the other warpgroup, one warpgroup's kGroupThreads apart.
  template <int N>
  GLA_DEVICE float* exchanged(int offset, int of_member) const {
    return reinterpret_cast<float*>(shared + offset) + (members() * kSplit + of_member) * N * kGroupThreads +
           thread_index() % kGroupThreads;
  }
  /// Between two uses of add_members() the members meet, or trade single values, and between two trades the same.
  GLA_DEVICE static void meet() {
    if constexpr (kFinishers > 1) members_sync();
  }
  template <int N>
  GLA_DEVICE void trade(float (&others)[N], const float (&own)[N]) const {
    static_assert(4 * N <= kLayout.kTradedBytes);
    if constexpr (kFinishers > 1) {
      GLA_UNROLL
      for (int i = 0; i < N; ++i) exchanged<N>(kLayout.trade, this->member)[i * kGroupThreads] = own[i];
      members_sync();
      GLA_UNROLL
      for (int i = 0; i < N; ++i)
        others[i] = exchanged<N>(kLayout.trade, 1 - this->member)[i * kGroupThreads];
    }
  }

  static constexpr int kStateSteps = kColumns / kStep;
  /// Steps whose operands are made together. To make them while products of the batch before run is no faster: ptxas waits for
  /// those by itself (C7517), and the other warpgroup's products fill the gap.
  static constexpr int kBatch = 2;
  Bits32 state_words[kBatch * kParts]
                    [4];  ///< columns of the state as A operands, part after part of each step

  GLA_DEVICE void make_state_words(int batch) {
    GLA_UNROLL
    for (int step = 0; step < kBatch; ++step) {
      Bits32 parts[kParts][4];
      state.operand(parts, batch * kBatch + step);
      GLA_UNROLL
      for (int i = 0; i < 4 * kParts; ++i) state_words[step * kParts + i / 4][i % 4] = parts[i / 4][i % 4];
    }
  }

  /// Starts it.
  GLA_DEVICE void add_state_product(Sums& sums) {
    const OperandTile values = own_columns(read_values());
    const MatrixDescriptor of_values = row_major_descriptor(values.base);
    GLA_UNROLL
    for (int batch = 0; batch < kStateSteps / kBatch; ++batch) {
      if (batch > 0) finish_state_product(sums);
      make_state_words(batch);
      warpgroup_pin(state_words);
      warpgroup_pin(sums);
      warpgroup_fence();
      GLA_UNROLL
      for (int step = 0; step < kBatch; ++step) {
        const int column = (batch * kBatch + step) * kStep;
        GLA_UNROLL
        for (int part = 0; part < kParts; ++part)
          warpgroup_multiply<kChunk, Contraction::along_rows>(sums, state_words[step * kParts + part],
                                                              further(of_values, along(values, column)),
                                                              column + part > 0);
      }
      warpgroup_commit();
    }
  }
  GLA_DEVICE void finish_state_product(Sums& sums) {
    warpgroup_wait<0>();
    warpgroup_pin(state_words);
    warpgroup_pin(sums);
  }

  GLA_DEVICE void load_scores(Bits32 (&b)[kShape.score_parts][4], int from, int to) const {
    Products::load_scores(
        b, [this](int part) { return scores(part); }, from, to);
  }

  /// The warpgroup's columns of a tile of value channels.
  GLA_DEVICE OperandTile own_columns(const RawTile<Element>& values) const {
    OperandTile own = values.operand();
    if constexpr (kSplit > 1) own.base += along(own, this->first_column());
    own.columns = kColumns;
    return own;
  }

  /// sums += the scores' part, and starts the update of the state.
  GLA_DEVICE void add_products(OwnSums& sums, Words& words, bool, bool) {
    if constexpr (!kOutputs) {
      add_update(words);
    } else {
      wait_for_scores();
      pin(words);
      warpgroup_pin(sums);
      warpgroup_pin(state.tiles);
      warpgroup_fence();
      multiply_scores(sums, words);
      warpgroup_commit();
      start_update(words);
      warpgroup_wait<1>();
      warpgroup_pin(sums);
      leave_scores();
    }
  }
  GLA_DEVICE void add_update(Words& words) {
    pin(words);
    warpgroup_pin(state.tiles);
    warpgroup_fence();
    start_update(words);
  }
  GLA_DEVICE void start_update(const Words& words) {
    const OperandTile values = own_columns(added_values());
    const MatrixDescriptor of_values = column_major_descriptor(values.base, values.panel_bytes);
    GLA_UNROLL
    for (int i = 0; i < kChunk / 16; ++i) {
      GLA_UNROLL
      for (int part = 0; part < kParts; ++part)
        warpgroup_multiply<kColumns, Contraction::across_rows>(
            state.tiles, words[i][part], further(of_values, i * 16 * kPanelRowBytes), true);
    }
    warpgroup_commit();
  }
  GLA_DEVICE static void pin(Words& words) {
    GLA_UNROLL
    for (int i = 0; i < kChunk / 16; ++i) warpgroup_pin(words[i]);
  }

  GLA_DEVICE void multiply_scores(OwnSums& sums, const Words& words) const {
    constexpr Contraction kRows = kForward ? Contraction::along_rows : Contraction::across_rows;
    const OperandTile tile = scores(0);
    const MatrixDescriptor own =
        kForward ? row_major_descriptor(tile.base + this->first_own() * kPanelRowBytes)
                 : column_major_descriptor(tile.base + this->first_own() * 2, tile.panel_bytes);
    GLA_UNROLL
    for (int i = 0; i < kChunk / 16; ++i) {
      const int from = kForward ? i * kStep * 2 : i * kStep * kPanelRowBytes;
      GLA_UNROLL
      for (int p = 0; p < kParts; ++p) {
        GLA_UNROLL
        for (int r = 0; p + r < kParts; ++r)
          warpgroup_multiply<kOwnTokens, kRows>(sums, words[i][p],
                                                further(own, from + r * kLayout.score_plane), true);
      }
    }
  }

  /// The state, and the operands that it took up.
  GLA_DEVICE void finish_update(Words& words) {
    warpgroup_wait<0>();
    pin(words);
    warpgroup_pin(state.tiles);
  }
};

/// dq, and for the next one what it knows of the gates' gradients; or the states between segments.
template <class Config, Pass kPass>
GLA_DEVICE void query_pipeline(const BackwardTensorArgs& args) {
  KeyPipeline<Config, true, kPass>(args).run();
}

/// dk and the gates' gradients; or the gradients of the states between segments.
template <class Config, Pass kPass>
GLA_DEVICE void key_pipeline(const BackwardTensorArgs& args) {
  KeyPipeline<Config, false, kPass>(args).run();
}

}  // namespace gla
