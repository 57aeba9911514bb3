#include "merge.h"

#include <fmt/format.h>

#include <algorithm>

#include "gla/generator/render.h"

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
  for (const auto& [operation, hash] : b.origin.templates) {
    const auto same = a.origin.templates.find(operation);
    if (same != a.origin.templates.end() && same->second != hash)
      return differs("templates", same->second, hash);
  }
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

std::vector<Operation> superseded(const Table& share, const std::vector<Table>& shares) {
  std::vector<Operation> operations = outdated(share.origin);
  std::erase_if(operations, [&](Operation operation) {
    return std::none_of(shares.begin(), shares.end(), [&](const Table& other) {
      const auto found = other.origin.templates.find(operation);
      return found != other.origin.templates.end() && found->second == templates_hash(operation) &&
             std::any_of(other.problems.begin(), other.problems.end(),
                         [&](const TableProblem& entry) { return entry.problem.operation == operation; });
    });
  });
  return operations;
}

Result<Table> merge_tables(const std::vector<Table>& all) {
  if (all.empty()) return invalid_argument("no tables to merge");
  std::vector<Table> shares = all;
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (const Operation operation : superseded(all[i], all)) {
      shares[i].origin.templates.erase(operation);
      std::erase_if(shares[i].problems,
                    [&](const TableProblem& entry) { return entry.problem.operation == operation; });
    }
  }
  Table merged = shares.front();
  for (std::size_t i = 1; i < shares.size(); ++i) {
    if (Status status = check_alike(merged, shares[i]); !status.ok()) return status;
    std::map<Operation, std::string> templates = merged.origin.templates;
    templates.insert(shares[i].origin.templates.begin(), shares[i].origin.templates.end());
    if (shares[i].origin.date > merged.origin.date) merged.origin = shares[i].origin;  // the latest run's
    merged.origin.templates = std::move(templates);
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
