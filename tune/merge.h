// Shares of a tuning run, from several GPUs or machines, as one table.
#pragma once

#include <vector>

#include "table.h"

namespace gla {

/// Operations of which `share` has problems of other templates than today's, and another share of today's: its problems
/// of them are left out.
std::vector<Operation> superseded(const Table& share, const std::vector<Table>& shares);

/// One table with the problems of all but those. They must be of the same device, and of an operation's same templates; a
/// problem in several shares keeps, per workload and accuracy class, the fastest point.
Result<Table> merge_tables(const std::vector<Table>& shares);

}  // namespace gla
