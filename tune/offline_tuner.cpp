#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <tuple>

#include "bars.h"
#include "gla/generator/model.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"
#include "judgement.h"
#include "parallel.h"
#include "search.h"
#include "tuner.h"
#include "workload_inputs.h"

namespace gla {
namespace {

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

/// A variant that compiles and fits, and what its verification said.
struct Candidate {
  Variant variant;
  Compiled compiled;
  std::string kernel;                     ///< its source
  std::optional<Answer<Verdict>> answer;  ///< none: not verified

  bool may_serve(const Problem& problem, Accuracy accuracy) const {
    return meant_for(problem, variant, accuracy) &&
           (!answer || (!answer->refused() && answer->value.reaches(accuracy)));
  }
};

/// A task on its way into the table.
struct OfflineTask {
  const TuningTask* task;
  std::vector<Candidate> candidates;
  Tally tally;
};

struct Ranked {
  double seconds;
  const Candidate* candidate;
};

/// Who may serve a point, the best first.
std::vector<Ranked> ranking(const OfflineTask& offline, const Workload& workload, Accuracy accuracy,
                            const Architecture& architecture) {
  const Problem& problem = offline.task->problem;
  std::vector<Ranked> order;
  for (const Candidate& one : offline.candidates)
    if (one.may_serve(problem, accuracy))
      order.push_back({predicted_seconds(problem, one.variant, workload, architecture, one.compiled), &one});
  std::sort(order.begin(), order.end(), [](const Ranked& a, const Ranked& b) {
    return std::tie(a.seconds, a.candidate->variant) < std::tie(b.seconds, b.candidate->variant);
  });
  return order;
}

/// Waits for the compilation of what is wanted of a task and sorts it into candidates and refusals.
void take_compiled(OfflineTask& offline, std::vector<Variant> waiting, CompilePool& pool, Progress& progress,
                   const Architecture& architecture, const std::function<void(std::size_t)>& ready_now) {
  const Problem& problem = offline.task->problem;
  while (!waiting.empty()) {
    const auto ready = pool.first_ready(problem, waiting, kWaitSeconds);
    ready_now(ready ? 1 : 0);
    if (!ready) continue;
    const Variant variant = waiting[*ready];
    waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(*ready));
    const auto compiled = pool.outcome(problem, variant);
    if (!compiled.ok()) {
      ++offline.tally.refused["compile"];
      progress.note(fmt::format("{}: {} does not compile: {}", to_string(problem), to_string(variant),
                                compiled.status().message()));
      continue;
    }
    ++offline.tally.compiled;
    if (const std::string reason = misfit(problem, variant, *compiled, architecture); !reason.empty()) {
      ++offline.tally.refused[reason];
      continue;
    }
    offline.candidates.push_back({variant, *compiled, render(problem, variant).text, std::nullopt});
  }
}

/// Takes what verification said of a kernel: for every candidate that it serves, and unless all is well before the
/// person's eyes.
void take_answer(OfflineTask& offline, const Candidate& verified, const Answer<Verdict>& answer,
                 Progress& progress) {
  const Problem& problem = offline.task->problem;
  const bool out = answer.refused() || !answer.value.fast;
  const bool coarse =
      !out && !answer.value.standard && meant_for(problem, verified.variant, Accuracy::standard);
  const Refusal refusal = answer.refused() ? answer.refusal : Refusal{"wrong", answer.value.detail};
  if (out || coarse)
    progress.note(fmt::format("refused ({}): {}: {}\n  {}", out ? refusal.reason : "default accuracy",
                              to_string(problem), to_string(verified.variant), refusal.detail));
  for (Candidate& one : offline.candidates) {
    if (one.kernel != verified.kernel) continue;
    one.answer = answer;
    ++(out ? offline.tally.refused[refusal.reason] : offline.tally.verified);
  }
}

/// Of a candidate, and of the other kernel that serves packed sequences where it is recommended.
Answer<Verdict> verified(const Problem& problem, const Candidate& candidate, const Architecture& architecture,
                         const VerifyVariant& verify) {
  const auto answer = verify(problem, candidate.variant);
  const Variant form = packed_form(candidate.variant);
  if (answer.refused() || !answer.value.fast || !check(problem, architecture, form).ok() ||
      render(problem, form).text == candidate.kernel)
    return answer;
  const auto refusal = refusal_of_packed_form(answer.value, form, verify(problem, form));
  return refusal ? Answer<Verdict>{{}, *refusal} : answer;
}

/// Verifies what the points recommend, and then what they recommend instead, until each recommendation is verified. A
/// kernel that serves several variants (segments are not compiled in) is verified once.
void verify_recommended(std::vector<OfflineTask>& tasks, const Architecture& architecture,
                        const OfflineOptions& options, Progress& progress) {
  struct Recommended {
    OfflineTask* offline;
    const Candidate* candidate;
  };
  while (true) {
    std::vector<Recommended> unverified;
    const auto recommend = [&](OfflineTask& offline, const Candidate& candidate) {
      const bool listed = std::any_of(unverified.begin(), unverified.end(), [&](const Recommended& one) {
        return one.offline == &offline && one.candidate->kernel == candidate.kernel;
      });
      if (!candidate.answer && !listed) unverified.push_back({&offline, &candidate});
    };
    for (OfflineTask& offline : tasks) {
      for (const Workload& workload : offline.task->workloads) {
        for (const Accuracy accuracy : kAllAccuracies) {
          const auto order = ranking(offline, workload, accuracy, architecture);
          if (!order.empty()) recommend(offline, *order.front().candidate);
        }
      }
    }
    if (unverified.empty()) return;
    std::mutex mutex;
    std::size_t done = 0;
    in_parallel(unverified.size(), options.jobs, [&](std::size_t i) {
      OfflineTask& offline = *unverified[i].offline;
      const Candidate& candidate = *unverified[i].candidate;
      const auto answer = verified(offline.task->problem, candidate, architecture, options.verify);
      const std::lock_guard lock(mutex);
      take_answer(offline, candidate, answer, progress);
      ++done;
      progress.update(
          fmt::format("{} of {} recommended kernels verified on the emulator", done, unverified.size()),
          -1.0);
    });
  }
}

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
  std::vector<OfflineTask> work;
  std::vector<std::vector<Variant>> wanted;
  std::size_t total = 0;
  for (const TuningTask& task : tasks) {
    const auto variants = space(task.problem, architecture);
    work.push_back({&task, {}, {}});
    work.back().tally.space = static_cast<int>(variants.size());
    auto order = ranked(task.problem, variants, task.workloads, architecture);
    order.resize(std::min(order.size(), options.compile_top));
    pool.request(task.problem, order);
    total += order.size();
    wanted.push_back(std::move(order));
  }
  std::size_t done = 0;
  for (std::size_t t = 0; t < work.size(); ++t) {
    take_compiled(work[t], std::move(wanted[t]), pool, progress, architecture, [&](std::size_t more) {
      done += more;
      progress.update(
          fmt::format("{} of {} variants compiled, now {}", done, total, to_string(tasks[t].problem)),
          done == 0 ? -1.0
                    : progress.elapsed() * static_cast<double>(total - done) / static_cast<double>(done));
    });
  }
  if (options.verify) verify_recommended(work, architecture, options, progress);

