// What a walk over lines reads, on its way through shared memory (line_walk.cuh).
#pragma once

#include "backward_args.h"
#include "channel_group.cuh"
#include "device/async_copy.cuh"
#include "device/copy.cuh"
#include "device/numeric.cuh"
#include "device/thread.cuh"
#include "device/tile.cuh"
#include "held_channels.cuh"
#include "line_walk_layout.h"
#include "sequence.cuh"

namespace gla {

/// The place of a warp: some lines of one state, of which `lanes` lanes share each and have every lanes-th group of 4 of its
/// channels. Of the inputs, the warp has two units of consecutive tokens in shared memory, the one that is used and the one to come.
template <class Config, bool kOfKeys>
class LineInputs {
 protected:
  static constexpr int kLines = kOfKeys ? Config::head_dim_k : Config::head_dim_v;
  static constexpr int kAcross = kOfKeys ? Config::head_dim_v : Config::head_dim_k;  // channels of a line
  static constexpr bool kLineGate = kOfKeys ? Config::gate_k : Config::gate_v;
  static constexpr bool kAcrossGate = kOfKeys ? Config::gate_v : Config::gate_k;
  static constexpr int kGroup = Config::group, kLanes = Config::lanes, kRows = Config::rows;
  using Element = typename Config::Element;
  using Gate = typename Config::Gate;
  static constexpr LineWalkShape kShape{.lines = kLines,
                                        .across = kAcross,
                                        .lanes = kLanes,
                                        .rows = kRows,
                                        .unit = Config::unit,
                                        .element_bytes = sizeof(Element),
                                        .line_gate_bytes = kLineGate ? sizeof(Gate) : 0,
                                        .across_gate_bytes = kAcrossGate ? sizeof(Gate) : 0,
                                        .one_query = kGroup == 1,
                                        .reads_lines = kOfKeys || kLineGate};
  static constexpr int kQuads = kShape.quads(), kTiles = kShape.tiles(), kWarpLines = kShape.warp_lines();
  static constexpr int kUnit = kShape.unit;
  static constexpr bool kWholeLines = kLines % kWarpLines == 0;
  static constexpr bool kWholeAcross = kAcross % (4 * kLanes) == 0;
  static constexpr bool kOneQuery = kGroup == 1;
  static constexpr bool kReadsLines = kShape.reads_lines;  // v is no part of dv, but of states
  template <class T>
  using HeldLines = HeldChannels<T, kRows>;
  template <class T>
  using HeldAcross = HeldChannels<T, 4>;

  /// What one token brings to one lane, of a group only what the group shares.
  struct Token {
    HeldLines<Element> line, line_query;
    HeldLines<Gate> line_gate;
    HeldAcross<Element> across[kQuads], across_query[kQuads];
    HeldAcross<Gate> across_gate[kQuads];
  };

  const BackwardArgs& args;
  Sequence sequence;
  int n = 0, head = 0, tile = 0;
  int lane_across = 0, first_line = 0;

  GLA_DEVICE explicit LineInputs(const BackwardArgs& backward_args) : args(backward_args) {}

  /// False if there is nothing for the warp to do. Makes zero of what no copy will write.
  GLA_DEVICE bool find_work() {
    const Index work = block_index() * Config::warps + warp_index(), states = work / kTiles;
    tile = static_cast<int>(work % kTiles);
    head = static_cast<int>(states % args.heads);
    n = static_cast<int>(states / args.heads);
    if (n >= args.sequences) return false;
    sequence = sequence_of(args, n);
    lane_across = lane_index() % kLanes;
    first_line = tile * kWarpLines + own_line();
    if constexpr (!kWholeLines || !kWholeAcross) clear_units();
    return true;
  }

  GLA_DEVICE static int own_line() { return lane_index() / kLanes * kRows; }  // the first, among the warp's
  GLA_DEVICE int channel(int quad) const { return (quad * kLanes + lane_across) * 4; }
  GLA_DEVICE Index token(Index step) const { return Config::reverse ? sequence.length - 1 - step : step; }

  // Which tensor is which, of a walk over rows and of one over columns.
  GLA_DEVICE const Tensor& line_input() const { return kOfKeys ? args.k : args.v; }
  GLA_DEVICE const Tensor& line_gate() const { return kOfKeys ? args.gk : args.gv; }
  GLA_DEVICE const Tensor& line_query() const { return kOfKeys ? args.q : args.d_o; }
  GLA_DEVICE const Tensor& across_input() const { return kOfKeys ? args.v : args.k; }
  GLA_DEVICE const Tensor& across_gate() const { return kOfKeys ? args.gv : args.gk; }
  GLA_DEVICE const Tensor& across_query() const { return kOfKeys ? args.d_o : args.q; }

  // ---- units ----------------------------------------------------------------------------------------------------

  /// Consecutive tokens that are walked over in one go, by units from the first on.
  struct Stretch {
    Index first = 0;
    int count = 0;

    GLA_DEVICE int units() const { return (count + kUnit - 1) / kUnit; }
  };

  /// Starts to load a unit, if the stretch has it, and closes a group of copies. Without `queries`, what q and dO have is left out.
  GLA_DEVICE void start_unit(const Stretch& stretch, int unit, bool queries) const {
    const int at = unit * kUnit, rest = stretch.count - at;
    if (at >= 0 && rest > 0)
      copy_unit(unit_memory(unit), stretch.first + at, rest < kUnit ? rest : kUnit, queries);
    copy_async_commit();
  }

  /// Until the unit is there whose group of copies is the last but one. After use, end_unit().
  GLA_DEVICE static void await_unit() {
    copy_async_wait<1>();
    warp_sync();
  }
  GLA_DEVICE static void end_unit() { warp_sync(); }

