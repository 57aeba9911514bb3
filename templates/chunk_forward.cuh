// chunk_forward: gated linear attention, chunk by chunk (Yang et al., arXiv 2312.06635, section 4, in the coordinates of
// DESIGN section 5). With the operands of chunk_gates.cuh and the state S' = before (.) S of a chunk,
//   O = q^ S' + tril(q^ k^T) V        U = S' + k^T V        S = after (.) U
// A block owns one (sequence, key/value head, V tile) and walks its chunks in time. Everything is kept transposed: a
// warp holds rows of S^T [V, K] in MMA accumulators, so the state never leaves registers. Family `segmented` runs the same
// walk per segment: once for the segments' own states (Pass::segment_states), then for the outputs. Between the two segment_scan
// (segment_scan.cuh) chains them, or, where they are few, each block those before its own
// (ChunkWork::load_state). Family `overlapped` has one launch too, for segments that need nothing of each other: each block first
// walks the chunks ahead of its own for the state alone. This walk runs on every architecture, all warps doing the same;
// chunk_pipeline.cuh is the one of warpgroups.
//
// The gradients of v are such a walk too, from the last chunk to the first, with the gradient dS for the state, dO for V, and
// q^ and k^ in each other's place (ChunkShape::value_gradients; DESIGN section 5):
//   dV = k^ dU + tril(q^ k^T)^T dO        dS' = q^T dO + dU        dU = after (.) dS of the next chunk        dS = before (.) dS'
#pragma once

#include "args.h"
#include "chunk_layout.h"
#include "chunk_products.cuh"
#include "chunk_tiles.cuh"
#include "chunk_work.cuh"
#include "device/copy.cuh"
#include "team.cuh"

namespace gla {

template <class Config, Pass kPass>
class ChunkForward {
 public:
  GLA_DEVICE explicit ChunkForward(const KernelArgs& kernel_args) : args(kernel_args), work{kernel_args} {}

  GLA_DEVICE void run() {
    if (!work.find()) return;
    prepare_shared();
    const Index steps = work.chunks() * kHeads;
    work.load_state(state);
    for (Index step = 0; step < kShape.stages; ++step) start_loads(step, steps);
    for (Index step = 0; step < steps; ++step) {
      copy_async_wait<kShape.stages - 1>();
      block_sync();
      if constexpr (kValueGradients) {
        walk_back(step, steps);
      } else if (has_outputs(step)) {
        walk_chunk<kOutputs>(step, steps);
      } else {
        walk_chunk<false>(step, steps);
      }
    }
    work.store_state(state, tiles.decay());
  }

 private:
  static constexpr ChunkShape kShape = Config::shape;
  static constexpr ChunkLayout kLayout{kShape};
  static constexpr bool kOutputs = kPass != Pass::segment_states;
  static constexpr bool kGated = kShape.gate_bytes != 0;
  static constexpr bool kValueGradients = kShape.value_gradients;
  /// Query heads that a chunk of the gradients of v takes, a step each. They meet in chunks of 16.
  static constexpr int kHeads = kValueGradients ? Config::group : 1;
  static constexpr int kChunk = kShape.chunk, kTileV = kShape.tile_v, kPaddedK = kShape.padded_k();
  static_assert(kHeads == 1 || kChunk == kBlockTokens);
  static constexpr int kThreads = kShape.threads();
  static_assert(kChunk % kBlockTokens == 0 && Config::group % kShape.group_tile == 0);
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  using Tiles = ChunkTiles<kShape, Element, Gate>;
  using Work = ChunkWork<Config, kPass>;
  using Products = ChunkProducts<Config, kPass, Tiles, Team<0, kShape.warps(), 0>>;
  using Sums = typename Products::Sums;

  const KernelArgs& args;
  Work work;
  Tiles tiles{shared_memory()};
  ChunkState<kShape> state;

  /// Columns that no load writes must be zero, in every stage.
  GLA_DEVICE void prepare_shared() const {
    if constexpr (kPaddedK != kShape.head_dim_k || kShape.head_dim_v % kTileV != 0) {
      zero_shared<kThreads>(tiles.shared, kLayout.raw_bytes);
    }
    if constexpr (kGated) {
      for (int i = thread_index(); i < kPaddedK; i += kThreads) tiles.decay()[i] = 0;
    }
    block_sync();
  }

  /// Not so ahead of an overlapping segment.
  GLA_DEVICE bool has_outputs(Index chunk) const { return kOutputs && (!Work::kLeads || chunk >= work.lead); }

