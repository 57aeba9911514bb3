// What chunk_pipeline.cuh's producers and consumers share: the tiles and barriers of PipelineLayout's ring, and the copies that
// fill and empty it.
#pragma once

#include "args.h"
#include "chunk_layout.h"
#include "chunk_tiles.cuh"
#include "chunk_work.cuh"
#include "device/cluster.cuh"
#include "device/tensor_copy.cuh"
#include "team.cuh"
#include "warpgroup_products.cuh"

namespace gla {

template <class Config, Pass kPass>
struct ChunkStages {
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr PipelineLayout kLayout{kShape};
  /// Then a chunk's q is loaded a chunk later than the rest, once the outputs that lie there have been stored.
  static constexpr bool kTight = kLayout.tight;
  /// A walk back begins with the chunk that may be cut, whose staged rows would lie where the next q comes.
  static_assert(!kTight || !kShape.value_gradients);
  /// Scores of tight stages lie where gates of 16 bits would be. (Gates of 32 have a place of their own, and could come early.)
  static constexpr bool kEarlyGates = kShape.early_gates() && !kTight;
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
    GLA_DEVICE static int warp() { return static_cast<int>(static_cast<unsigned int>(of_all()) % kWarps); }
    GLA_DEVICE static int thread() { return warp() * kWarpSize + lane_index(); }
    GLA_DEVICE static void sync() { part_sync<kThreads>(kTeamBarrier + team()); }
  };
  /// Of the first team; the others' follow, and those of warpgroups that make scores.
  static constexpr int kTeamBarrier = 2;
  static_assert(kTeamBarrier + kTeams <= WarpgroupScores<kShape, Tiles>::kFirstBarrier);
  /// A team's warpgroups, and how many of them make the scores of one chunk: heads' in turns, else whole chunks'.
  static constexpr int kScorers = Producers::kWarps / 4;
  static constexpr int kScorePairs = (kHeads + 1) / 2;
  static constexpr int kTogether = kScorePairs < kScorers ? 1 : kScorers;
  /// Of outputs that are staged.
  static constexpr int kRows = WarpgroupProducts<kShape, Tiles>::kRows;
  using Work = ChunkWork<Config, kPass>;

  /// The maps are of the kernel's parameter, whose address copies take.
  GLA_DEVICE ChunkStages(const KernelArgs& kernel_args, const TensorMaps& tensor_maps)
      : args(kernel_args), maps(tensor_maps), work{kernel_args} {}

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

