// chunk_forward for warpgroups (sm_90a): the mathematics of chunk_forward.cuh in two teams. Tensor copies bring q, k, v and
// gates; producers turn them into operands, in place, and scores, a chunk ahead; consumers hold S^T, multiply (wgmma) and
// send the outputs off by tensor copies. A chunk passes through a stage of PipelineLayout's ring like this:
//   loaded     a transaction barrier: all its tiles have come
//   converted  one arrival per warp of the team of producers: its channels' operands and factors are there
//   made       one arrival per warp of the warpgroup whose turn it was: the scores are there too
//   a barrier of the consumers: all have used it, and the loads of the chunk that comes there next start
// `after` of a chunk and `before` of the next are one factor. A chunk that may not have one pivot, or no such factor, is
// loaded again, and consumers walk its sub-chunks by themselves (chunk_products.cuh).
#pragma once

#include "args.h"
#include "chunk_gates.cuh"
#include "chunk_layout.h"
#include "chunk_products.cuh"
#include "chunk_tiles.cuh"
#include "chunk_work.cuh"
#include "device/tensor_copy.cuh"
#include "device/warpgroup.cuh"
#include "team.cuh"
#include "warpgroup_products.cuh"

namespace gla {

template <class Config, Pass kPass>
class ChunkPipeline {
 public:
  GLA_DEVICE explicit ChunkPipeline(const TensorArgs& kernel_args) : args(kernel_args), work{kernel_args} {}

  GLA_DEVICE void run() {
    if (!work.find()) return;
    chunks = static_cast<int>(work.chunks());
    prepare_shared();
    if (warp_any(thread_index() >= Consumers::kThreads)) {
      if constexpr (kShape.moves_registers()) give_registers<kShape.producer_registers()>();
      produce();
    } else {
      if constexpr (kShape.moves_registers()) take_registers<kShape.consumer_registers()>();
      consume();
    }
  }

 private:
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr PipelineLayout kLayout{kShape};
  static constexpr int kStages = kShape.stages;
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  static constexpr int kChunk = kShape.chunk;
  static_assert(kShape.group_tile == 1 && kShape.element_is_bf16);
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  using Tiles = PipelineTiles<kShape, Element, Gate>;
  using Consumers = Team<0, kShape.warps(), 1>;
  static constexpr int kTeams = kShape.producers / kShape.team();
  /// The team of producers that this warp belongs to.
  struct Producers {
    static constexpr int kWarps = kShape.team(), kThreads = kWarpSize * kWarps;
    GLA_DEVICE static int of_all() { return warp_index() - Consumers::kWarps; }
    GLA_DEVICE static int team() { return of_all() / kWarps; }
    GLA_DEVICE static int warp() { return of_all() % kWarps; }
    GLA_DEVICE static int thread() { return warp() * kWarpSize + lane_index(); }
  };
  using Work = ChunkWork<Config, kPass>;
  using Products = ChunkProducts<Config, kPass, Tiles, Consumers>;

  const TensorArgs& args;
  Work work;
  int chunks = 0;

  GLA_DEVICE static Tiles tiles_of(int chunk) { return Tiles{shared_memory()}.of(chunk); }
  /// Of a chunk's passage through its stage.
  GLA_DEVICE static int parity_of(int chunk) { return chunk / kStages % 2; }

  GLA_DEVICE static void prepare_shared() {
    if (thread_index() == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        barrier_init(tiles_of(stage).loaded(), 1);
        barrier_init(tiles_of(stage).converted(), Producers::kWarps);
        barrier_init(tiles_of(stage).made(), 4);
        for (int warp = 0; warp < kShape.producers; ++warp) tiles_of(stage).failed()[warp] = 0;
      }
      barrier_init(tiles_of(0).reloaded(), 1);
    }
    if constexpr (kGated) {
      for (int i = thread_index(); i < kShape.padded_k(); i += kShape.threads()) tiles_of(0).decay()[i] = 0;
    }
    block_sync();
  }

  // ---- copies, each by one thread of the consumers ----------------------------------------------------------------

  GLA_DEVICE int first_token(int chunk) const {
    return static_cast<int>(work.sequence.begin + work.first) + chunk * kChunk;
  }

  static constexpr int kPanelBytes = kChunk * kPanelRowBytes;
  static constexpr int kGatePanels = PipelineLayout::panels(kShape.gate_bytes * kShape.padded_k());
  static constexpr int kPanels = (kOutputs ? 2 : 1) * kLayout.k_panels + kGatePanels + kLayout.v_panels;