  GLA_DEVICE static Index chunk_of(Index step, Index steps) {
    return kValueGradients ? (steps - 1 - step) / kHeads : step;
  }

  /// One group of copies per step; an empty one past the last, so that waits can count groups.
  GLA_DEVICE void start_loads(Index step, Index steps) const {
    if (step < steps) {
      const int query_head = work.first_query_head + (kValueGradients ? static_cast<int>(step % kHeads) : 0);
      copy_keys(tiles.of(step), chunk_of(step, steps), query_head);
      copy_values(tiles.of(step), chunk_of(step, steps), kValueGradients ? query_head : work.head);
    }
    copy_async_commit();
  }

  /// Gates, k, and q of the query heads from `query_head` on.
  GLA_DEVICE void copy_keys(const Tiles& to, Index chunk, int query_head) const {
    const int rows = work.rows_of(chunk);
    const Index token = work.first + chunk * kChunk;
    constexpr int kK = kShape.head_dim_k;
    constexpr int kBytes = row_alignment(kK, sizeof(Element));
    if constexpr (kGated) {
      copy_rows<Gate, kChunk, kK, row_alignment(kK, sizeof(Gate)), kThreads, kShape.async_copy>(
          to.raw_gates(), row_of<const Gate>(args.gk, work.sequence, token, work.head), args.gk.stride_token,
          rows, kK, thread_index());
    }
    copy_rows<Element, kChunk, kK, kBytes, kThreads, kShape.async_copy>(
        to.raw_k(), row_of<const Element>(args.k, work.sequence, token, work.head), args.k.stride_token, rows,
        kK, thread_index());
    if (has_outputs(chunk)) {
      for (int i = 0; i < kShape.group_tile; ++i) {
        copy_rows<Element, kChunk, kK, kBytes, kThreads, kShape.async_copy>(
            to.raw_q(i), row_of<const Element>(args.q, work.sequence, token, query_head + i),
            args.q.stride_token, rows, kK, thread_index());
      }
    }
  }

  GLA_DEVICE void copy_values(const Tiles& to, Index chunk, int of_head) const {
    constexpr int kBytes = row_alignment(kShape.head_dim_v, sizeof(Element));
    const Index token = work.first + chunk * kChunk;
    copy_rows<Element, kChunk, kTileV, kBytes, kThreads, kShape.async_copy>(
        to.raw_v(), row_of<const Element>(args.v, work.sequence, token, of_head) + work.tile * kTileV,
        args.v.stride_token, work.rows_of(chunk), work.valid_v, thread_index());
  }

  /// Decides the path before any product: inf in k^ would meet 0 in the scores.
  template <bool WithOutputs>
  GLA_DEVICE void walk_chunk(Index chunk, Index chunks) {
    const Index token = chunk * kChunk;
    Products products{work, tiles.of(chunk), state};
    const bool has_pivot = products.template make_operands<WithOutputs>();
    if constexpr (WithOutputs) work.count_path(has_pivot);
    Work::add_decay(tiles.decay(), tiles.last());
    // The raw q, k and gates are spent, and so is the v of the chunk before: their slots can take the next loads.
    if (has_pivot) start_loads(chunk + kShape.stages, chunks);
    products.template multiply<WithOutputs>(token, !has_pivot, [&](const Sums& of_head, int query_head) {
      products.put_outputs(of_head, query_head, token);
    });
    if (!has_pivot) start_loads(chunk + kShape.stages, chunks);
  }

  /// A query head of a chunk on the way back; the gradients of v are whole with the last one of the group.
  GLA_DEVICE void walk_back(Index step, Index steps) {
    const Index token = chunk_of(step, steps) * kChunk;
    const bool first = step % kHeads == 0, last = step % kHeads == kHeads - 1;
    Products products{work, tiles.of(step), state};
    const bool has_pivot = products.template make_operands<true>();
    if (has_pivot) start_loads(step + kShape.stages, steps);
    products.add_value_gradients(sums, !has_pivot, first, last);
    if (last && args.o.data != nullptr) products.put_outputs(sums, work.head - work.first_query_head, token);
    if (!has_pivot) start_loads(step + kShape.stages, steps);
  }

  Sums sums;  ///< of the walk back: kept from one query head to the next
};

template <class Config, Pass kPass>
GLA_DEVICE void chunk_forward(const KernelArgs& args) {
  ChunkForward<Config, kPass>(args).run();
}

}  // namespace gla
