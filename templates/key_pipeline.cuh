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

#include "device/copy.cuh"
#include "device/launch.cuh"
#include "device/tensor_copy.cuh"
#include "device/warpgroup.cuh"
#include "key_products.cuh"
#include "key_unit.cuh"
#include "turned_args.cuh"
#include "warpgroup_products.cuh"

namespace gla {

template <class Config, bool kForward, Pass kPass>
class KeyPipeline : public KeyProducts<Config, kForward, kPass> {
  using Products = KeyProducts<Config, kForward, kPass>;
  template <class, bool>
  friend struct KeyUnit;
  template <class>
  friend struct KeySteep;

 public:
  /// The maps are of the kernel's parameter, whose address copies take.
  GLA_DEVICE explicit KeyPipeline(const BackwardTensorArgs& tensor_args)
      : Products(tensor_args), maps(tensor_args.maps), gradient_maps(tensor_args.gradient_maps) {}

  /// Segments' states and their gradients are found side by side; what stands behind dq may start beside it.
  GLA_DEVICE void run() {
    prepare_shared();
    if constexpr (kForward || kOutputs) {
      wait_for_earlier_kernels();
      let_next_kernel_start();
      walk_all();
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
  using typename Products::Element, typename Products::Gate, typename Products::GateGradient,
      typename Products::Sums, typename Products::Words;
  static constexpr KeyPipelineLayout kLayout{kShape, !kForward};
  static constexpr int kStages = kShape.stages;
  static constexpr int kGroupThreads = 4 * kWarpSize, kGroupChannels = 64;  // of a warpgroup
  static constexpr int kMemberThreads = kSplit * kGroupThreads;  // of those that share key channels
  static constexpr int kOwnTokens = kChunk / kFinishers;         // those that a warpgroup finishes
  static constexpr int kLeastColumns = 32;                       // of a warpgroup's product
  using OwnSums = float[kOwnTokens / 8][4];
  static_assert(kShape.element_is_bf16 && Products::kHeads == 1 && kSplit <= 2);
  static_assert(kTileK % kGroupChannels == 0 && kColumns % 32 == 0 && kShape.producers == 4);

  const TensorMaps& maps;
  const GradientMaps& gradient_maps;
  int chunks = 0;
  int chunk = 0;  ///< at hand, counted as they are walked

  // ---- tiles and barriers ------------------------------------------------------------------------------------------

  GLA_DEVICE unsigned char* stage() const { return shared + chunk % kStages * kLayout.stage_bytes; }
  template <class T>
  GLA_DEVICE static RawTile<T> panels(unsigned char* base, int columns) {
    return {base, kPanelRowBytes, kChunk, columns, kLayout.panel};
  }
  GLA_DEVICE RawTile<Element> raw_q() const { return panels<Element>(stage() + kLayout.q, kTileK); }
  GLA_DEVICE RawTile<Element> raw_k() const { return panels<Element>(stage() + kLayout.k, kTileK); }
  template <class T = Gate>
  GLA_DEVICE RawTile<T> raw_gates() const {
    return panels<T>(stage() + kLayout.gate, kTileK);
  }
  /// What the walk forward has left of a gate's gradient, and the low part of it; and where it leaves that.
  template <class T = GateGradient>
  GLA_DEVICE RawTile<T> carried() const {
    return panels<T>(shared + kLayout.carried, kTileK);
  }
  GLA_DEVICE RawTile<bf16> carried_low() const { return panels<bf16>(shared + kLayout.carried_low, kTileK); }
  GLA_DEVICE RawTile<bf16> low_flows() const { return panels<bf16>(stage() + kLayout.k, kTileK); }
  /// Where what is for dgk is staged: in the place of gates, if that is wide enough.
  GLA_DEVICE RawTile<GateGradient> staged_gates() const {
    if constexpr (kShape.fp32_gate_gradients) {
      return carried();
    } else {
      return raw_gates();
    }
  }
  GLA_DEVICE RawTile<Element> raw_v() const { return panels<Element>(stage() + kLayout.v, kPaddedV); }
  GLA_DEVICE RawTile<Element> raw_d_o() const { return panels<Element>(stage() + kLayout.d_o, kPaddedV); }
  /// What the state is multiplied with, and what it takes up products with.
  GLA_DEVICE RawTile<Element> read_values() const { return kForward ? raw_d_o() : raw_v(); }
  GLA_DEVICE RawTile<Element> added_values() const { return kForward ? raw_v() : raw_d_o(); }
  GLA_DEVICE OperandTile scores(int part) const {
    return {shared + kLayout.scores + part * kLayout.score_plane, kChunk, kChunk, kPanelRowBytes,
            kLayout.panel};
  }

  static constexpr bool kHasCarried = kOutputs && kGated && kShape.has_carried(!kForward);

  GLA_DEVICE unsigned long long* barrier(int offset) const {
    return reinterpret_cast<unsigned long long*>(shared + offset);
  }
  GLA_DEVICE unsigned long long* of_stage(int offset) const { return barrier(offset) + chunk % kStages; }
  /// Of the chunk's passage through its stage, and of its use of a single barrier.
  GLA_DEVICE int stage_parity() const { return chunk / kStages % 2; }
  GLA_DEVICE int parity() const { return chunk % 2; }
  /// The arrival of a warp.
  GLA_DEVICE static void arrive(unsigned long long* at) {
    warp_sync();
    if (lane_index() == 0) barrier_arrive(at);
  }

  GLA_DEVICE void prepare_shared() const {
    if (thread_index() == 0) {
      for (int i = 0; i < kStages; ++i) {
        barrier_init(barrier(kLayout.loaded) + i, 1);
        barrier_init(barrier(kLayout.made) + i, kShape.producers);
        barrier_init(barrier(kLayout.finished) + i, kShape.warps);
      }
      barrier_init(barrier(kLayout.used), kShape.warps);
      barrier_init(barrier(kLayout.carried_loaded), 1);
    }
    // Rows behind the last token, which some chunks stage nothing in, are in the boxes that are stored from there.
    if constexpr (kForward && kHasCarried)
      zero_shared<kShape.threads()>(shared + kLayout.carried, kLayout.gate_gradient_panels * kLayout.panel);
    block_sync();
  }

  // ---- copies, by one thread of the producers' first warp, which goes there as one ----------------------------------

  GLA_DEVICE void open(int step) {
    chunk = step;
    this->open_chunk(step, chunks);
  }
  /// Whether a box of the chunk's tokens has tokens of another sequence.
  GLA_DEVICE bool is_cut() const { return args.cu_seqlens != nullptr && this->rows() < kChunk; }

  /// Calls use(address, first column, first row) for each box of a tile.
  template <class T, class Use>
  GLA_DEVICE static void each_box(const RawTile<T>& of, Use use) {
    constexpr int kColumns = kPanelRowBytes / static_cast<int>(sizeof(T));
    GLA_UNROLL
    for (int column = 0; column < of.columns; column += kColumns) {
      GLA_UNROLL
      for (int row = 0; row < kChunk; row += Config::box_rows) use(of.at(row, column), column, row);
    }
  }
  GLA_DEVICE int token() const { return static_cast<int>(sequence.begin + first_token); }
  template <class T>
  GLA_DEVICE void load(const RawTile<T>& to, const TensorMap& map, int first_channel,
                       unsigned long long* loaded) const {
    each_box(to, [&](void* box, int column, int row) {
      tensor_load(box, &map, first_channel + column, token() + row, head, static_cast<int>(sequence.batch),
                  loaded);
    });
  }
  template <class T>
  GLA_DEVICE void store(const RawTile<T>& from, const TensorMap& map) const {
    each_box(from, [&](const void* box, int column, int row) {
      tensor_store(&map, box, tile * kTileK + column, token() + row, head, static_cast<int>(sequence.batch));
    });
  }

  GLA_DEVICE void start_loads(int step) {
    if (step >= chunks) return;
    open(step);
    if (!elect_lane()) return;
    constexpr int kPanels =
        ((kQueries ? 1 : 0) + (kKeys ? 1 : 0)) * (kLayout.key_panels + kLayout.value_panels) +
        kLayout.gate_panels;
    unsigned long long* const loaded = of_stage(kLayout.loaded);
    const int first_k = tile * kTileK;
    barrier_arrive_expect(loaded, kPanels * kLayout.panel);
    if constexpr (kGated) load(raw_gates(), maps.gk, first_k, loaded);
    if constexpr (kKeys) load(raw_k(), maps.k, first_k, loaded);
    if constexpr (kQueries) load(raw_d_o(), maps.v, 0, loaded);
    if constexpr (kKeys) load(raw_v(), gradient_maps.v, 0, loaded);
    if constexpr (kQueries) load(raw_q(), maps.q, first_k, loaded);
  }
  /// Going forward there is nothing to load there, but what is staged there must have been stored.
  GLA_DEVICE void start_carried(int step) {
    if constexpr (kHasCarried) {
      if (step >= chunks || !this->wants_flows()) return;
      open(step);
      if (!elect_lane()) return;
      unsigned long long* const loaded = barrier(kLayout.carried_loaded);
      constexpr int kPlanes = kForward ? 0 : kSplitsFlows ? 2 : 1;
      barrier_arrive_expect(loaded, kPlanes * kLayout.gate_gradient_panels * kLayout.panel);
      if constexpr (kPlanes > 0) load(carried(), gradient_maps.dgk, tile * kTileK, loaded);
      if constexpr (kPlanes > 1) load(carried_low(), gradient_maps.dk, tile * kTileK, loaded);
    }
  }

  /// Of staged outputs. Those of a chunk that is cut have been stored.
  GLA_DEVICE void store_outputs() const {
    if (!kOutputs || is_cut() || !elect_lane()) return;
    if (kForward && args.dq.data != nullptr) store(raw_q(), gradient_maps.dq);
    if constexpr (kGated) {
      if (this->wants_flows()) store(staged_gates(), gradient_maps.dgk);
    }
    if (stores_keys()) store(raw_k(), gradient_maps.dk);
    bulk_commit();
    bulk_wait_read<0>();
  }
  GLA_DEVICE bool stores_keys() const {
    return kForward ? this->leaves_low_flows() : args.dk.data != nullptr;
  }

  // ---- producers -----------------------------------------------------------------------------------------------------

  GLA_DEVICE static int producer() { return warp_index() - kShape.warps; }

  GLA_DEVICE void produce() {
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

  /// The operand that lies some bytes, a multiple of 16, behind another.
  GLA_DEVICE static MatrixDescriptor further(MatrixDescriptor descriptor, Index bytes) {
    return descriptor + static_cast<MatrixDescriptor>(bytes / 16);
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
      const auto bytes = along(values, channel) - values.base;
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
  /// Warpgroups that share key channels, and the first of these in the tile.
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

  /// Whether all warps of a warpgroup, whose products are one, have one pivot.
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
          warpgroup_multiply<kChunk, Contraction::along_rows>(
              sums, state_words[step * kParts + part],
              further(of_values, along(values, column) - values.base), column + part > 0);
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
    if constexpr (kSplit > 1) own.base += along(own, this->first_column()) - own.base;
    own.columns = kColumns;
    return own;
  }

  /// sums += the scores' part, and starts the update of the state.
  GLA_DEVICE void add_products(OwnSums& sums, Words& words, bool, bool) {
    if constexpr (!kOutputs) {
      add_update(words);
    } else if constexpr (kOwnTokens < kLeastColumns) {
      add_update(words);
      wait_for_scores();
      Products::add_score_products(
          sums, words, this->first_own() / 16,
          [this](Bits32(&b)[kShape.score_parts][4], int from, int to) { load_scores(b, from, to); });
      leave_scores();
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
