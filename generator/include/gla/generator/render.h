// Problem + variant -> source text for NVRTC, and how to launch what it compiles to. Pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/problem.h"
#include "gla/generator/variant.h"

namespace gla {

/// A header of templates/, embedded at build time; `name` is what #include says.
struct EmbeddedFile {
  std::string_view name;
  std::string_view text;
};
std::span<const EmbeddedFile> embedded_templates();

/// Hex digest over all embedded templates. (The cubin cache hashes the rendered source too.)
std::string_view templates_hash();
/// Those that the kernels of an operation are made of, of all families that serve it; by name.
std::vector<EmbeddedFile> templates_of(Operation operation);
/// Hex digest over them: a table's times hold for these.
const std::string& templates_hash(Operation operation);

/// A translation unit: the generated lines; every #include in it names an embedded template.
struct Source {
  std::string name;  ///< file name that compiler messages show
  std::string text;
  std::vector<std::string> entries;  ///< extern "C" kernels, in launch order
  /// Where in the text each entry begins, if they share what stands before the first and nothing else; otherwise
  /// empty. Such entries can be compiled one by one.
  std::vector<std::size_t> begins = {};
};

/// The kernels of a variant. Precondition: check(problem, architecture, variant) is ok.
Source render(const Problem& problem, const Variant& variant);

/// What a backward operation may be asked for, as bits.
enum Gradient : unsigned {
  kGradientQ = 1,
  kGradientK = 2,
  kGradientV = 4,
  kGradientGk = 8,
  kGradientState = 16,  ///< of the initial state
  kGradientGv = 32,
  kAllGradients = 63,
};
/// Of a forward call, beside those: a scan over segments, which do not chain themselves (LaunchPlan::may_chain).
constexpr unsigned kSegmentScan = 64;

/// Walks of whole sequences that may be cut into legs (templates/args.h, Relay); others are `none`.
enum class WalkKind { inputs, values, keys, none };
inline constexpr std::size_t kRelayedWalks = 3;

/// One launch: entry `entry` of the source; its only parameter is a KernelArgs (templates/args.h), with boxes in the plan
/// a TensorArgs, of a backward operation a BackwardArgs (templates/backward_args.h).
struct Launch {
  int entry = 0;
  std::int64_t grid = 1;  ///< blocks, all along x
  int threads = 1;
  std::size_t shared_bytes = 0;
  int cluster = 1;  ///< blocks of a cluster, which `grid` is a multiple of
  unsigned needs =
      0;  ///< bits of Gradient, or kSegmentScan: left out of calls that need none; 0: in all of them
  WalkKind walk = WalkKind::none;
  int chunk = 0;               ///< what legs of the walk are multiples of, in tokens
  int resident = 1;            ///< blocks of it that a multiprocessor has room for
  bool may_run_aside = false;  ///< nothing else in the plan needs it, nor it anything
  bool aside = false;          ///< beside all others, where they leave room

  /// Says that the launch is a walk over whole sequences by chunks of so many tokens, with room for `min_blocks` blocks on a
  /// multiprocessor at the least.
  void may_be_cut(WalkKind kind, int tokens, int min_blocks);
  bool is_for(unsigned needed) const { return needs == 0 || (needs & needed) != 0; }
  bool operator==(const Launch&) const = default;
};

/// Launches in fixed storage: the launch path copies and keeps plans without allocating.
class Launches {
 public:
  /// Throws std::out_of_range past the storage: a family with more launches needs more of it.
  void add(const Launch& launch) { storage_.at(count_++) = launch; }

  std::size_t size() const { return count_; }
  const Launch& operator[](std::size_t i) const { return storage_[i]; }
  const Launch* begin() const { return storage_.data(); }
  const Launch* end() const { return storage_.data() + count_; }
  Launch* begin() { return storage_.data(); }
  Launch* end() { return storage_.data() + count_; }
  bool operator==(const Launches&) const = default;