  template <class T>
  GLA_DEVICE void load(const RawTile<T>& tile, const TensorMap& map, int first_channel, int chunk, int head,
                       unsigned long long* barrier) const {
    constexpr int kColumns = kPanelRowBytes / static_cast<int>(sizeof(T));
    GLA_UNROLL
    for (int column = 0; column < tile.columns; column += kColumns)
      tensor_load(tile.base + column / kColumns * tile.panel_bytes, &map, first_channel + column,
                  first_token(chunk), head, static_cast<int>(work.sequence.batch), barrier);
  }

  /// Called by all consumers; one of them acts.
  GLA_DEVICE void start_loads(int chunk, unsigned long long* barrier) const {
    if (!warp_any(Consumers::warp() == Consumers::kWarps - 1) || !elect_lane()) return;
    const Tiles tiles = tiles_of(chunk);
    const int head = static_cast<int>(work.head);
    barrier_arrive_expect(barrier, kPanels * kPanelBytes);
    if constexpr (kGated) load(tiles.raw_gates(), args.maps.gk, 0, chunk, head, barrier);
    load(tiles.raw_k(), args.maps.k, 0, chunk, head, barrier);
    if constexpr (kOutputs) load(tiles.raw_q(0), args.maps.q, 0, chunk, work.first_query_head, barrier);
    load(tiles.raw_v(), args.maps.v, work.tile * kShape.tile_v, chunk, head, barrier);
  }
  GLA_DEVICE void start_loads(int chunk) const {
    if (chunk < chunks) start_loads(chunk, tiles_of(chunk).loaded());
  }

  /// The same.
  GLA_DEVICE void start_store(int chunk) const {
    if (!warp_any(Consumers::warp() == 0) || !elect_lane()) return;
    const OperandTile out = tiles_of(chunk).template out<kChunk>();
    GLA_UNROLL
    for (int panel = 0; panel < kLayout.v_panels; ++panel)
      tensor_store(&args.maps.o, out.base + panel * out.panel_bytes,
                   work.tile * kShape.tile_v + panel * kPanelColumns, first_token(chunk),
                   work.first_query_head, static_cast<int>(work.sequence.batch));
    bulk_commit();
  }

  /// Whether a box of the chunk's tokens has tokens of another sequence, or of nobody.
  GLA_DEVICE bool is_cut(int chunk) const {
    return args.cu_seqlens != nullptr && work.rows_of(chunk) < kChunk;
  }

  // ---- producers -------------------------------------------------------------------------------------------------

  GLA_DEVICE void produce() const {
    using Gates = ChunkGates<Config, Tiles, Producers>;
    for (int chunk = Producers::team(); chunk < chunks; chunk += kTeams) {
      const Tiles tiles = tiles_of(chunk);
      barrier_wait(tiles.loaded(), parity_of(chunk));
      if (warp_any(is_cut(chunk))) zero_rows<Producers>(tiles, work.rows_of(chunk));
      const Gates gates{tiles, args.scale};
      float pivots[Gates::kChannelBlocks][2];
      bool within = gates.template replace_by_operands<kOutputs>(pivots, tiles.carried(chunk));
      fence_for_warpgroup();
      // The other team's chunk: its `carried` is needed, and its stage's phase, which this team's next wait relies on.
      if (kTeams > 1 && chunk > 0) barrier_wait(tiles_of(chunk - 1).converted(), parity_of(chunk - 1));
      if constexpr (kGated) {
        within &= gates.join_scaling(pivots, chunk > 0 ? tiles.carried(chunk - 1) : nullptr);
      }
      if (!within && lane_index() == 0) tiles.failed()[Producers::of_all()] = chunk + 1;
      arrive(tiles.converted());
      // The warpgroups of a team take turns: while one makes scores, the other can be a chunk ahead.
      if (kOutputs && warp_any(Producers::warp() / 4 == chunk / kTeams % (Producers::kWarps / 4))) {
        barrier_wait(tiles.converted(), parity_of(chunk));
        if (has_one_pivot(chunk)) WarpgroupScores<kShape, Tiles>{tiles}.make();
        arrive(tiles.made());
      }
    }
  }

  /// The arrival of a warp.
  GLA_DEVICE static void arrive(unsigned long long* barrier) {
    warp_sync();
    if (lane_index() == 0) barrier_arrive(barrier);
  }

