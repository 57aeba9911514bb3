// chunk_forward for warpgroups (sm_90a): the mathematics of chunk_forward.cuh in two teams. Tensor copies bring q, k, v and
// gates; producers turn them into operands, in place, and scores, a chunk ahead; consumers hold S^T, multiply (wgmma) and
// send the outputs off by tensor copies. A chunk passes through a stage of PipelineLayout's ring like this:
//   loaded     a transaction barrier: all its tiles have come
//   converted  one arrival per warp of the team of producers: its channels' operands and factors are there
//   made       one arrival per warp of the warpgroups that had a part in them: the scores are there too, where it has any
//   a barrier of the consumers: all have used it, and the loads of the chunk that comes there next start
// The blocks of a cluster do this each with their key channels, and exchange the sums of outputs (cluster_sums.cuh).
// `after` of a chunk and `before` of the next are one factor (going back, `before` of a chunk and `after` of the one in front of
// it). For a chunk that may not have one pivot, or no such factor, producers make other operands (steep_chunk.cuh), loading again
// what they have replaced, and consumers scale the state between its products.
#pragma once

#include "args.h"
#include "chunk_gates.cuh"
#include "chunk_layout.h"
#include "chunk_products.cuh"
#include "chunk_tiles.cuh"
#include "chunk_work.cuh"
#include "cluster_sums.cuh"
#include "device/cluster.cuh"
#include "device/launch.cuh"
#include "device/tensor_copy.cuh"
#include "device/warpgroup.cuh"
#include "steep_chunk.cuh"
#include "team.cuh"
#include "warpgroup_products.cuh"

namespace gla {

template <class Config, Pass kPass>
class ChunkPipeline {
 public:
  /// The maps are of the kernel's parameter, whose address copies take.
  GLA_DEVICE ChunkPipeline(const KernelArgs& kernel_args, const TensorMaps& tensor_maps)
      : args(kernel_args), maps(tensor_maps), work{kernel_args} {}

  GLA_DEVICE void run() {
    prepare_shared();
    let_next_kernel_start();
    wait_for_earlier_kernels();
    walk_all();
  }
  /// The same for those that order kernels otherwise.
  GLA_DEVICE void run_beside(bool beside) {
    prepare_shared();
    gla::run_beside(beside, [this] { walk_all(); });
  }

 private:
  GLA_DEVICE void walk_all() {
    if (!work.find()) return;
    chunks = static_cast<int>(work.chunks());
    if (warp_any(thread_index() >= Consumers::kThreads)) {
      if constexpr (kShape.moves_registers()) give_registers<kShape.producer_registers()>();
      produce();
    } else {
      if constexpr (kShape.moves_registers()) take_registers<kShape.consumer_registers()>();
      consume();
    }
  }

  static constexpr ChunkShape kShape = Config::shape;
  static constexpr PipelineLayout kLayout{kShape};
  static constexpr int kStages = kShape.stages;
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  static constexpr bool kSends = kOutputs && kShape.cluster > 1;
  static constexpr int kChunk = kShape.chunk;
  static constexpr int kHeads = kShape.group_tile;
  static_assert(kShape.element_is_bf16 && (kHeads <= 1 || kShape.cluster == 1) && kOutputs == (kHeads > 0));
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  using Tiles = PipelineTiles<kShape, Element, Gate>;
  using Consumers = Team<0, kShape.warps(), 1>;
  static constexpr int kTeams = kShape.teams();
  static_assert(kStages >= kTeams);  // a team has seen the last passage through the stage that it waits at
  /// The team of producers that this warp belongs to.
  struct Producers {
    static constexpr int kWarps = kShape.team(), kThreads = kWarpSize * kWarps;
    GLA_DEVICE static int of_all() { return warp_index() - Consumers::kWarps; }
    GLA_DEVICE static int team() { return kTeams == 1 ? 0 : of_all() / kWarps; }
    GLA_DEVICE static int warp() { return kTeams == 1 ? of_all() : of_all() % kWarps; }
    GLA_DEVICE static int thread() { return warp() * kWarpSize + lane_index(); }
    GLA_DEVICE static void sync() { part_sync<kThreads>(kTeamBarrier + team()); }
  };
  /// Of the first team; the others' follow.
  static constexpr int kTeamBarrier = WarpgroupScores<kShape, Tiles>::kFirstBarrier;
  /// A team's warpgroups, and how many of them make the scores of one chunk: heads' in turns, else whole chunks'.
  static constexpr int kScorers = Producers::kWarps / 4;
  static constexpr int kScorePairs = (kHeads + 1) / 2;
  static constexpr int kTogether = kScorePairs < kScorers ? 1 : kScorers;
  using Work = ChunkWork<Config, kPass>;
  using Products = ChunkProducts<Config, kPass, Tiles, Consumers>;

