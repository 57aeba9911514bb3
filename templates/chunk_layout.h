// Sizes and shared-memory layouts of the chunk kernels, for the kernels that use them and the host that must reserve
// them. Plain C++: NVRTC, the generator and the emulator compile this one file.
#pragma once

#include "device/platform.cuh"

namespace gla {

/// Tokens of a block, the rows of an MMA: what chunks are multiples of, and what those without one pivot are counted in.
inline constexpr int kBlockTokens = 16;

/// What a variant fixes. Names are those of the parameters (generator/variant.h).
struct ChunkShape {
  int head_dim_k, head_dim_v;
  int chunk, tile_v, warps_v, warps_k;
  int group_tile;  ///< query heads of a block; 0: of a pass without queries (without_queries())
  int stages, score_parts, state_parts;
  int element_bytes;     ///< of q, k, v, o
  bool element_is_bf16;  ///< then v is an MMA operand as it lies
  int gate_bytes;        ///< 0: ungated
  bool async_copy;
  int producers;  ///< 0: every warp does everything (chunk_forward.cuh); else chunk_pipeline.cuh's warps for operands
  int cluster;  ///< blocks that share out a head's key channels and add up their outputs; 1 or 2
  /// The walk is that of chunk_backward for the gradients of v: backwards, with dO for v and q^ and k^ in each other's place.
  bool value_gradients = false;

  /// Key channels of a block.
  GLA_HOST_DEVICE constexpr int padded_k() const {
    const int unit = cluster == 1 ? 16 : 64;
    return (head_dim_k + unit * cluster - 1) / (unit * cluster) * unit;
  }
  /// Value channels whose outputs a block stores.
  GLA_HOST_DEVICE constexpr int out_v() const { return tile_v / cluster; }
  GLA_HOST_DEVICE constexpr int warps() const { return warps_v * warps_k; }  ///< that multiply
  GLA_HOST_DEVICE constexpr int threads() const { return 32 * (warps() + producers); }
  GLA_HOST_DEVICE constexpr int v_slots() const { return stages + 1; }
  /// Registers per thread of a block that has a multiprocessor to itself: producers give some to consumers, which hold the
  /// state, where an even share would not do for them.
  GLA_HOST_DEVICE constexpr bool moves_registers() const { return producers > 0 && warps_v == 8; }
  GLA_HOST_DEVICE constexpr int producer_registers() const {
    return producers == 8 ? 96 : padded_k() > 128 ? 88 : 104;
  }
  GLA_HOST_DEVICE constexpr int consumer_registers() const {
    return producers == 8 ? 160 : padded_k() > 128 ? 208 : 200;
  }
  /// Producers that turn a chunk into operands, each 16 of its channels at a time; the others take the next chunks.
  GLA_HOST_DEVICE constexpr int team() const { return padded_k() < 16 * producers ? 4 : producers; }
  GLA_HOST_DEVICE constexpr int teams() const { return producers / team(); }
  /// Blocks of 16 tokens in a chunk, and warps of a team that share out the channels of each where a chunk is steep
  /// (steep_chunk.cuh).
  GLA_HOST_DEVICE constexpr int blocks() const { return chunk / 16; }
  GLA_HOST_DEVICE constexpr int steep_shares() const {
    // Without producers each share but one leaves its scores, 1 KiB a block, where the chunk's are to be.
    const int most = producers > 0 ? 2 : 1 + score_operand_parts() * chunk / 32;
    const int shares = (producers > 0 ? team() : warps()) / blocks();
    return shares < 1 ? 1 : shares < most ? shares : most;
  }
  GLA_HOST_DEVICE constexpr int operand_parts() const {
    return score_parts > state_parts ? score_parts : state_parts;
  }
  /// Gates are summed as soon as they are there, and loaded ahead of the rest of their chunk. One warpgroup of producers is always
  /// late, and so is the walk back.
  GLA_HOST_DEVICE constexpr bool early_gates() const {
    return producers > 4 && gate_bytes > 0 && !value_gradients;
  }
  /// The second parts of q^ and k^ are roundings to fp16 wherever these keep every row (HalvesCheck): one product of theirs makes
  /// the scores, where parts that add up take three. The walk back has too few registers for it.
  GLA_HOST_DEVICE constexpr bool halves() const {
    return producers > 0 && score_parts > 1 && gate_bytes > 0 && !value_gradients;
  }
  /// Whether outputs are multiplied by the scale, not queries: by consumers that have no others to wait for. Several query heads share
  /// the factors of their queries, which then take it at less cost.
  GLA_HOST_DEVICE constexpr bool scales_outputs() const {
    return producers > 0 && cluster == 1 && group_tile == 1 && !value_gradients;
  }
  GLA_HOST_DEVICE constexpr int v_parts() const { return element_is_bf16 ? 1 : state_parts; }
  /// Parts of a score as an operand, which decide the error of dv.
  GLA_HOST_DEVICE constexpr int score_operand_parts() const {
    return value_gradients ? score_parts : state_parts;
  }
};

/// Byte offsets into the dynamic shared memory of chunk_forward.cuh's kernels. Tiles have rows an odd multiple of 16 bytes
/// apart, so that the eight rows that ldmatrix reads lie in different banks.
struct ChunkLayout {
  int q_row, k_row, gate_row, v_row;                ///< bytes per row of the raw tiles
  int operand_row, v_part_row, score_row, out_row;  ///< of the operands and of the staged output
  int q, k, gate;  ///< raw tiles in a ring of `stages` slots, stage_bytes apart
  int v;  ///< raw tiles in a ring of `v_slots` slots, v_bytes apart: v is in use after its slot's q, k, gate
  int stage_bytes, v_bytes;
  int raw_bytes;  ///< of all slots; they come first
  int q_operand, k_operand, v_operand, scores, out;
  int operand_plane;                    ///< bytes per part of an operand [chunk][K], of one query head
  int v_plane, score_plane, out_plane;  ///< bytes per part (out: per warp along K)
  int before, after, last, decay;       ///< fp32 vectors over K
  int steep_totals;                     ///< fp32 of a steep chunk: [blocks][K]
  int turn;                             ///< a word: whose turn it is (relay.cuh)
  int total;

