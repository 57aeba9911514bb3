// chunk_forward for warpgroups (sm_90a): the mathematics of chunk_forward.cuh in two teams. Tensor copies bring q, k, v and
// gates; producers turn them into operands, in place, and scores, a chunk ahead; consumers hold S^T, multiply (wgmma) and
// send the outputs off by tensor copies. A chunk passes through a stage of PipelineLayout's ring like this:
//   gates_loaded, loaded   transaction barriers: its gates, and all else, have come (kEarlyGates; else one barrier for all)
//   converted  one arrival per warp of the team of producers: its channels' operands and factors are there
//   made       one arrival per warp of the warpgroups that had a part in them: the scores are there too, where it has any
//   rest_free  of tight stages (PipelineLayout): the scores are made (of a steep chunk, used), and q^'s second part may give way to the
//              next chunk's
//   a barrier of the consumers: all have used it, and the loads of the chunk that comes there next start (but of gates, in whose
//              place the scores' operands lie: they start as soon as these are made)
// The blocks of a cluster do this each with their key channels, and exchange the sums of outputs (cluster_sums.cuh).
// `after` of a chunk and `before` of the next are one factor (going back, `before` of a chunk and `after` of the one in front of
// it). For a chunk that may not have one pivot, or no such factor, or whose halves (HalvesCheck) do not hold it, producers make other
// operands (steep_chunk.cuh), loading again what they have replaced, and consumers scale the state between its products.
#pragma once

#include "chunk_gates.cuh"
#include "chunk_products.cuh"
#include "chunk_stages.cuh"
#include "cluster_sums.cuh"
#include "device/cluster.cuh"
#include "device/launch.cuh"
#include "device/warpgroup.cuh"
#include "steep_chunk.cuh"
#include "team.cuh"
#include "warpgroup_products.cuh"

namespace gla {

template <class Config, Pass kPass>
class ChunkPipeline : ChunkStages<Config, kPass> {
  using Stages = ChunkStages<Config, kPass>;

 public:
  using Stages::Stages;