  const KernelArgs& args;
  const TensorMaps& maps;
  Work work;
  int chunks = 0;

  /// Whether a chunk has outputs. The first ones of an overlapping segment's walk have none, but come to `made` as all do.
  GLA_DEVICE bool has_outputs(int chunk) const { return kOutputs && (!Work::kLeads || chunk >= work.lead); }

  /// The gradients of v may be unwanted where that of the initial state is not.
  GLA_DEVICE bool stores() const { return !kShape.value_gradients || args.o.data != nullptr; }

  /// A chunk's place in time; everything else counts chunks as they are walked.
  GLA_DEVICE int place_of(int chunk) const { return kShape.value_gradients ? chunks - 1 - chunk : chunk; }

  GLA_DEVICE static Tiles tiles_of(int chunk) { return Tiles{shared_memory()}.of(chunk); }
  /// Of a chunk's passage through its stage.
  GLA_DEVICE static int parity_of(int chunk) { return chunk / kStages % 2; }

  GLA_DEVICE void prepare_shared() const {
    if (thread_index() == 0) {
      if constexpr (kGated) prefetch_map(maps.gk);
      prefetch_map(maps.k);
      prefetch_map(maps.v);
      if constexpr (kOutputs) prefetch_map(maps.q);
      if (kOutputs && stores()) prefetch_map(maps.o);
      for (int stage = 0; stage < kStages; ++stage) {
        barrier_init(tiles_of(stage).loaded(), 1);
        barrier_init(tiles_of(stage).converted(), Producers::kWarps);
        barrier_init(tiles_of(stage).made(), 4 * kTogether);
        for (int warp = 0; warp < kShape.producers; ++warp) tiles_of(stage).failed()[warp] = 0;
      }
      for (int team = 0; team < kTeams; ++team) barrier_init(tiles_of(0).reloaded(team), 1);
    }
    if constexpr (kSends) {
      if (warp_index() < Consumers::kWarps && lane_index() < 2)
        barrier_init(tiles_of(0).received(lane_index()), 1);
    }
    if constexpr (kGated) {
      for (int i = thread_index(); i < kShape.padded_k(); i += kShape.threads()) tiles_of(0).decay()[i] = 0;
    }
    if constexpr (kSends) {
      cluster_sync();
    } else {
      block_sync();
    }
  }

  // ---- copies, by threads of the consumers ------------------------------------------------------------------------

  GLA_DEVICE int first_token(int chunk) const {
    return static_cast<int>(work.sequence.begin + work.first) + place_of(chunk) * kChunk;
  }

  static constexpr int kPanelBytes = kChunk * kPanelRowBytes;
  static constexpr int kGatePanels = PipelineLayout::panels(kShape.gate_bytes * kShape.padded_k());
  static constexpr int kQueryPanels = kHeads * kLayout.k_panels;
  static constexpr int kPanels = kLayout.k_panels + kQueryPanels + kGatePanels + kLayout.v_panels;

  template <class T>
  GLA_DEVICE void load(const RawTile<T>& tile, const TensorMap& map, int first_channel, int chunk, int head,
                       unsigned long long* barrier) const {
    constexpr int kColumns = kPanelRowBytes / static_cast<int>(sizeof(T));
    GLA_UNROLL
    for (int column = 0; column < tile.columns; column += kColumns) {
      GLA_UNROLL
      for (int row = 0; row < kChunk; row += Config::box_rows)
        tensor_load(tile.at(row, column), &map, first_channel + column, first_token(chunk) + row, head,
                    static_cast<int>(work.sequence.batch), barrier);
    }
  }

  /// By one thread: what operands have replaced.
  GLA_DEVICE void load_again(int chunk, bool with_queries, unsigned long long* barrier) const {
    const Tiles tiles = tiles_of(chunk);
    constexpr int kOfKeys = kLayout.k_panels + kGatePanels;
    barrier_arrive_expect(barrier, (kOfKeys + (with_queries ? kQueryPanels : 0)) * kPanelBytes);
    if constexpr (kGated) load(tiles.raw_gates(), maps.gk, work.first_k(), chunk, work.head, barrier);
    load(tiles.raw_k(), maps.k, work.first_k(), chunk, work.head, barrier);
    GLA_UNROLL_BY(1)
    for (int q = 0; q < kHeads && with_queries; ++q)
      load(tiles.raw_q(q), maps.q, work.first_k(), chunk, work.first_query_head + q, barrier);
  }