  GLA_HOST_DEVICE static constexpr int odd_16(int bytes) { return (bytes / 16 | 1) * 16; }
  GLA_HOST_DEVICE static constexpr int most_of(int a, int b) { return a > b ? a : b; }

  GLA_HOST_DEVICE explicit constexpr ChunkLayout(const ChunkShape& s)
      : q_row(odd_16(s.padded_k() * s.element_bytes)),
        k_row(q_row),
        gate_row(s.gate_bytes ? odd_16(s.padded_k() * s.gate_bytes) : 0),
        v_row(odd_16(s.tile_v * s.element_bytes)),
        operand_row(odd_16(2 * s.padded_k())),
        v_part_row(odd_16(2 * s.tile_v)),
        score_row(odd_16(2 * s.chunk)),
        out_row(s.warps_k == 1 && s.element_bytes == 2 ? odd_16(2 * s.tile_v) : 4 * s.tile_v + 16),
        q(0),
        k(q + s.group_tile * s.chunk * q_row),
        gate(k + s.chunk * k_row),
        v(0),
        stage_bytes(gate + s.chunk * gate_row),
        v_bytes(s.chunk * v_row),
        raw_bytes(0),
        q_operand(0),
        k_operand(0),
        v_operand(0),
        scores(0),
        out(0),
        operand_plane(s.chunk * operand_row),
        v_plane(s.element_is_bf16 ? 0 : s.chunk * v_part_row),
        score_plane(s.chunk * score_row),
        out_plane(s.chunk * out_row),
        before(0),
        after(0),
        last(0),
        decay(0),
        steep_totals(0),
        turn(0),
        total(0) {
    const int vector = 4 * s.padded_k();
    const int out_bytes = s.warps_k * out_plane;
    v = s.stages * stage_bytes;
    raw_bytes = v + s.v_slots() * v_bytes;
    q_operand = raw_bytes;
    const int plane = s.operand_parts() * operand_plane;
    k_operand = q_operand + s.group_tile * plane;
    v_operand = k_operand + plane;
    // When the only query head stages its outputs, the operands are spent; with several they must outlive them.
    if (s.group_tile == 1) v_operand = most_of(v_operand, q_operand + out_bytes);
    scores = v_operand + s.v_parts() * v_plane;
    const int scores_end = scores + s.score_operand_parts() * score_plane;
    out = s.group_tile == 1 ? q_operand : scores_end;
    before = s.group_tile == 1 ? scores_end : scores_end + out_bytes;
    after = before + vector;
    last = after + vector;
    decay = last + vector;
    steep_totals = decay + vector;
    turn = steep_totals + (s.gate_bytes ? s.blocks() * vector : 0);
    total = turn + 4;
  }
};

/// The same of chunk_pipeline.cuh's kernels: panels as wgmma and tensor copies have them (device/warpgroup.cuh), in a ring
/// of `stages` stages. Operands take the place of what they are made of. Where there is no room for that many stages, a tight one has
/// hardly more than its tiles: the second part of q^, needed from a chunk's conversion to its scores, has one place for all stages;
/// scores take the place of the second part of k^, but in chunks of which the state takes that up too: there they take that of q^'s;
/// and outputs take the place of q^.
struct PipelineLayout {
  static constexpr int kRoom = 227 * 1024;  ///< of a block, in every architecture that has wgmma
  static constexpr int kCarried = 5;  ///< the chunk before the one in work, and as many as there are stages
  static constexpr int kMostStages = kCarried - 1;
  static constexpr int kPanelRow = 128;  ///< bytes
  static constexpr int kSourceBytes = 20;

