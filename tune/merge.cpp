#include "merge.h"

#include <fmt/format.h>

#include <algorithm>

namespace gla {
namespace {

Status check_alike(const Table& a, const Table& b) {
  const auto differs = [](const char* what, const auto& left, const auto& right) {
    return Status{
        StatusCode::invalid_argument,
        fmt::format(
            "shares differ in {}: \"{}\" and \"{}\"; only tables of one GPU model and one gla-tune merge",
            what, left, right)};
  };
  if (a.device.name != b.device.name) return differs("device", a.device.name, b.device.name);
  if (a.device.architecture != b.device.architecture)
    return differs("architecture", a.device.architecture, b.device.architecture);
  if (a.origin.templates_hash != b.origin.templates_hash)
    return differs("templates", a.origin.templates_hash, b.origin.templates_hash);
  if (a.origin.measured != b.origin.measured)
    return differs("measured", a.origin.measured, b.origin.measured);
  return {};
}

void merge_problem(TableProblem& into, const TableProblem& from) {
  for (const Point& point : from.points) {
    const auto same = std::find_if(into.points.begin(), into.points.end(), [&](const Point& other) {
      return other.accuracy == point.accuracy && other.workload == point.workload;
    });
    if (same == into.points.end()) {
      into.points.push_back(point);
    } else if (point.seconds < same->seconds) {
      *same = point;
    }
  }
  // The same variants may have been tried in both: the larger count is what is certain.
  Tally& tally = into.tally;
  tally.space = std::max(tally.space, from.tally.space);
  tally.compiled = std::max(tally.compiled, from.tally.compiled);
  tally.verified = std::max(tally.verified, from.tally.verified);
  tally.measured = std::max(tally.measured, from.tally.measured);
  for (const auto& [reason, count] : from.tally.refused)
    tally.refused[reason] = std::max(tally.refused[reason], count);
}

}  // namespace

Result<Table> merge_tables(const std::vector<Table>& shares) {
  if (shares.empty()) return invalid_argument("no tables to merge");
  Table merged = shares.front();
  for (std::size_t i = 1; i < shares.size(); ++i) {
    if (Status status = check_alike(merged, shares[i]); !status.ok()) return status;
    merged.origin.date = std::max(merged.origin.date, shares[i].origin.date);
    for (const TableProblem& problem : shares[i].problems) {
      const auto same =
          std::find_if(merged.problems.begin(), merged.problems.end(),
                       [&](const TableProblem& other) { return other.problem == problem.problem; });
      if (same == merged.problems.end()) {
        merged.problems.push_back(problem);
      } else {
        merge_problem(*same, problem);
      }
    }
  }
  return merged;
}

}  // namespace gla
