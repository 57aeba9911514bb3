#include "dispatch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>

#include "gla/generator/model.h"
#include "gla/generator/space.h"

namespace gla {
namespace {

/// Octaves between the head dims of two problems that are otherwise alike enough to lend each other variants;
/// infinite if they are not. Twice or half a head dim is as far as a loan goes.
double kinship(const Problem& have, const Problem& want) {
  Problem alike = have;
  alike.head_dim_k = want.head_dim_k;
  alike.head_dim_v = want.head_dim_v;
  alike.group = want.group;
  alike.gate_dtype = want.gate_dtype;
  alike.gate_k = want.gate_k;
  alike.gate_v = want.gate_v;
  const auto octaves = [](int a, int b) { return std::abs(std::log2(static_cast<double>(a) / b)); };
  const double k = octaves(have.head_dim_k, want.head_dim_k);
  const double v = octaves(have.head_dim_v, want.head_dim_v);
  if (alike != want || k > 1 || v > 1) return std::numeric_limits<double>::infinity();
  const bool same_gates = have.gate_k == want.gate_k && have.gate_v == want.gate_v;
  return k + v + (have.group == want.group ? 0.0 : 0.5) + (same_gates ? 0.0 : 0.5) +
         (have.gate_dtype == want.gate_dtype ? 0.0 : 0.25);
}

Match match_of(TableFit fit, bool same_gpu) {
  switch (fit) {
    case TableFit::same_gpu:
      return Match::exact;
    case TableFit::asked_for:
      return same_gpu ? Match::exact : Match::similar_gpu;
    case TableFit::similar_gpu:
      return Match::similar_gpu;
    default:
      return Match::model;
  }
}

}  // namespace

std::size_t nearest(const std::vector<Site>& sites, const Coordinates& at) {
  std::size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < sites.size(); ++i) {
    if (const double away = distance(sites[i].at, at); away < least) {
      least = away;
      best = i;
    }
  }
  return best;
}

Coordinates bucket(const Coordinates& at) {
  return {std::round(at.parallel), std::round(at.tokens), at.packed};
}

Workload bucket_workload(const Coordinates& bucket) {
  const auto power = [](double octaves) {
    return std::int64_t{1} << std::clamp(static_cast<int>(octaves), 0, 40);
  };
  const std::int64_t sequences = power(bucket.parallel);
  const std::int64_t tokens = power(bucket.packed ? bucket.parallel + bucket.tokens : bucket.tokens);
  return {sequences, 1, tokens, bucket.packed};
}

struct Dispatcher::Memo {
  std::mutex mutex;
  std::map<std::tuple<Problem, Workload, Accuracy>, std::optional<Variant>> choices;
};

Dispatcher::Dispatcher(driver::Device device, std::vector<TableCandidate> tables, int max_multiprocessors)
    : architecture_(std::move(device.architecture)),
      tables_(std::move(tables)),
      device_name_(std::move(device.name)),
      memo_(std::make_shared<Memo>()) {
  std::erase_if(tables_, [](const TableCandidate& candidate) { return !is_used(candidate); });
  if (max_multiprocessors > 0)
    architecture_.multiprocessors = std::min(architecture_.multiprocessors, max_multiprocessors);
}

std::vector<Site> Dispatcher::legal_sites(const TableProblem& entry, const Problem& problem,
                                          Accuracy accuracy) const {
  std::vector<Site> sites, forms;  // of equally near ones what was measured comes first
  for (const Point& point : entry.points) {
    if (point.accuracy != accuracy || !meant_for(problem, point.variant, accuracy) ||
        !check(problem, architecture_, point.variant).ok())
      continue;
    const Coordinates at = coordinates(point.workload);
    sites.push_back({at, point.variant});
    if (const Variant form = packed_form(point.variant);
        !at.packed && check(problem, architecture_, form).ok())
      forms.push_back({{at.parallel, at.tokens, true}, form});
  }
  sites.insert(sites.end(), forms.begin(), forms.end());
  if (sites.empty() && accuracy == Accuracy::fast) return legal_sites(entry, problem, Accuracy::standard);
  return sites;
}