  /// Called by all consumers; two of them act.
  GLA_DEVICE void start_loads(int chunk) const {
    if (chunk >= chunks) return;
    const bool with_queries = has_outputs(chunk);
    const bool first = warp_any(Consumers::warp() == Consumers::kWarps - 1);
    if ((!first && !warp_any(Consumers::warp() == Consumers::kWarps / 2 - 1)) || !elect_lane()) return;
    const Tiles tiles = tiles_of(chunk);
    const int head = work.head, first_k = work.first_k();
    unsigned long long* barrier = tiles.loaded();
    if (first) {
      barrier_arrive_expect(barrier, (with_queries ? kPanels : kPanels - kQueryPanels) * kPanelBytes);
      if constexpr (kGated) load(tiles.raw_gates(), maps.gk, first_k, chunk, head, barrier);
      load(tiles.raw_k(), maps.k, first_k, chunk, head, barrier);
    } else {
      for (int q = 0; q < kHeads && with_queries; ++q)
        load(tiles.raw_q(q), maps.q, first_k, chunk, work.first_query_head + q, barrier);
      load(tiles.raw_v(), maps.v, work.tile * kShape.tile_v, chunk, head, barrier);
    }
  }

  /// The same, of staged outputs.
  GLA_DEVICE void start_store(const Tiles& tiles, int chunk) const {
    if (!warp_any(Consumers::warp() == 0) || !elect_lane()) return;
    GLA_UNROLL
    for (int head = 0; head < kHeads; ++head) {
      GLA_UNROLL
      for (int v = 0; v < kShape.out_v(); v += kPanelColumns) {
        GLA_UNROLL
        for (int row = 0; row < kChunk; row += Config::box_rows)
          tensor_store(&maps.o, tiles.template out<kRows>().at(head * kChunk + row, v),
                       work.first_out_v() + v, first_token(chunk) + row, work.first_query_head + head,
                       static_cast<int>(work.sequence.batch));
      }
    }
    bulk_commit();
  }

  GLA_DEVICE int rows_of(int chunk) const { return work.rows_of(place_of(chunk)); }
  GLA_DEVICE Index first_token_of_walk(int chunk) const { return Index{place_of(chunk)} * kChunk; }

  /// Whether a box of the chunk's tokens has tokens of another sequence, or of nobody.
  GLA_DEVICE bool is_cut(int chunk) const { return args.cu_seqlens != nullptr && rows_of(chunk) < kChunk; }

  // ---- producers -------------------------------------------------------------------------------------------------

  GLA_DEVICE void produce() const {
    int chunk = Producers::team(), reloads = 0;
    if constexpr (Work::kLeads) produce<false>(work.lead, chunk, reloads);
    produce<kOutputs>(chunks, chunk, reloads);
  }

  /// Chunks from `chunk` on, as far as `end`.
  template <bool WithOutputs>
  GLA_DEVICE void produce(int end, int& chunk, int& reloads) const {
    using Gates = ChunkGates<Config, Tiles, Producers>;
    for (; chunk < end; chunk += kTeams) {
      const Tiles tiles = tiles_of(chunk);
      barrier_wait(tiles.loaded(), parity_of(chunk));
      if (warp_any(is_cut(chunk))) zero_rows(tiles, rows_of(chunk));
      const Gates gates{tiles, args.scale};
      float entry[Gates::kChannelBlocks][2];
      const int replaced = gates.template replace_by_operands<WithOutputs>(entry, tiles.carried(chunk));
      bool within = replaced == Gates::kChannelBlocks;
      fence_for_warpgroup();
      // The other team's chunk: its `carried` is needed, and its stage's phase, which this team's next wait relies on.
      if (kTeams > 1 && chunk > 0) barrier_wait(tiles_of(chunk - 1).converted(), parity_of(chunk - 1));
      if constexpr (kGated) {
        within &=
            gates.template join_scaling<WithOutputs>(entry, chunk > 0 ? tiles.carried(chunk - 1) : nullptr);
      }
      if (!within && lane_index() == 0)
        tiles.failed()[Producers::of_all()] = replaced == 0 ? -(chunk + 1) : chunk + 1;
      arrive(tiles.converted());
      if constexpr (kOutputs) {
        // Where one warpgroup makes all scores of a chunk, the other can be a chunk ahead.
        const int first = (Producers::warp() / 4 + chunk / kTeams) % kScorers;
        const bool scores = warp_any(first < kTogether);
        barrier_wait(tiles.converted(), parity_of(chunk));
        if constexpr (WithOutputs) {
          if (!has_one_pivot(chunk)) {
            if constexpr (kGated) make_steep(chunk, reloads);
          } else if (scores) {
            GLA_UNROLL_BY(1)
            for (int pair = 0; pair < kScorePairs; pair += kTogether) {
              const int mine = kTogether > 1 ? first : 0;  // a constant where there is one pair
              WarpgroupScores<kShape, Tiles>{tiles, 2 * (pair + mine)}.make();
            }
          }
        }
        if (scores) arrive(tiles.made());
      }
    }
  }

