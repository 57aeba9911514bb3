// How far an output is from the reference: the relative error of PEERS.md, overall and for the worst
// (sequence, head).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "args.h"

namespace gla {

struct ErrorReport {
  double overall = 0;  ///< ||x - ref|| / ||ref|| over the whole tensor
  double worst = 0;    ///< the same over the worst single (sequence, head); see summarize()
  std::int64_t worst_sequence = 0;
  std::int64_t worst_head = 0;
  std::int64_t nan_mismatches = 0;  ///< elements that are NaN or inf in one and not in the other
};

/// What is compared: o, whose sequences follow each other as [tokens, heads, channels], or states, which are
/// [sequence, head, row, channel].
struct Extent {
  std::vector<std::int64_t> lengths;  ///< tokens of each sequence; of a state: its rows, the same for all
  std::int64_t heads = 1;
  std::int64_t channels = 1;
  bool state = false;
};

/// Sums per (sequence, head) over a dense tensor.
std::vector<CompareSums> compare(std::span<const float> value, std::span<const double> reference,
                                 const Extent& extent);

/// The report of sums [N, heads]. A (sequence, head) whose reference is small by chance (one token with q
/// almost orthogonal to k) is measured against a quarter of the tensor's root mean square instead of its own
/// norm.
ErrorReport summarize(std::span<const CompareSums> sums, const Extent& extent);

}  // namespace gla