const TableProblem* Dispatcher::relative(const Table& table, const Problem& problem,
                                         Accuracy accuracy) const {
  const Problem key = tuning_key(problem);
  const TableProblem* best = nullptr;
  double least = std::numeric_limits<double>::infinity();
  for (const TableProblem& entry : table.problems) {
    const double away = kinship(entry.problem, key);
    if (away < least && !legal_sites(entry, problem, accuracy).empty()) {
      least = away;
      best = &entry;
    }
  }
  return best;
}

std::optional<Variant> Dispatcher::model_variant(const Problem& problem, const Workload& workload,
                                                 Accuracy accuracy) const {
  const std::tuple key(problem, workload, accuracy);
  {
    const std::lock_guard lock(memo_->mutex);
    if (const auto found = memo_->choices.find(key); found != memo_->choices.end()) return found->second;
  }
  std::optional<Variant> chosen = model_choice(problem, workload, accuracy, architecture_);
  if (chosen && workload.packed) {
    if (const Variant form = packed_form(*chosen); check(problem, architecture_, form).ok()) chosen = form;
  }
  const std::lock_guard lock(memo_->mutex);
  return memo_->choices.emplace(key, chosen).first->second;
}

Route Dispatcher::route(const Problem& problem, Accuracy accuracy) const {
  const auto from = [&](const TableCandidate& candidate, const TableProblem& entry) {
    Route route;
    route.match = match_of(candidate.fit,
                           candidate.table.origin.measured && candidate.table.device.name == device_name_);
    route.table = candidate.path;
    route.reason = candidate.reason;
    route.parallel_scale =
        static_cast<double>(candidate.table.device.multiprocessors) / architecture_.multiprocessors;
    route.sites = legal_sites(entry, problem, accuracy);
    return route;
  };
  for (const TableCandidate& candidate : tables_) {
    const TableProblem* entry = find_problem(candidate.table, problem);
    if (entry == nullptr) continue;
    if (Route route = from(candidate, *entry); !route.sites.empty()) return route;
  }
  for (const TableCandidate& candidate : tables_) {
    const TableProblem* entry = relative(candidate.table, problem, accuracy);
    if (entry == nullptr) continue;
    Route route = from(candidate, *entry);
    if (route.match == Match::exact) route.match = Match::nearest;
    route.reason += fmt::format("; no points for this problem, those of {} serve", to_string(entry->problem));
    return route;
  }
  Route route;
  route.reason = tables_.empty() ? "no table fits this GPU" : "no table has points for this problem";
  return route;
}

Result<Choice> Dispatcher::choose(const Route& route, const Problem& problem, const Workload& workload,
                                  Accuracy accuracy) const {
  const Coordinates at = coordinates(workload, route.parallel_scale);
  Choice choice;
  choice.match = route.match;
  choice.table = route.table;
  if (route.sites.empty()) {
    const Workload middle = bucket_workload(bucket(at));
    const std::optional<Variant> variant = model_variant(problem, middle, accuracy);
    if (!variant) {
      return Status{StatusCode::unsupported,
                    fmt::format("{} has no variant of accuracy {} that fits sm_{}; smaller head dims have",
                                to_string(problem), to_string(accuracy), architecture_.name)};
    }
    choice.variant = *variant;
    choice.reason =
        fmt::format("{}; the model's choice for the bucket around {}", route.reason, to_string(middle));
    return choice;
  }
  const Site& site = route.sites[nearest(route.sites, at)];
  choice.variant = site.variant;
  const bool exact = same_bucket(site.at, at);
  if (choice.match == Match::exact && !exact) choice.match = Match::nearest;
  choice.reason = exact ? fmt::format("{}; a point of this bucket", route.reason)
                        : fmt::format("{}; the nearest point is {:.1f} octaves away", route.reason,
                                      std::sqrt(distance(site.at, at)));
  return choice;
}

}  // namespace gla