 private:
  std::array<Launch, 8> storage_{};
  std::size_t count_ = 0;
};

/// What the tensor maps of a launch (templates/args.h) depend on besides its KernelArgs.
struct TensorBoxes {
  int rows = 0;  ///< tokens of a box, 256 at most; 0: the kernels take KernelArgs
  int head_dim_k = 0, head_dim_v = 0;
  int group = 1;                ///< HQ / H
  int element_bytes = 0;        ///< of q, k, v and o
  int gate_bytes = 0;           ///< of gk; 0: no gates
  int gate_gradient_bytes = 0;  ///< of dgk

  bool operator==(const TensorBoxes&) const = default;
};

/// Of a walk in legs: a Relay of templates/args.h.
struct RelayPlan {
  std::int64_t legs = 0, leg_tokens = 0;
  std::size_t states_offset = 0, flows_offset = 0, counters_offset = 0;

  bool operator==(const RelayPlan&) const = default;
};

/// Of packed sequences: a Schedule of templates/args.h.
struct SchedulePlan {
  std::int64_t walks = 0;     ///< 0: there is none
  std::int64_t segments = 0;  ///< Schedule.segments
  std::int64_t share = 0;     ///< Schedule.share
  std::size_t offset = 0;     ///< in the workspace

  bool operator==(const SchedulePlan&) const = default;
};

/// The launches of one call, in order on one stream, the workspace they share and the tensor maps that they need.
struct LaunchPlan {
  Launches launches;
  std::size_t workspace_bytes = 0;  ///< 256-byte aligned, not initialised
  std::int64_t segment_tokens = 0;  ///< KernelArgs.segment_tokens; 0: segments have no states in memory
  std::int64_t segments =
      0;  ///< KernelArgs.segments, of packed sequences Schedule.segments; overlapping ones are one if reads_late and there is no copy
  bool reads_late = false;  ///< initial states may be read when there are final ones already
  SchedulePlan schedule;
  bool may_chain = false;  ///< KernelArgs.segments_chain, if no final state takes the initial one's place
  std::size_t decays_offset = 0;  ///< of KernelArgs.segment_decays in the workspace; segment_states lies at 0
  std::size_t flows_offset = 0;   ///< of BackwardArgs.flows in the workspace of a backward operation
  std::size_t gradients_offset = 0;                     ///< of BackwardArgs.segment_gradients
  std::size_t gradient_decays_offset = 0;               ///< of BackwardArgs.segment_gradient_decays
  std::array<RelayPlan, kRelayedWalks> relays;          ///< by WalkKind
  std::size_t counters_offset = 0, counters_bytes = 0;  ///< of all relays, to be zero before the first launch
  TensorBoxes boxes;

  bool operator==(const LaunchPlan&) const = default;
};

/// What walks may be cut for. Whole sequences are cut into legs: the last wave of a launch's blocks has next to nothing to do where
/// they are not far above a multiple of what there is room for. Where segments are, their last ones are shorter. Packed ones are cut
/// into segments where they are long beside what each multiprocessor has to do. Of a device that is not known there are no legs,
/// segments are as long as each other, and packed sequences are cut as if all ran at once.
struct Relaying {
  int multiprocessors = 0;  ///< of the device; 0: not known
  int legs = 0;             ///< for tests, of every walk that can be cut; 0: as many as seem best
};
LaunchPlan plan(const Problem& problem, const Variant& variant, const Workload& workload,
                const Relaying& relaying = {});

/// Threads and dynamic shared memory of an entry, which do not depend on the workload.
struct EntryShape {
  int threads = 1;
  std::size_t shared_bytes = 0;
  int min_blocks = 1;
};
std::vector<EntryShape> entry_shapes(const Problem& problem, const Variant& variant);

/// Tools for verification, written as templates like the kernels: entries "fill", "compare" and "naive".
///  fill     random inputs (templates/random.h); args FillArgs
///  compare  sums of squares of an output against fp32 reference per (sequence, head); args CompareArgs
///  naive    the recurrence of `problem` in fp64, o and final_state written as fp32; args KernelArgs
Source render_tools(const Problem& problem);
std::vector<EntryShape> tool_shapes();

}  // namespace gla