  int k_panels, v_panels;  ///< of 64 bf16 channels
  int q_panel;  ///< bytes from one panel of q^ to the next: in each, all query heads' rows follow each other
  int head_rows;  ///< the same of what has rows of one head, and from one query head's rows of a panel to the next one's
  bool tight;
  int q, k, gate, k_rest, v,
      scores;               ///< within a stage; k_rest is the operand's second part
  int stage_bytes;          ///< from one stage to the next
  int q_rest;               ///< second part of q^, within a stage, or of tight ones the only one
  int before, after, last;  ///< fp32 vectors over K of the first stage; `after` is for chunks without queries
  int vectors_bytes;        ///< from one stage's to the next one's
  int out,
      out_bytes;  ///< staged outputs, of several query heads one below the other; from one stage's to the next one's
  int inbox;                         ///< sums from the other block of a cluster: ClusterSums
  int steep_totals, steep_partials;  ///< else, fp32 of a team's steep chunk: [blocks][K], [blocks][16 x 16]
  int steep_bytes;                   ///< of a team
  int decay;                         ///< fp32 over K
  int carried;                       ///< fp32 over K, in a ring of kCarried: PipelineTiles::carried()
  int marks;                         ///< int per stage and producer warp: PipelineTiles::marks()
  int gates_loaded, loaded, converted, made;  ///< barriers, one per stage each
  int rest_free;                              ///< one
  int reloaded;                               ///< one per team
  int halves_from;                            ///< int per team: PipelineTiles::halves_from()
  int sources;                                ///< ChunkPipeline::Source per team
  int received;                               ///< two per warp that multiplies
  int turn;                                   ///< a word: whose turn it is (relay.cuh)
  int total;

  GLA_HOST_DEVICE static constexpr int panels(int row_bytes) {
    return (row_bytes + kPanelRow - 1) / kPanelRow;
  }
  /// fp32 sums of a chunk's outputs that a block stores.
  GLA_HOST_DEVICE static constexpr int inbox_bytes(const ChunkShape& s) { return 4 * s.out_v() * s.chunk; }
  GLA_HOST_DEVICE static constexpr int most_of(int a, int b) { return a > b ? a : b; }
  GLA_HOST_DEVICE static constexpr int aligned(int offset) { return (offset + 1023) / 1024 * 1024; }

  GLA_HOST_DEVICE explicit constexpr PipelineLayout(const ChunkShape& s)
      : PipelineLayout(s, may_be_tight(s) && PipelineLayout(s, false).total > kRoom) {}

 private:
  GLA_HOST_DEVICE static constexpr bool may_be_tight(const ChunkShape& s) {
    const bool has_place_of_scores = s.score_parts > 1 || s.gate_bytes == s.element_bytes;
    return s.chunk == 64 && s.group_tile == 1 && s.cluster == 1 && s.teams() == 1 && s.steep_shares() == 2 &&
           !s.value_gradients && s.tile_v <= s.padded_k() && has_place_of_scores;
  }

