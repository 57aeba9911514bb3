// Shares of a tuning run, from several GPUs or machines, as one table.
#pragma once

#include <vector>

#include "table.h"

namespace gla {

/// One table with the problems of all. They must be of the same device and templates; a problem in several shares
/// keeps, per workload and accuracy class, the fastest point.
Result<Table> merge_tables(const std::vector<Table>& shares);

}  // namespace gla