  GLA_DEVICE int rows_of(int chunk) const { return work.rows_of(place_of(chunk)); }
  GLA_DEVICE Index first_token_of_walk(int chunk) const { return Index{place_of(chunk)} * kChunk; }
  /// Whether a box of the chunk's tokens has tokens of another sequence, or of nobody.
  GLA_DEVICE bool is_cut(int chunk) const { return args.cu_seqlens != nullptr && rows_of(chunk) < kChunk; }

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
        barrier_init(tiles_of(stage).gates_loaded(), 1);
        barrier_init(tiles_of(stage).loaded(), 1);
        barrier_init(tiles_of(stage).converted(), Producers::kWarps);
        barrier_init(tiles_of(stage).made(), 4 * kTogether);
        for (int warp = 0; warp < kShape.producers; ++warp) tiles_of(stage).marks()[warp] = 0;
      }
      barrier_init(tiles_of(0).rest_free(), 1);
      for (int team = 0; team < kTeams; ++team) {
        barrier_init(tiles_of(0).reloaded(team), 1);
        *tiles_of(0).halves_from(team) = 0;
      }
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

  // ---- copies, by threads of the consumers, and of gates by one of the producers ------------------------------------

  /// Where a block's tiles lie in their tensors.
  struct Source {
    int first_token, batch, head, first_query_head, first_k;
  };
  GLA_DEVICE Source source() const {
    return {static_cast<int>(work.sequence.begin + work.first), static_cast<int>(work.sequence.batch),
            work.head, work.first_query_head, work.first_k()};
  }
  /// That of a team of producers, for its rare copies.
  GLA_DEVICE static Source& shared_source() {
    static_assert(sizeof(Source) == PipelineLayout::kSourceBytes);
    return reinterpret_cast<Source*>(shared_memory() + kLayout.sources)[Producers::team()];
  }
  /// Of a chunk.
  GLA_DEVICE int first_token(Source from, int chunk) const {
    return from.first_token + place_of(chunk) * kChunk;
  }

  static constexpr int kPanelBytes = kChunk * kPanelRowBytes;
  static constexpr int kGatePanels = PipelineLayout::panels(kShape.gate_bytes * kShape.padded_k());
  static constexpr int kQueryPanels = kHeads * kLayout.k_panels;
  static constexpr int kPanels =
      kLayout.k_panels + kQueryPanels + kLayout.v_panels + (kEarlyGates ? 0 : kGatePanels);

  template <class T>
  GLA_DEVICE void load(const RawTile<T>& tile, const TensorMap& map, Source from, int first_channel,
                       int chunk, int head, unsigned long long* barrier) const {
    constexpr int kColumns = kPanelRowBytes / static_cast<int>(sizeof(T));
    GLA_UNROLL
    for (int column = 0; column < tile.columns; column += kColumns) {
      GLA_UNROLL
      for (int row = 0; row < kChunk; row += Config::box_rows)
        tensor_load(tile.at(row, column), &map, first_channel + column, first_token(from, chunk) + row, head,
                    from.batch, barrier);
    }
  }

  /// By one thread: what operands have replaced.
  GLA_DEVICE void load_again(Source from, int chunk, bool with_queries, unsigned long long* barrier) const {
    const Tiles tiles = tiles_of(chunk);
    constexpr int kOfKeys = kLayout.k_panels + kGatePanels;
    barrier_arrive_expect(barrier, (kOfKeys + (with_queries ? kQueryPanels : 0)) * kPanelBytes);
    if constexpr (kGated) load(tiles.raw_gates(), maps.gk, from, from.first_k, chunk, from.head, barrier);
    load(tiles.raw_k(), maps.k, from, from.first_k, chunk, from.head, barrier);
    GLA_UNROLL_BY(1)
    for (int q = 0; q < kHeads && with_queries; ++q)
      load(tiles.raw_q(q), maps.q, from, from.first_k, chunk, from.first_query_head + q, barrier);
  }

  /// By one thread, with a barrier of their own.
  GLA_DEVICE void load_gates(Source from, int chunk) const {
    unsigned long long* const barrier = tiles_of(chunk).gates_loaded();
    barrier_arrive_expect(barrier, kGatePanels * kPanelBytes);
    load(tiles_of(chunk).raw_gates(), maps.gk, from, from.first_k, chunk, from.head, barrier);
  }

  /// By one thread. Without queries in the chunk, nothing.
  GLA_DEVICE void load_queries(Source from, int chunk) const {
    for (int q = 0; q < kHeads && has_outputs(chunk); ++q)
      load(tiles_of(chunk).raw_q(q), maps.q, from, from.first_k, chunk, from.first_query_head + q,
           tiles_of(chunk).loaded());
  }
  /// What start_loads has left out, by the thread that has stored the outputs which lie there.
  GLA_DEVICE void start_left_queries(int chunk) const {
    if (chunk < chunks && warp_any(Consumers::warp() == 0) && elect_lane()) load_queries(source(), chunk);
  }

  /// Called by all consumers; two of them act.
  GLA_DEVICE void start_loads(int chunk, bool with_gates, bool with_queries) const {
    if (chunk >= chunks) return;
    const bool first = warp_any(Consumers::warp() == Consumers::kWarps - 1);
    if ((!first && !warp_any(Consumers::warp() == Consumers::kWarps / 2 - 1)) || !elect_lane()) return;
    const Tiles tiles = tiles_of(chunk);
    const Source from = source();
    unsigned long long* barrier = tiles.loaded();
    if (first) {
      if (kEarlyGates && with_gates) load_gates(from, chunk);
      barrier_arrive_expect(barrier, (has_outputs(chunk) ? kPanels : kPanels - kQueryPanels) * kPanelBytes);
      if constexpr (kGated && !kEarlyGates)
        load(tiles.raw_gates(), maps.gk, from, from.first_k, chunk, from.head, barrier);
      load(tiles.raw_k(), maps.k, from, from.first_k, chunk, from.head, barrier);
    } else {
      if (with_queries) load_queries(from, chunk);
      load(tiles.raw_v(), maps.v, from, work.tile * kShape.tile_v, chunk, from.head, barrier);
    }
  }

  /// The same, of staged outputs.
  GLA_DEVICE void start_store(const Tiles& tiles, int chunk) const {
    if (!warp_any(Consumers::warp() == 0) || !elect_lane()) return;
    const Source from = source();
    GLA_UNROLL
    for (int head = 0; head < kHeads; ++head) {
      GLA_UNROLL
      for (int v = 0; v < kShape.out_v(); v += kPanelColumns) {
        GLA_UNROLL
        for (int row = 0; row < kChunk; row += Config::box_rows)
          tensor_store(&maps.o, tiles.template out<kRows>().at(head * kChunk + row, v),
                       work.first_out_v() + v, first_token(from, chunk) + row, from.first_query_head + head,
                       from.batch);
      }
    }
    bulk_commit();
  }
};

}  // namespace gla