  GLA_HOST_DEVICE constexpr PipelineLayout(const ChunkShape& s, bool is_tight)
      : k_panels(panels(2 * s.padded_k())),
        v_panels(panels(2 * s.tile_v)),
        q_panel((s.group_tile > 1 ? s.group_tile : 1) * s.chunk * kPanelRow),
        head_rows(s.chunk * kPanelRow),
        tight(is_tight),
        q(0),
        k(0),
        gate(0),
        k_rest(0),
        v(0),
        scores(0),
        stage_bytes(0),
        q_rest(0),
        before(0),
        after(0),
        last(0),
        vectors_bytes(0),
        out(0),
        out_bytes(0),
        inbox(0),
        steep_totals(0),
        steep_partials(0),
        steep_bytes(0),
        decay(0),
        carried(0),
        marks(0),
        gates_loaded(0),
        loaded(0),
        converted(0),
        made(0),
        rest_free(0),
        reloaded(0),
        halves_from(0),
        sources(0),
        received(0),
        turn(0),
        total(0) {
    const int plane = k_panels * head_rows, v_plane = v_panels * head_rows;
    const int gate_plane = panels(s.gate_bytes * s.padded_k()) * head_rows;
    const int rest = s.score_parts > 1 ? plane : 0;
    const int vector = 4 * s.padded_k();
    const int heads = s.group_tile;
    q_rest = q + heads * plane;
    k = q + heads * (plane + (tight ? 0 : rest));
    gate = k + plane;
    // The second part of k^ takes the place of gates of its size.
    const bool in_place = gate_plane == plane;
    k_rest = in_place ? gate : gate + gate_plane;
    v = k + plane + gate_plane + (in_place ? 0 : rest);
    // Scores are all that the second part of several heads' q^ is for, so they take its place.
    const bool over_rest = heads > 1 && rest != 0;
    scores = tight ? k_rest : over_rest ? q_rest : v + v_plane;
    // In planes of head_rows: of each query head, or each part of the only one's.
    const int scores_bytes = tight || over_rest ? 0 : heads * s.score_operand_parts() * head_rows;
    const int end = v + v_plane + scores_bytes;
    stage_bytes = aligned(tight ? end : end + 3 * vector);
    const int stages_end = s.stages * stage_bytes;
    q_rest = tight ? stages_end : q_rest;
    out = tight ? q : stages_end;
    out_bytes = tight ? stage_bytes : 0;
    inbox = stages_end + (tight ? plane : heads * v_plane / s.cluster);
    before = tight ? inbox : end;
    after = before + vector;
    last = after + vector;
    vectors_bytes = tight ? 3 * vector : stage_bytes;
    const int inboxes_bytes = s.cluster > 1 && heads > 0 ? 2 * inbox_bytes(s) : 0;
    steep_totals = inbox + (tight ? s.stages * vectors_bytes : inboxes_bytes);
    steep_partials = steep_totals + s.blocks() * vector;
    steep_bytes =
        heads > 0 && s.gate_bytes ? s.blocks() * (vector + (s.steep_shares() - 1) * 4 * 16 * 16) : 0;
    decay = steep_totals + s.teams() * steep_bytes;
    carried = decay + vector;
    gates_loaded = carried + kCarried * vector;
    loaded = gates_loaded + 8 * s.stages;
    converted = loaded + 8 * s.stages;
    made = converted + 8 * s.stages;
    rest_free = made + 8 * s.stages;
    reloaded = rest_free + 8;
    received = reloaded + 8 * s.teams();
    marks = received + (s.cluster > 1 ? 2 * 8 * s.warps() : 0);
    halves_from = marks + 4 * s.stages * s.producers;
    sources = halves_from + 4 * s.teams();
    turn = sources + kSourceBytes * s.teams();
    total = turn + 4;
  }
};

/// Dynamic shared memory of a chunk kernel in bytes.
GLA_HOST_DEVICE constexpr int shared_bytes(const ChunkShape& shape) {
  return shape.producers ? PipelineLayout(shape).total : ChunkLayout(shape).total;
}

/// Where a walk that may be cut into legs has the word of its turn.
GLA_HOST_DEVICE constexpr int turn_offset(const ChunkShape& shape) {
  return shape.producers ? PipelineLayout(shape).turn : ChunkLayout(shape).turn;
}

/// The shape of a pass that leaves states alone: in the room that queries and outputs take, a pipeline has chunks of 64
/// tokens and more stages.
GLA_HOST_DEVICE constexpr ChunkShape without_queries(const ChunkShape& shape) {
  if (shape.producers == 0) return shape;
  ChunkShape best = shape;
  best.group_tile = 0;
  for (int chunk = best.chunk; chunk <= 64; chunk += 32) {
    ChunkShape next = best;
    next.chunk = chunk;
    for (next.stages = shape.stages; next.stages <= PipelineLayout::kMostStages; ++next.stages)
      if (shared_bytes(next) <= shared_bytes(shape)) best = next;
  }
  return best;
}

}  // namespace gla
