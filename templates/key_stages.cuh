// What key_pipeline.cuh's producers and consumers share: the tiles and barriers of KeyPipelineLayout's ring, and the copies that
// fill and empty it.
#pragma once

#include "device/copy.cuh"
#include "device/tensor_copy.cuh"
#include "device/warpgroup.cuh"
#include "key_products.cuh"

namespace gla {

template <class Config, bool kForward, Pass kPass>
struct KeyStages : KeyProducts<Config, kForward, kPass> {
  using Products = KeyProducts<Config, kForward, kPass>;
  using Products::args, Products::shared, Products::head, Products::tile, Products::sequence,
      Products::first_token;
  using Products::kChunk, Products::kTileK, Products::kPaddedV, Products::kOutputs, Products::kQueries,
      Products::kKeys, Products::kGated, Products::kShape, Products::kSplitsFlows;
  using typename Products::Element, typename Products::Gate, typename Products::GateGradient;

  /// The maps are of the kernel's parameter, whose address copies take.
  GLA_DEVICE explicit KeyStages(const BackwardTensorArgs& tensor_args)
      : Products(tensor_args), maps(tensor_args.maps), gradient_maps(tensor_args.gradient_maps) {}

  static constexpr KeyPipelineLayout kLayout{kShape, !kForward};
  static constexpr int kStages = kShape.stages;

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
};

}  // namespace gla
