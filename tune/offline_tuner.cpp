#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "bars.h"
#include "gla/generator/model.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"
#include "search.h"
#include "tuner.h"
#include "workload_inputs.h"

namespace gla {
namespace {

constexpr Accuracy kClasses[] = {Accuracy::standard, Accuracy::fast};
// A spilled byte costs about as much as 1/500 of the kernel: ten spilled registers, 8 %.
constexpr double kSpillCost = 0.002;
constexpr double kWaitSeconds = 0.5;

/// Why the compiled kernels cannot run on the architecture; empty if they can.
std::string misfit(const Problem& problem, const Variant& variant, const Compiled& compiled,
                   const Architecture& architecture) {
  const auto shapes = entry_shapes(problem, variant);
  for (std::size_t i = 0; i < shapes.size() && i < compiled.resources.size(); ++i) {
    const auto shared = static_cast<std::size_t>(compiled.resources[i].shared_bytes) + shapes[i].shared_bytes;
    if (occupancy(architecture, shapes[i].threads, compiled.resources[i].registers, shared) < 1)
      return "resources";
  }
  return {};
}

struct Candidate {
  Variant variant;
  Compiled compiled;
};

}  // namespace

double predicted_seconds(const Problem& problem, const Variant& variant, const Workload& workload,
                         const Architecture& architecture, const Compiled& compiled) {
  int spilled = 0;
  for (const KernelResources& resources : compiled.resources)
    spilled = std::max(spilled, resources.spill_bytes);
  return predicted_seconds(problem, variant, workload, architecture) * (1 + kSpillCost * spilled);
}

Result<TunedTable> tune_offline(CompilePool& pool, Progress& progress, const Architecture& architecture,
                                const std::vector<TuningTask>& tasks, const OfflineOptions& options) {
  std::vector<std::vector<Variant>> wanted;
  std::size_t total = 0, done = 0;
  std::vector<int> space_sizes;
  for (const TuningTask& task : tasks) {
    const auto variants = space(task.problem, architecture);
    space_sizes.push_back(static_cast<int>(variants.size()));
    auto order = ranked(task.problem, variants, task.workloads, architecture);
    order.resize(std::min(order.size(), static_cast<std::size_t>(options.compile_top)));
    pool.request(task.problem, order);
    total += order.size();
    wanted.push_back(std::move(order));
  }

  TunedTable tuned;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const TuningTask& task = tasks[t];
    TableProblem result;
    result.problem = task.problem;
    result.tally.space = space_sizes[t];
    std::vector<Candidate> candidates;
    for (std::vector<Variant> waiting = wanted[t]; !waiting.empty();) {
      progress.update(
          fmt::format("{} of {} variants compiled, now {}", done, total, to_string(task.problem)),
          done == 0 ? -1.0
                    : progress.elapsed() * static_cast<double>(total - done) / static_cast<double>(done));
      const auto ready = pool.first_ready(task.problem, waiting, kWaitSeconds);
      if (!ready) continue;
      ++done;
      const Variant variant = waiting[*ready];
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(*ready));
      const auto compiled = pool.outcome(task.problem, variant);
      if (!compiled.ok()) {
        ++result.tally.refused["compile"];
        progress.note(fmt::format("{}: {} does not compile: {}", to_string(task.problem), to_string(variant),
                                  compiled.status().message()));
        continue;
      }
      ++result.tally.compiled;
      if (const std::string reason = misfit(task.problem, variant, *compiled, architecture);
          !reason.empty()) {
        ++result.tally.refused[reason];
        continue;
      }
      candidates.push_back({variant, *compiled});
    }
    std::vector<double> runners_up;
    for (const Workload& workload : task.workloads) {
      for (const Accuracy accuracy : kClasses) {
        std::vector<std::pair<double, Variant>> order;
        for (const Candidate& candidate : candidates)
          if (meant_for(task.problem, candidate.variant, accuracy))
            order.emplace_back(predicted_seconds(task.problem, candidate.variant, workload, architecture,
                                                 candidate.compiled),
                               candidate.variant);
        if (order.empty()) continue;
        std::sort(order.begin(), order.end());
        Point point;
        point.accuracy = accuracy;
        point.workload = workload;
        point.gates = to_string(Gates::sixteenth);
        point.variant = order.front().second;
        point.seconds = order.front().first;
        const bool states = timed_with_states(task.problem.operation);
        point.floor_share = std::min(
            1.0, floor_bytes(task.problem, workload, states) / options.copy_bandwidth / point.seconds);
        result.points.push_back(point);
        runners_up.push_back(order.size() > 1 ? order[1].first : 0);
      }
    }
    tuned.table.problems.push_back(std::move(result));
    tuned.runner_up_seconds.push_back(std::move(runners_up));
  }
  return tuned;
}

}  // namespace gla