  GLA_DEVICE void run() {
    prepare_shared();
    if constexpr (kPass == Pass::segment_outputs) {
      // Those of a batch load and make operands beside the states' pass, and wait for it with their own (ChunkWork::load_state).
      gla::run_beside(args.cu_seqlens == nullptr, [this] { walk_all(); });
    } else if constexpr (kPass == Pass::segment_states) {
      wait_for_earlier_kernels();
      let_next_kernel_start();
      walk_all();
    } else {
      let_next_kernel_start();
      wait_for_earlier_kernels();
      walk_all();
    }
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

  using typename Stages::Element, typename Stages::Gate, typename Stages::Tiles, typename Stages::Consumers,
      typename Stages::Producers, typename Stages::Work, typename Stages::Source;
  using Products = ChunkProducts<Config, kPass, Tiles, Consumers>;
  using Stages::args, Stages::work, Stages::chunks;
  using Stages::kShape, Stages::kLayout, Stages::kStages, Stages::kOutputs, Stages::kGated, Stages::kSends,
      Stages::kTight, Stages::kEarlyGates, Stages::kChunk, Stages::kHeads, Stages::kTeams, Stages::kScorers,
      Stages::kScorePairs, Stages::kTogether, Stages::kRows;
  using Stages::prepare_shared, Stages::source, Stages::shared_source, Stages::load_gates, Stages::load_again,
      Stages::start_loads, Stages::start_store;
  using Stages::tiles_of, Stages::parity_of, Stages::place_of, Stages::rows_of, Stages::is_cut,
      Stages::has_outputs, Stages::stores, Stages::first_token_of_walk;

  static constexpr bool kHalves = kOutputs && kShape.halves();
  /// Chunks for which a team makes no more halves where those of a walk's first one are of no use; later ones double what was.
  static constexpr int kHalvesPause = 8;

  /// Whether the gates of the chunk that follows this one in its stage are loaded as soon as its scores are made, by producers: if
  /// nobody else wants what has taken the place of its own.
  GLA_DEVICE bool leaves_gates_early(int chunk, bool has_pivot) const {
    return kEarlyGates && has_pivot && has_outputs(chunk) && !takes_all(chunk);
  }

  // ---- producers -------------------------------------------------------------------------------------------------

  GLA_DEVICE void produce() const {
    int chunk = kTeams == 1 ? 0 : static_cast<int>(uniform(static_cast<unsigned int>(Producers::team())));
    int reloads = 0;
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
        if constexpr (kTight && WithOutputs) wait_for_rest(chunk);
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
              static_assert(kTogether <= 2);
              // A vote: the same for the warp.
              const int mine = kTogether > 1 && warp_any(first != 0) ? 1 : 0;
              WarpgroupScores<kShape, Tiles>{tiles.with_scores(takes_all(chunk)), 2 * (pair + mine)}.make(
                  operands == Operands::halves);
            }
          }
        }
        if (scores) arrive(tiles.made());
        if (kEarlyGates && is_early && warp_any(first == 0 && Producers::warp() % 4 == 0))
          start_next_gates(chunk);
      }
    }
  }

  /// For the place of q^'s second part, which the chunk before may have. It is left as often as there are chunks with outputs.
  GLA_DEVICE void wait_for_rest(int chunk) const {
    const int before = (Work::kLeads ? chunk - work.lead : chunk) - 1;
    if (before >= 0) barrier_wait(tiles_of(0).rest_free(), before % 2);
  }

  /// By a warp that has a part in the scores of `chunk`.
  GLA_DEVICE void start_next_gates(int chunk) const {
    const int next = chunk + kStages;
    if (next >= chunks) return;
    barrier_wait(tiles_of(chunk).made(), parity_of(chunk));
    // Read by all: what one lane alone reads would make the walk's variables each lane's own.
    const Source from = shared_source();
    if (elect_lane()) load_gates(from, next);
  }

  /// What the second parts of operands are to be. Not halves where the state takes up the whole of them, and where rows may be
  /// padding, which would not be kept.
  template <bool WithOutputs>
  GLA_DEVICE Second second_parts(int chunk) const {
    if constexpr (!WithOutputs) return takes_all(chunk) ? Second::rest : Second::none;
    if constexpr (!kHalves) return Second::rest;
    const bool tries = warp_any(chunk >= *tiles_of(chunk).halves_from(Producers::team()));
    return tries && place_of(chunk) != chunks - 1 ? Second::half : Second::rest;
  }

  /// By the team whose chunk it is. Operands of k and gates take their place with every query head.
  GLA_DEVICE void make_steep(int chunk, int& reloads) const {
    const Tiles tiles = tiles_of(chunk).with_scores(true);
    const int mark = mark_of(chunk, opaque(static_cast<unsigned int>(lane_index())));
    const bool is_intact = !warp_any((mark & Mark::kIntact) == 0);
    if (kHalves && !warp_any((mark & Mark::kSteep) != 0) && Producers::thread() == 0)
      *tiles.halves_from(Producers::team()) = 2 * chunk + kHalvesPause;  // halves were of no use
    GLA_UNROLL_BY(1)
    for (int head = 0; head < kHeads; ++head) {
      if (head > 0 || !is_intact) {
        unsigned long long* reloaded = tiles.reloaded(Producers::team());
        const Source from = shared_source();
        if (warp_any(Producers::warp() == 0) && elect_lane()) load_again(from, chunk, head == 0, reloaded);
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
    static constexpr int kNone = 0, kSteep = 1, kParts = 2, kIntact = 4, kSteps = 8;
    int chunk;
    bool steep;   ///< they deny one pivot, or one factor
    bool parts;   ///< no second part is a half
    bool intact;  ///< they lie there as loaded
    GLA_DEVICE int word() const {
      return (chunk + 1) * kSteps + (steep ? kSteep : 0) + (parts ? kParts : 0) + (intact ? kIntact : 0);
    }
    GLA_DEVICE static bool is_of(int word, int chunk) { return word / kSteps == chunk + 1; }
  };
  /// For each lane the mark of one of the team's warps, as a word.
  GLA_DEVICE static int mark_of(int chunk, unsigned int lane) {
    const int team = kTeams == 1 ? 0 : chunk % kTeams;
    const int warp = team * Producers::kWarps + static_cast<int>(lane % Producers::kWarps);
    const int word = tiles_of(chunk).marks()[warp];
    return Mark::is_of(word, chunk) ? word : Mark::kNone;
  }

  /// What a chunk has become, once it is converted. Where only some second parts are halves, or some of those have not kept their
  /// rows, it is made as a steep one.
  enum class Operands { halves, parts, steep };
  GLA_DEVICE static Operands operands_of(int chunk) {
    if constexpr (!kGated) return Operands::parts;
    const int mark = mark_of(chunk, static_cast<unsigned int>(lane_index()));
    if (!warp_any(mark != Mark::kNone)) return kHalves ? Operands::halves : Operands::parts;
    const bool is_steep = (mark & Mark::kSteep) != 0 || (kHalves && (mark & Mark::kParts) == 0);
    return warp_any(is_steep) ? Operands::steep : Operands::parts;
  }
  GLA_DEVICE static bool has_one_pivot(int chunk) { return operands_of(chunk) != Operands::steep; }

  /// 0 * NaN must not leak from a packed neighbour. Each warp has its own channels of gates and of what the state takes up: k,
  /// going back q.
  GLA_DEVICE static void zero_rows(const Tiles& tiles, int rows) {
    const int from = rows * 16;
    GLA_UNROLL_BY(1)
    for (int n = 0; n < kShape.padded_k() / 16 / Producers::kWarps; ++n) {
      const int channel = 16 * (Producers::warp() + n * Producers::kWarps);
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
    for (int stage = 0; stage < kStages; ++stage) start_loads(stage, true, true);
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
  static constexpr int kKParts = kShape.operand_parts();

  template <bool WithOutputs>
  GLA_DEVICE void walk(ChunkState<kShape>& state, int first, int end, bool& scaled) const {
    for (int chunk = first; chunk < end; ++chunk) {
      barrier_wait(kOutputs ? tiles_of(chunk).made() : tiles_of(chunk).converted(), parity_of(chunk));
      const bool has_pivot = has_one_pivot(chunk);
      const Tiles tiles = tiles_of(chunk).with_scores(takes_all(chunk) || !has_pivot);
      Products products{work, tiles, state};
      if (kGated && chunk > 0 && scaled == has_pivot)
        state.scale_by_exponents(tiles.carried(chunk - 1), has_pivot);
      scaled = WithOutputs && !has_pivot;
      if constexpr (!WithOutputs) {
        add_to_state(products, chunk, has_pivot);
      } else if constexpr (kSends) {
        multiply_in_cluster(products, chunk - first, chunk, has_pivot);
      } else {
        multiply(products, chunk, chunk > first, has_pivot, [&](int, int row0, const ChunkSums& sums) {
          if constexpr (kTight)
            Consumers::sync();  // all have multiplied with what the outputs take the place of
          products.template stage_block<kColumns, kRows>(sums, ChunkState<kShape>::block_v(0), row0);
        });
      }
      // What is staged to all, and to tensor copies.
      if constexpr (WithOutputs) fence_for_warpgroup();
      Consumers::sync();
      if (WithOutputs && stores()) store_staged(products, chunk);
      if constexpr (kTight && WithOutputs) {
        if (!has_pivot && thread_index() == 0) barrier_arrive(tiles.rest_free());
      }
      start_loads(chunk + kStages, !leaves_gates_early(chunk, has_pivot), !kTight || !WithOutputs);
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
    multiply(products, chunk, false, has_pivot,
             [&](int i, int, const ChunkSums& all) { sums.take(i, all, 0); });
    stage_kept(products, sums);
  }

  template <class Sums>
  GLA_DEVICE static void stage_kept(const Products& products, Sums& sums) {
    sums.receive();
    if (sums.keeps()) products.template stage_block<kChunk>(sums.kept, sums.kept_v());
  }

  /// A chunk. `follows`: one with outputs. `use`: WarpgroupProducts::multiply(). What is left to scale the state with stays in
  /// carried(chunk), if it has one pivot.
  template <class UseSums>
  GLA_DEVICE void multiply(Products& products, int chunk, bool follows, bool has_pivot, UseSums use) const {
    const Tiles& tiles = products.tiles;
    work.count_path(has_pivot);
    WarpgroupProducts<kShape, Tiles> warpgroups{tiles, products.state};
    const auto meanwhile = [&] {
      bulk_wait_read<0>();  // of the thread that stores, behind which all may stage outputs again
      if constexpr (kTight) {
        if (follows) this->start_left_queries(chunk - 1 + kStages);
      } else {
        Consumers::sync();
      }
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
