// chunk_forward for warpgroups (sm_90a): the mathematics of chunk_forward.cuh in two teams. Tensor copies bring q, k, v and
// gates; producers turn them into operands, in place, and scores, a chunk ahead; consumers hold S^T, multiply (wgmma) and
// send the outputs off by tensor copies. A chunk passes through a stage of PipelineLayout's ring like this:
//   gates_loaded, loaded   transaction barriers: its gates, and all else, have come (kEarlyGates; else one barrier for all)
//   converted  one arrival per warp of the team of producers: its channels' operands and factors are there
//   made       one arrival per warp of the warpgroups that had a part in them: the scores are there too, where it has any
//   a barrier of the consumers: all have used it, and the loads of the chunk that comes there next start (but of gates, in whose
//              place the scores' operands lie: they start as soon as these are made)
// The blocks of a cluster do this each with their key channels, and exchange the sums of outputs (cluster_sums.cuh).
// `after` of a chunk and `before` of the next are one factor (going back, `before` of a chunk and `after` of the one in front of
// it). For a chunk that may not have one pivot, or no such factor, or whose halves (HalvesCheck) do not hold it, producers make other
// operands (steep_chunk.cuh), loading again what they have replaced, and consumers scale the state between its products.
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
  static constexpr bool kHalves = kOutputs && kShape.halves();
  /// Chunks for which a team makes no more halves where those of a walk's first one are of no use; later ones double what was.
  static constexpr int kHalvesPause = 8;
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
        barrier_init(tiles_of(stage).gates_loaded(), 1);
        barrier_init(tiles_of(stage).loaded(), 1);
        barrier_init(tiles_of(stage).converted(), Producers::kWarps);
        barrier_init(tiles_of(stage).made(), 4 * kTogether);
        for (int warp = 0; warp < kShape.producers; ++warp) tiles_of(stage).marks()[warp] = 0;
      }
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
  /// Of a chunk.
  GLA_DEVICE int first_token(Source from, int chunk) const {
    return from.first_token + place_of(chunk) * kChunk;
  }

  static constexpr int kPanelBytes = kChunk * kPanelRowBytes;
  static constexpr int kGatePanels = PipelineLayout::panels(kShape.gate_bytes * kShape.padded_k());
  static constexpr int kQueryPanels = kHeads * kLayout.k_panels;
  /// Producers begin with a chunk's gates before the rest of it has come, but for one warpgroup alone, which is always late.
  static constexpr bool kEarlyGates = kGated && kShape.producers > 4;
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
  /// Whether the gates of the chunk that follows this one in its stage are loaded as soon as its scores are made, by producers: if
  /// nobody else wants what has taken the place of its own.
  GLA_DEVICE bool leaves_gates_early(int chunk, bool has_pivot) const {
    return kEarlyGates && has_pivot && has_outputs(chunk) && !takes_all(chunk);
  }

  /// Called by all consumers; two of them act.
  GLA_DEVICE void start_loads(int chunk, bool with_gates) const {
    if (chunk >= chunks) return;
    const bool with_queries = has_outputs(chunk);
    const bool first = warp_any(Consumers::warp() == Consumers::kWarps - 1);
    if ((!first && !warp_any(Consumers::warp() == Consumers::kWarps / 2 - 1)) || !elect_lane()) return;
    const Tiles tiles = tiles_of(chunk);
    const Source from = source();
    unsigned long long* barrier = tiles.loaded();
    if (first) {
      if (kEarlyGates && with_gates) load_gates(from, chunk);
      barrier_arrive_expect(barrier, (with_queries ? kPanels : kPanels - kQueryPanels) * kPanelBytes);
      if constexpr (kGated && !kEarlyGates)
        load(tiles.raw_gates(), maps.gk, from, from.first_k, chunk, from.head, barrier);
      load(tiles.raw_k(), maps.k, from, from.first_k, chunk, from.head, barrier);
    } else {
      for (int q = 0; q < kHeads && with_queries; ++q)
        load(tiles.raw_q(q), maps.q, from, from.first_k, chunk, from.first_query_head + q, barrier);
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

  GLA_DEVICE int rows_of(int chunk) const { return work.rows_of(place_of(chunk)); }
  GLA_DEVICE Index first_token_of_walk(int chunk) const { return Index{place_of(chunk)} * kChunk; }

  /// Whether a box of the chunk's tokens has tokens of another sequence, or of nobody.
  GLA_DEVICE bool is_cut(int chunk) const { return args.cu_seqlens != nullptr && rows_of(chunk) < kChunk; }

  // ---- producers -------------------------------------------------------------------------------------------------

  GLA_DEVICE void produce() const {
    int chunk = Producers::team(), reloads = 0;
    // Not kept in registers of the walk, which seldom loads again.
    if (kGated && Producers::warp() == 0 && lane_index() == 0) shared_source() = source();
    if constexpr (Work::kLeads) produce<false>(work.lead, chunk, reloads);
    produce<kOutputs>(chunks, chunk, reloads);
  }

  /// Chunks from `chunk` on, as far as `end`.
  template <bool WithOutputs>
  GLA_DEVICE void produce(int end, int& chunk, int& reloads) const {
    using Gates = ChunkGates<Config, Tiles, Producers>;
    for (; chunk < end; chunk += kTeams) {
      const Tiles tiles = tiles_of(chunk);
      barrier_wait(kEarlyGates ? tiles.gates_loaded() : tiles.loaded(), parity_of(chunk));
      const auto wait = [&] {
        if constexpr (kEarlyGates) barrier_wait(tiles.loaded(), parity_of(chunk));
      };
      if (warp_any(is_cut(chunk))) {
        wait();
        zero_rows(tiles, rows_of(chunk));
      }
      const Gates gates{tiles, args.scale};
      float entry[Gates::kChannelBlocks][2];
      const auto replaced = gates.template replace_by_operands<WithOutputs>(
          entry, tiles.carried(chunk), second_parts<WithOutputs>(chunk), wait);
      bool within = replaced.blocks == Gates::kChannelBlocks;
      fence_for_warpgroup();
      // The other team's chunk: its `carried` is needed, and its stage's phase, which this team's next wait relies on.
      if (kTeams > 1 && chunk > 0) barrier_wait(tiles_of(chunk - 1).converted(), parity_of(chunk - 1));
      if constexpr (kGated) {
        within &=
            gates.template join_scaling<WithOutputs>(entry, chunk > 0 ? tiles.carried(chunk - 1) : nullptr);
      }
      const bool made_halves = replaced.parts == 0 && replaced.kept;
      if ((!within || (kHalves && WithOutputs && !made_halves)) && lane_index() == 0) {
        const bool made_parts = replaced.parts == replaced.blocks;
        tiles.marks()[Producers::of_all()] = Mark{chunk, !within, made_parts, replaced.blocks == 0}.word();
      }
      arrive(tiles.converted());
      if constexpr (kOutputs) {
        // Where one warpgroup makes all scores of a chunk, the other can be a chunk ahead.
        const int first = (Producers::warp() / 4 + chunk / kTeams) % kScorers;
        const bool scores = warp_any(first < kTogether);
        [[maybe_unused]] bool is_early = false;
        barrier_wait(tiles.converted(), parity_of(chunk));
        if constexpr (WithOutputs) {
          const Operands operands = operands_of(chunk);
          is_early = leaves_gates_early(chunk, operands != Operands::steep);
          if (operands == Operands::steep) {
            if constexpr (kGated) make_steep(chunk, reloads);
          } else if (scores) {
            GLA_UNROLL_BY(1)
            for (int pair = 0; pair < kScorePairs; pair += kTogether) {
              const int mine = kTogether > 1 ? first : 0;  // a constant where there is one pair
              WarpgroupScores<kShape, Tiles>{tiles, 2 * (pair + mine)}.make(operands == Operands::halves);
            }
          }
        }
        if (scores) arrive(tiles.made());
        if (kEarlyGates && is_early && warp_any(first == 0 && Producers::warp() % 4 == 0))
          start_next_gates(chunk);
      }
    }
  }

  /// By a warp that has a part in the scores of `chunk`.
  GLA_DEVICE void start_next_gates(int chunk) const {
    const int next = chunk + kStages;
    if (next >= chunks) return;
    barrier_wait(tiles_of(chunk).made(), parity_of(chunk));
    if (elect_lane()) load_gates(shared_source(), next);
  }

  /// What the second parts of operands are to be. Not halves where the state takes up the whole of them, and where rows may be
  /// padding, which would not be kept.
  template <bool WithOutputs>
  GLA_DEVICE Second second_parts(int chunk) const {
    if constexpr (!WithOutputs) return takes_all(chunk) ? Second::rest : Second::none;
    if constexpr (!kHalves) return Second::rest;
    const bool tries = chunk >= *tiles_of(chunk).halves_from(Producers::team());
    return tries && place_of(chunk) != chunks - 1 ? Second::half : Second::rest;
  }

  /// Of a team.
  GLA_DEVICE static Source& shared_source() {
    static_assert(sizeof(Source) == PipelineLayout::kSourceBytes);
    return reinterpret_cast<Source*>(shared_memory() + kLayout.sources)[Producers::team()];
  }

  /// By the team whose chunk it is. Operands of k and gates take their place with every query head.
  GLA_DEVICE void make_steep(int chunk, int& reloads) const {
    const Tiles tiles = tiles_of(chunk);
    const unsigned int lane = opaque(static_cast<unsigned int>(lane_index()));
    const int warp = Producers::team() * Producers::kWarps + static_cast<int>(lane % Producers::kWarps);
    const int mark = tiles.marks()[warp];
    const bool is_marked = Mark::is_of(mark, chunk);
    const bool is_intact = !warp_any(!is_marked || (mark & Mark::kIntact) == 0);
    if (kHalves && !warp_any(is_marked && (mark & Mark::kSteep) != 0) && Producers::thread() == 0)
      *tiles.halves_from(Producers::team()) = 2 * chunk + kHalvesPause;  // halves were of no use
    GLA_UNROLL_BY(1)
    for (int head = 0; head < kHeads; ++head) {
      if (head > 0 || !is_intact) {
        unsigned long long* reloaded = tiles.reloaded(Producers::team());
        if (warp_any(Producers::warp() == 0) && elect_lane())
          load_again(shared_source(), chunk, head == 0, reloaded);
        barrier_wait(reloaded, reloads++ % 2);
        if (warp_any(is_cut(chunk))) {
          zero_rows(tiles, rows_of(chunk));
          Producers::sync();
        }
      }
      SteepChunk<Config, Tiles, Producers>{tiles, head, kShape.scales_outputs() ? 1.0f : args.scale}.make();
    }
  }

  /// The arrival of a warp.
  GLA_DEVICE static void arrive(unsigned long long* barrier) {
    warp_sync();
    if (lane_index() == 0) barrier_arrive(barrier);
  }

  /// What a warp of producers says of its channels of a chunk, other than that their second parts are halves.
  struct Mark {
    static constexpr int kSteep = 1, kParts = 2, kIntact = 4, kSteps = 8;
    int chunk;
    bool steep;   ///< they deny one pivot, or one factor
    bool parts;   ///< no second part is a half
    bool intact;  ///< they lie there as loaded
    GLA_DEVICE int word() const {
      return (chunk + 1) * kSteps + (steep ? kSteep : 0) + (parts ? kParts : 0) + (intact ? kIntact : 0);
    }
    GLA_DEVICE static bool is_of(int word, int chunk) { return word / kSteps == chunk + 1; }
  };

  /// What a chunk has become, once it is converted. Where only some second parts are halves, or some of those have not kept their
  /// rows, it is made as a steep one.
  enum class Operands { halves, parts, steep };
  GLA_DEVICE static Operands operands_of(int chunk) {
    if constexpr (!kGated) return Operands::parts;
    const int team = kTeams == 1 ? 0 : chunk % kTeams;
    const int mark = tiles_of(chunk).marks()[team * Producers::kWarps + lane_index() % Producers::kWarps];
    const bool is_marked = Mark::is_of(mark, chunk);
    if (warp_any(is_marked && (mark & Mark::kSteep) != 0)) return Operands::steep;
    if constexpr (!kHalves) return Operands::parts;
    const bool parts = is_marked && (mark & Mark::kParts) != 0;
    if (!warp_any(is_marked)) return Operands::halves;
    return warp_any(!parts) ? Operands::steep : Operands::parts;
  }
  GLA_DEVICE static bool has_one_pivot(int chunk) { return operands_of(chunk) != Operands::steep; }

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
    for (int stage = 0; stage < kStages; ++stage) start_loads(stage, true);
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
      start_loads(chunk + kStages, !leaves_gates_early(chunk, has_pivot));
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
    WarpgroupProducts<kShape, Tiles>{tiles, products.state}.update(k_parts(chunk, true));
  }

  /// Parts of k^ that the state takes up: the last chunk, and under steep gates the last few tokens, are most of what the walk
  /// leaves behind.
  GLA_DEVICE int k_parts(int chunk, bool has_pivot) const {
    return !has_pivot || takes_all(chunk) ? kKParts : 1;
  }
  GLA_DEVICE bool takes_all(int chunk) const { return chunk == chunks - 1 && !kShape.value_gradients; }
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