  /// Once it is converted.
  GLA_DEVICE static bool has_one_pivot(int chunk) {
    if constexpr (!kGated) return true;
    return !warp_any(tiles_of(chunk).failed()[lane_index() % kShape.producers] == chunk + 1);
  }

  /// 0 * NaN must not leak from a packed neighbour. Each warp has its own channels of k and gates.
  template <class Team>
  GLA_DEVICE static void zero_rows(const Tiles& tiles, int rows) {
    const int from = rows * 16;
    for (int channel = 16 * Team::warp(); channel < kShape.padded_k(); channel += 16 * Team::kWarps) {
      for (int i = from + lane_index(); i < kChunk * 16; i += kWarpSize) {
        *reinterpret_cast<Element*>(tiles.raw_k().at(i / 16, channel + i % 16)) = Element{};
        if constexpr (kGated)
          *reinterpret_cast<Gate*>(tiles.raw_gates().at(i / 16, channel + i % 16)) = Gate{};
      }
    }
    constexpr int kRow = kShape.tile_v;
    for (int i = rows * kRow + Team::thread(); i < kChunk * kRow; i += Team::kThreads)
      *reinterpret_cast<Element*>(tiles.raw_v().at(i / kRow, i % kRow)) = Element{};
    warp_sync();
  }

  // ---- consumers -------------------------------------------------------------------------------------------------

  GLA_DEVICE void consume() {
    for (int stage = 0; stage < kStages; ++stage) start_loads(stage);
    ChunkState<kShape> state;
    work.load_state(state);
    int reloads = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const Tiles tiles = tiles_of(chunk);
      barrier_wait(kOutputs ? tiles.made() : tiles.converted(), parity_of(chunk));
      const Index token = Index{chunk} * kChunk;
      Products products{work, tiles, state};
      const bool whole = has_one_pivot(chunk);
      if (whole) {
        multiply(products, token);
      } else {
        walk_sub_chunks(products, chunk, reloads++ % 2);
      }
      if constexpr (kOutputs) fence_for_warpgroup();
      Consumers::sync();
      if (kOutputs && whole) {
        if (is_cut(chunk)) {
          products.template store_outputs<kChunk>(0, token);
        } else {
          start_store(chunk);
        }
      }
      start_loads(chunk + kStages);
    }
    if (kGated && chunks > 0) state.scale_by_exponents(tiles_of(0).carried(chunks - 1));
    work.store_state(state, tiles_of(0).decay());
    bulk_wait_read<0>();
  }

  /// Between sub-chunks the state is scaled with nothing.
  GLA_DEVICE void walk_sub_chunks(Products& products, int chunk, int parity) const {
    const Tiles& tiles = products.tiles;
    if (chunk > 0) products.state.scale_by_exponents(tiles.carried(chunk - 1));
    start_loads(chunk, tiles.reloaded());
    barrier_wait(tiles.reloaded(), parity);
    if (warp_any(is_cut(chunk))) zero_rows<Consumers>(tiles, work.rows_of(chunk));
    bulk_wait_read<0>();
    products.walk_sub_chunks(Index{chunk} * kChunk);
    products.state.unscale_by_exponents(tiles.carried(chunk));
  }

  /// A whole chunk up to its staged outputs. What is left to scale the state with stays in carried(chunk).
  GLA_DEVICE void multiply(Products& products, Index token) const {
    work.count_path(0);
    Work::add_decay(products.tiles.decay(), products.tiles.last());
    if constexpr (kGated) products.state.scale(products.tiles.before());
    WarpgroupProducts<kShape, Tiles> warpgroups{products.tiles, products.state};
    // The last chunk, which is most of what the walk leaves behind, takes every part of k^.
    const int k_parts = token + kChunk >= work.tokens ? kShape.k_parts(kChunk) : 1;
    if constexpr (kOutputs) {
      float sums[1][kChunk / 8][4];
      warpgroups.multiply(
          sums[0], k_parts,
          [&] {
            bulk_wait_read<0>();  // of the threads that store, behind which all may stage outputs again
            Consumers::sync();
          },
          [&] { products.template stage_outputs<kChunk>(sums); });
    } else {
      warpgroups.update(k_parts);
    }
  }
};

template <class Config, Pass kPass>
GLA_DEVICE void chunk_pipeline(const TensorArgs& args) {
  ChunkPipeline<Config, kPass>(args).run();
}

}  // namespace gla