  TunedTable tuned;
  for (const OfflineTask& offline : work) {
    const Problem& problem = offline.task->problem;
    TableProblem result{.problem = problem, .tally = offline.tally, .points = {}};
    std::vector<double> runners_up;
    for (const Workload& workload : offline.task->workloads) {
      for (const Accuracy accuracy : kAllAccuracies) {
        const auto order = ranking(offline, workload, accuracy, architecture);
        if (order.empty()) continue;
        const auto& [seconds, best] = order.front();
        Point point;
        point.accuracy = accuracy;
        point.workload = workload;
        point.gates = to_string(Gates::sixteenth);
        point.variant = best->variant;
        point.seconds = seconds;
        const bool states = timed_with_states(problem.operation);
        point.floor_share =
            std::min(1.0, floor_bytes(problem, workload, states) / options.copy_bandwidth / seconds);
        if (best->answer) {
          point.error_o = best->answer->value.error_o;
          point.error_state = best->answer->value.error_state;
        }
        result.points.push_back(point);
        runners_up.push_back(order.size() > 1 ? order[1].seconds : 0);
      }
    }
    tuned.table.problems.push_back(std::move(result));
    tuned.runner_up_seconds.push_back(std::move(runners_up));
  }
  return tuned;
}

}  // namespace gla
