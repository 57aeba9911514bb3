#include <algorithm>
#include <cmath>
#include <limits>

#include "gla/generator/render.h"
#include "table.h"

namespace gla {

Coordinates coordinates(const Workload& workload, double parallel_scale) {
  const double sequences = static_cast<double>(std::max<std::int64_t>(workload.sequences, 1));
  const double heads = static_cast<double>(std::max<std::int64_t>(workload.heads, 1));
  const double tokens = static_cast<double>(workload.tokens) / (workload.packed ? sequences : 1.0);
  return {std::log2(sequences * heads * parallel_scale), std::log2(std::max(tokens, 1.0)), workload.packed};
}

double distance(const Coordinates& a, const Coordinates& b) {
  const double parallel = a.parallel - b.parallel;
  const double tokens = a.tokens - b.tokens;
  return parallel * parallel + tokens * tokens + (a.packed == b.packed ? 0.0 : 1.0);
}

bool same_bucket(const Coordinates& a, const Coordinates& b) {
  return a.packed == b.packed && std::abs(a.parallel - b.parallel) <= 0.5 &&
         std::abs(a.tokens - b.tokens) <= 0.5;
}

std::map<Operation, std::string> current_templates(const std::vector<TableProblem>& problems) {
  std::map<Operation, std::string> templates;
  for (const TableProblem& entry : problems)
    templates[entry.problem.operation] = templates_hash(entry.problem.operation);
  return templates;
}

std::vector<Operation> outdated(const TableOrigin& origin) {
  std::vector<Operation> operations;
  for (const auto& [operation, hash] : origin.templates)
    if (hash != templates_hash(operation)) operations.push_back(operation);
  return operations;
}

const TableProblem* find_problem(const Table& table, const Problem& problem) {
  const Problem key = tuning_key(problem);
  const auto found = std::find_if(table.problems.begin(), table.problems.end(),
                                  [&](const TableProblem& entry) { return entry.problem == key; });
  return found == table.problems.end() ? nullptr : &*found;
}

Lookup lookup(const Table& table, const Problem& problem, const Workload& workload, Accuracy accuracy,
              double parallel_scale) {
  const TableProblem* entry = find_problem(table, problem);
  if (entry == nullptr) return {};
  const Coordinates wanted = coordinates(workload, parallel_scale);
  Lookup best;
  double least = std::numeric_limits<double>::infinity();
  for (const Point& point : entry->points) {
    if (point.accuracy != accuracy) continue;
    const Coordinates here = coordinates(point.workload);
    if (const double away = distance(wanted, here); away < least) {
      least = away;
      best = {&point, same_bucket(wanted, here)};
    }
  }
  if (best.point == nullptr && accuracy == Accuracy::fast)
    return lookup(table, problem, workload, Accuracy::standard, parallel_scale);
  return best;
}

}  // namespace gla