  /// A token of a unit that is there, counted from the first of the stretch; what q and dO have of it if `queries`.
  GLA_DEVICE void read(Token& one, int at, bool queries) const {
    const unsigned char* base = unit_memory(static_cast<int>(static_cast<unsigned int>(at) / kUnit));
    const int i = static_cast<int>(static_cast<unsigned int>(at) % kUnit);
    base = read_across<Element>(one.across, base, i);
    if constexpr (kReadsLines) base = read_lines<Element>(one.line, base, i);
    if constexpr (kAcrossGate) base = read_across<Gate>(one.across_gate, base, i);
    if constexpr (kLineGate) base = read_lines<Gate>(one.line_gate, base, i);
    if (kOneQuery && queries) {
      base = read_across<Element>(one.across_query, base, i);
      read_lines<Element>(one.line_query, base, i);
    }
  }

  /// Calls use(query_head, line_query, across_query) for each query head of the token.
  template <class Use>
  GLA_DEVICE void each_query(const Token& one, Index t, Use use) const {
    if constexpr (kOneQuery) {
      use(head, one.line_query, one.across_query);
    } else {
      for (int query_head = head * kGroup; query_head < (head + 1) * kGroup; ++query_head) {
        HeldLines<Element> line;
        HeldAcross<Element> across[kQuads];
        line.template load<kLines, kWholeLines>(row_of<const Element>(line_query(), sequence, t, query_head),
                                                first_line);
        const Element* row = row_of<const Element>(across_query(), sequence, t, query_head);
        GLA_UNROLL
        for (int quad = 0; quad < kQuads; ++quad)
          across[quad].template load<kAcross, kWholeAcross>(row, channel(quad));
        use(query_head, line, across);
      }
    }
  }

 private:
  /// Rows of shared memory begin where as many channels of 16 bits may be read at once.
  static constexpr int kRowChannels = 16;

  GLA_DEVICE static unsigned char* unit_memory(int unit) {
    return shared_memory() + warp_index() * kShape.unit_bytes() * 2 + (unit & 1) * kShape.unit_bytes();
  }

  /// What no copy writes is zero.
  GLA_DEVICE static void clear_units() {
    for (int i = 16 * lane_index(); i < 2 * kShape.unit_bytes(); i += 16 * kWarpSize)
      *reinterpret_cast<Packet<16>*>(unit_memory(0) + i) = {};
    warp_sync();
  }

  GLA_DEVICE void copy_unit(unsigned char* base, Index step, int count, bool queries) const {
    base = copy_across<Element>(base, across_input(), step, count);
    if constexpr (kReadsLines) base = copy_lines<Element>(base, line_input(), step, count);
    if constexpr (kAcrossGate) base = copy_across<Gate>(base, across_gate(), step, count);
    if constexpr (kLineGate) base = copy_lines<Gate>(base, line_gate(), step, count);
    if (kOneQuery && queries) {
      base = copy_across<Element>(base, across_query(), step, count);
      copy_lines<Element>(base, line_query(), step, count);
    }
  }

  // A tensor's rows in a unit, and where the next tensor's are.

  template <class T, int kColumns, int kVector>
  GLA_DEVICE unsigned char* copy_tensor(unsigned char* base, int row_bytes, const Tensor& tensor, Index step,
                                        int count, int first_column, int columns) const {
    const RawTile<T> rows{base, row_bytes, kUnit, kColumns};
    const Index stride = Config::reverse ? -tensor.stride_token : tensor.stride_token;
    copy_rows<T, kUnit, kColumns, kVector, kWarpSize, (kVector >= 4)>(
        rows, row_of<const T>(tensor, sequence, token(step), head) + first_column, stride, count, columns,
        lane_index());
    return base + kUnit * row_bytes;
  }
  template <class T>
  GLA_DEVICE unsigned char* copy_across(unsigned char* base, const Tensor& tensor, Index step,
                                        int count) const {
    constexpr int kVector = row_alignment(kAcross, sizeof(T));
    return copy_tensor<T, kAcross, kVector>(base, kShape.across_row_bytes(sizeof(T)), tensor, step, count, 0,
                                            kAcross);
  }
  template <class T>
  GLA_DEVICE unsigned char* copy_lines(unsigned char* base, const Tensor& tensor, Index step,
                                       int count) const {
    constexpr int kVector =
        greatest_common_divisor(row_alignment(kLines, sizeof(T)), kWarpLines * static_cast<int>(sizeof(T)));
    const int first = tile * kWarpLines, rest = kLines - first;
    return copy_tensor<T, kWarpLines, kVector>(base, kShape.line_row_bytes(sizeof(T)), tensor, step, count,
                                               first, kWholeLines || rest > kWarpLines ? kWarpLines : rest);
  }

  template <class T>
  GLA_DEVICE const unsigned char* read_across(HeldAcross<T> (&held)[kQuads], const unsigned char* base,
                                              int i) const {
    constexpr int kRowBytes = kShape.across_row_bytes(sizeof(T));
    GLA_UNROLL
    for (int quad = 0; quad < kQuads; ++quad)
      held[quad].template load<kRowChannels, true>(reinterpret_cast<const T*>(base + i * kRowBytes),
                                                   channel(quad));
    return base + kUnit * kRowBytes;
  }
  template <class T>
  GLA_DEVICE const unsigned char* read_lines(HeldLines<T>& held, const unsigned char* base, int i) const {
    constexpr int kRowBytes = kShape.line_row_bytes(sizeof(T));
    held.template load<kRowChannels, true>(reinterpret_cast<const T*>(base + i * kRowBytes), own_line());
    return base + kUnit * kRowBytes;
  }
};

}  // namespace gla
