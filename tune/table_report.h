// A dispatch table for people, and as JSON.
#pragma once

#include <string>
#include <vector>

#include "json.h"
#include "table.h"

namespace gla {

/// `runner_up_seconds`: per problem and point the second best time, or empty where that is not known.
std::string format_report(const Table& table, const std::vector<std::vector<double>>& runner_up_seconds);

Json to_json(const Table& table);

}  // namespace gla