  /// By the team whose chunk it is. Operands of k and gates take their place with every query head.
  GLA_DEVICE void make_steep(int chunk, int& reloads) const {
    const Tiles tiles = tiles_of(chunk);
    const unsigned int lane = opaque(static_cast<unsigned int>(lane_index()));
    const int warp = Producers::team() * Producers::kWarps + static_cast<int>(lane % Producers::kWarps);
    const bool is_intact = !warp_any(tiles.failed()[warp] != -(chunk + 1));
    GLA_UNROLL_BY(1)
    for (int head = 0; head < kHeads; ++head) {
      if (head > 0 || !is_intact) {
        unsigned long long* reloaded = tiles.reloaded(Producers::team());
        if (warp_any(Producers::warp() == 0) && elect_lane()) load_again(chunk, head == 0, reloaded);
        barrier_wait(reloaded, reloads++ % 2);
        if (warp_any(is_cut(chunk))) {
          zero_rows(tiles, rows_of(chunk));
          Producers::sync();
        }
      }
      SteepChunk<Config, Tiles, Producers>{tiles, head, args.scale}.make();
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
    const int failed = tiles_of(chunk).failed()[lane_index() % kShape.producers];
    return !warp_any(failed == chunk + 1 || failed == -(chunk + 1));
  }

  /// 0 * NaN must not leak from a packed neighbour. Each warp has its own channels of gates and of what the state takes up: k,
  /// going back q.
  GLA_DEVICE static void zero_rows(const Tiles& tiles, int rows) {
    const int from = rows * 16;
    for (int channel = 16 * Producers::warp(); channel < kShape.padded_k();
         channel += 16 * Producers::kWarps) {
      GLA_UNROLL_BY(1)
      for (int i = from + lane_index(); i < kChunk * 16; i += kWarpSize) {
        const RawTile<Element> added = kShape.value_gradients ? tiles.raw_q(0) : tiles.raw_k();
        *reinterpret_cast<Element*>(added.at(i / 16, channel + i % 16)) = Element{};
        if constexpr (kGated)
          *reinterpret_cast<Gate*>(tiles.raw_gates().at(i / 16, channel + i % 16)) = Gate{};
      }
    }
    constexpr int kRow = kShape.tile_v;
    GLA_UNROLL_BY(1)
    for (int i = rows * kRow + Producers::thread(); i < kChunk * kRow; i += Producers::kThreads)
      *reinterpret_cast<Element*>(tiles.raw_v().at(i / kRow, i % kRow)) = Element{};
    warp_sync();
  }

  // ---- consumers -------------------------------------------------------------------------------------------------

  GLA_DEVICE void consume() {
    GLA_UNROLL_BY(1)
    for (int stage = 0; stage < kStages; ++stage) start_loads(stage);
    ChunkState<kShape> state;
    work.load_state(state);
    bool scaled = true;  // with what carried() has left, as steep chunks need it and others do not
    if constexpr (Work::kLeads) walk<false>(state, 0, work.lead, scaled);
    walk<kOutputs>(state, Work::kLeads ? work.lead : 0, chunks, scaled);
    if (kGated && !scaled) state.scale_by_exponents(tiles_of(0).carried(chunks - 1), false);
    work.store_state(state, tiles_of(0).decay());
    bulk_wait_read<0>();
  }

  using ChunkSums = typename WarpgroupProducts<kShape, Tiles>::Sums;
  static constexpr int kColumns = WarpgroupProducts<kShape, Tiles>::kColumns;
  static constexpr int kRows = WarpgroupProducts<kShape, Tiles>::kRows;
  static constexpr int kKParts = kShape.operand_parts();

  template <bool WithOutputs>
  GLA_DEVICE void walk(ChunkState<kShape>& state, int first, int end, bool& scaled) const {
    for (int chunk = first; chunk < end; ++chunk) {
      const Tiles tiles = tiles_of(chunk);
      barrier_wait(kOutputs ? tiles.made() : tiles.converted(), parity_of(chunk));
      Products products{work, tiles, state};
      const bool has_pivot = has_one_pivot(chunk);
      if (kGated && chunk > 0 && scaled == has_pivot)
        state.scale_by_exponents(tiles.carried(chunk - 1), has_pivot);
      scaled = WithOutputs && !has_pivot;
      if constexpr (!WithOutputs) {
        add_to_state(products, chunk, has_pivot);
      } else if constexpr (kSends) {
        multiply_in_cluster(products, chunk - first, chunk, has_pivot);
      } else {
        multiply(products, chunk, has_pivot, [&](int, int row0, const ChunkSums& sums) {
          products.template stage_block<kColumns, kRows>(sums, ChunkState<kShape>::block_v(0), row0);
        });
      }
      // What is staged to all, and to tensor copies.
      if constexpr (WithOutputs) fence_for_warpgroup();
      Consumers::sync();
      if (WithOutputs && stores()) store_staged(products, chunk);
      start_loads(chunk + kStages);
    }
  }

  GLA_DEVICE void store_staged(const Products& products, int chunk) const {
    if (!is_cut(chunk)) return start_store(products.tiles, chunk);
    GLA_UNROLL_BY(1)
    for (int head = 0; head < kHeads; ++head)
      products.template store_outputs<kChunk, kRows>(head, first_token_of_walk(chunk), head * kChunk);
  }

  /// Blocks of a cluster may differ in whether their channels have one pivot. `exchange`: how many came before.
  GLA_DEVICE void multiply_in_cluster(Products& products, int exchange, int chunk, bool has_pivot) const {
    ClusterSums<kShape, Tiles> sums{products.tiles, work.rank, exchange, {}};
    multiply(products, chunk, has_pivot, [&](int i, int, const ChunkSums& all) { sums.take(i, all, 0); });
    stage_kept(products, sums);
  }

  template <class Sums>
  GLA_DEVICE static void stage_kept(const Products& products, Sums& sums) {
    sums.receive();
    if (sums.keeps()) products.template stage_block<kChunk>(sums.kept, sums.kept_v());
  }

  /// A chunk. `use`: WarpgroupProducts::multiply(). What is left to scale the state with stays in carried(chunk), if
  /// it has one pivot.
  template <class UseSums>
  GLA_DEVICE void multiply(Products& products, int chunk, bool has_pivot, UseSums use) const {
    const Tiles& tiles = products.tiles;
    work.count_path(has_pivot);
    WarpgroupProducts<kShape, Tiles> warpgroups{tiles, products.state};
    const auto meanwhile = [&] {
      bulk_wait_read<0>();  // of the thread that stores, behind which all may stage outputs again
      Consumers::sync();
    };
    if (kGated && has_pivot) products.state.scale(tiles.before());
    // Whether it is steep is asked for again, not kept in a register across the products.
    warpgroups.multiply(
        k_parts(chunk, has_pivot), [&] { return kGated && !has_one_pivot(chunk); }, meanwhile, use,
        [&] { products.state.scale(tiles.before()); });
  }

  /// A chunk for the state alone, of which every pivot is one, but not every factor of the state.
  GLA_DEVICE void add_to_state(Products& products, int chunk, bool has_factor) const {
    const Tiles& tiles = products.tiles;
    Work::add_decay(tiles.decay(), tiles.last());
    if constexpr (kGated) {
      if (has_factor) {
        products.state.scale(tiles.before());
      } else {
        products.state.scale_by_exponents(tiles.after(), false);
      }
    }
    WarpgroupProducts<kShape, Tiles>{tiles, products.state}.update(k_parts(chunk, has_factor));
  }

  /// Parts of k^ that the state takes up: the last chunk, and under steep gates the last few tokens, are most of what the walk
  /// leaves behind.
  GLA_DEVICE int k_parts(int chunk, bool has_pivot) const {
    const bool takes_all = (kGated && !has_pivot) || (chunk == chunks - 1 && !kShape.value_gradients);
    return takes_all ? kKParts : 1;
  }
};

/// What the kernel of a pass is made for; tensor maps have boxes of the outputs' chunks.
template <class Config, Pass kPass>
struct PassConfig : Config {
  static constexpr int box_rows = Config::shape.chunk;
  static constexpr ChunkShape shape =
      kPass == Pass::segment_states ? without_queries(Config::shape) : Config::shape;
};

template <class Config, Pass kPass>
GLA_DEVICE void chunk_pipeline(const TensorArgs& args) {
  ChunkPipeline<PassConfig<Config, kPass>, kPass>(args, args.maps).run();
}

}  // namespace gla
