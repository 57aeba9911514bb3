// gla-tune verify: every variant against the fp64 reference, on the GPU.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <random>
#include <set>

#include "check.h"
#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "commands/tune_options.h"
#include "gla/generator/space.h"
#include "json.h"
#include "problem_json.h"
#include "progress.h"
#include "text_table.h"
#include "verification_case.h"
#include "worker.h"

namespace gla {
namespace {

constexpr std::size_t kOddSample = 24;  // variants of each problem beyond the default ones

struct VerifyOptions {
  ProblemOptions problems;
  int device = 0;
  std::string variant, cache;
  std::size_t sample = 0;
  double budget_seconds = std::numeric_limits<double>::infinity();
  unsigned seed = 1, jobs = 0;
  bool json = false, quiet = false, verbose = false;

  void add_to(CLI::App& command) {
    problems.add_to(command);
    command.add_option("--device", device, "CUDA ordinal (default: 0)");
    command.add_option("--variant", variant, "this variant only");
    command.add_option("--sample", sample,
                       "this many variants of each problem, drawn at random (default: all)");
    command.add_option_function<std::string>(
        "--budget", into(budget_seconds, "--budget", parse_duration),
        "wall time after which no further variant is started (default: none)");
    command.add_option("--seed", seed, "of the sample (default: 1)");
    command.add_option("--cache", cache, "folder of compiled kernels (default: the user's)");
    command.add_option("-j,--jobs", jobs, "compiling threads (default: one per core)");
    command.add_flag("--json", json, "print JSON, with every case");
    command.add_flag("-v,--verbose", verbose, "print the errors of every case");
    command.add_flag("-q,--quiet", quiet, "no progress line");
  }
  bool default_problems() const {
    return problems.operations.empty() && problems.dtypes.empty() && problems.head_dims.empty() &&
           problems.groups.empty() && problems.gate_dtype.empty() && !problems.gate_v;
  }
};

struct Subject {
  Problem problem;
  std::vector<Variant> variants;
};

struct Verified {
  Variant variant;
  Answer<Verification> answer;
  bool passed = false;
  std::string fault;
};

/// What else must work: masked head dims, grouped queries, other dtypes, gates of another type, gv.
std::vector<Problem> odd_problems() {
  std::vector<Problem> problems;
  for (const Operation operation : {Operation::chunk_forward, Operation::recurrent_forward}) {
    const auto add = [&](DType dtype, DType gates, int k, int v, int group, bool gate_v) {
      Problem problem;
      problem.operation = operation;
      problem.dtype = dtype;
      problem.gate_dtype = gates;
      problem.head_dim_k = static_cast<std::int16_t>(k);
      problem.head_dim_v = static_cast<std::int16_t>(v);
      problem.group = static_cast<std::int16_t>(group);
      problem.gate_v = gate_v;
      problems.push_back(problem);
    };
    add(DType::bf16, DType::bf16, 60, 100, 1, false);
    add(DType::bf16, DType::fp32, 100, 60, 4, false);
    add(DType::bf16, DType::bf16, 128, 256, 4, false);
    add(DType::fp16, DType::fp32, 128, 128, 1, false);
    add(DType::fp32, DType::fp32, 64, 64, 1, false);
    if (operation == Operation::recurrent_forward) add(DType::bf16, DType::bf16, 128, 128, 1, true);
  }
  return problems;
}

std::vector<Variant> sampled(std::vector<Variant> variants, std::size_t count, unsigned seed) {
  if (count == 0 || variants.size() <= count) return variants;
  std::mt19937 random(seed);
  std::shuffle(variants.begin(), variants.end(), random);
  variants.resize(count);
  return variants;
}

Result<std::vector<Subject>> subjects(const VerifyOptions& options, const Architecture& architecture) {
  const auto tasks = options.problems.tasks();
  if (!tasks.ok()) return tasks.status();
  std::vector<Subject> found;
  for (const TuningTask& task : *tasks) {
    if (options.variant.empty()) {
      found.push_back(
          {task.problem, sampled(space(task.problem, architecture), options.sample, options.seed)});
      continue;
    }
    const auto variant = parse_variant(options.variant);
    if (!variant.ok()) return variant.status();
    if (check(task.problem, architecture, *variant).ok()) found.push_back({task.problem, {*variant}});
  }
  if (found.empty())
    return invalid_argument(fmt::format("no problem has the variant \"{}\"", options.variant));
  if (!options.default_problems() || !options.variant.empty()) return found;
  const std::size_t sample = options.sample == 0 ? kOddSample : std::min(options.sample, kOddSample);
  for (const Problem& problem : odd_problems())
    found.push_back({problem, sampled(space(problem, architecture), sample, options.seed)});
  return found;
}

/// The problem itself and the layouts of it that the cases ask for.
std::set<Problem> layouts_of(const Problem& problem) {
  std::set<Problem> layouts;
  for (const VerificationCase& one : full_cases(problem)) layouts.insert(one.problem);
  return layouts;
}

/// Compiles every layout, ahead of the worker that asks for them; the problem's own last, since it is what is waited for.
void compile_ahead(CompilePool& pool, const Subject& subject, const Architecture& architecture) {
  const std::set<Problem> layouts = layouts_of(subject.problem);
  for (const Variant& variant : subject.variants) {
    for (const Problem& layout : layouts)
      if (layout != subject.problem && check(layout, architecture, variant).ok())
        pool.request(layout, {&variant, 1});
    pool.request(subject.problem, {&variant, 1});
  }
}

/// Each variant must reach the classes that it is meant for.
void judge(const Problem& problem, Verified& verified) {
  if (verified.answer.refused()) {
    verified.fault = verified.answer.refusal.reason + ": " + verified.answer.refusal.detail;
    return;
  }
  const Verdict& verdict = verified.answer.value.verdict;
  const bool standard = meant_for(problem, verified.variant, Accuracy::standard);
  verified.passed = standard ? verdict.standard : verdict.fast;
  if (!verified.passed) verified.fault = verdict.detail;
}

Json to_json(const Verified& verified) {
  Json cases = Json::array();
  for (const CaseOutcome& outcome : verified.answer.value.cases)
    cases.push(Json::object({{"name", outcome.name},
                             {"error_o", outcome.error_o},
                             {"worst_o", outcome.worst_o},
                             {"error_state", outcome.error_state},
                             {"worst_state", outcome.worst_state},
                             {"default", outcome.standard},
                             {"fast", outcome.fast},
                             {"detail", outcome.detail}}));
  return Json::object({{"variant", to_string(verified.variant)},
                       {"passed", verified.passed},
                       {"fault", verified.fault},
                       {"cases", cases}});
}

void print_cases(const Verified& verified) {
  for (const CaseOutcome& outcome : verified.answer.value.cases)
    fmt::print("    {:<48} o {:.2e} (worst head {:.2e}), state {:.2e} ({:.2e}){}\n", outcome.name,
               outcome.error_o, outcome.worst_o, outcome.error_state, outcome.worst_state,
               outcome.standard ? ""
               : outcome.fast   ? "  fast only"
                                : "  FAILS");
}

int run_verify(const VerifyOptions& options) {
  const auto device = driver::device(options.device);
  if (!device.ok()) return fail(device.status());
  const auto list = subjects(options, device->architecture);
  if (!list.ok()) return fail(list.status());
  CubinCache cache(options.cache.empty() ? CubinCache::default_folder() : options.cache);
  auto laboratory = WorkerLaboratory::start({own_path(), options.device, cache.folder()});
  if (!laboratory.ok()) return fail(laboratory.status());
  CompilePool pool(options.jobs, compile_into(cache, device->architecture));
  Progress progress(options.quiet);
  std::size_t total = 0, done = 0, failures = 0;
  for (const Subject& subject : *list) total += subject.variants.size();

  Json problems = Json::array();
  if (!list->empty()) compile_ahead(pool, list->front(), device->architecture);
  for (std::size_t s = 0; s < list->size(); ++s) {
    const Subject& subject = (*list)[s];
    if (s + 1 < list->size()) compile_ahead(pool, (*list)[s + 1], device->architecture);
    std::vector<Verified> results;
    double worst_o = 0, worst_state = 0;
    // Each problem gets its part of what is left of the budget.
    const double deadline = progress.elapsed() + (options.budget_seconds - progress.elapsed()) /
                                                     static_cast<double>(list->size() - s);
    for (std::vector<Variant> waiting = subject.variants;
         !waiting.empty() && progress.elapsed() < deadline;) {
      progress.update(fmt::format("{} of {} variants, {} failed; now {}", done, total, failures,
                                  to_string(subject.problem)),
                      done == 0 ? -1.0
                                : std::min(options.budget_seconds - progress.elapsed(),
                                           progress.elapsed() / static_cast<double>(done) *
                                               static_cast<double>(total - done)));
      const auto ready = pool.first_ready(subject.problem, waiting, 0.5);
      if (!ready) continue;
      Verified verified{waiting[*ready], {}, false, {}};
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(*ready));
      verified.answer = (*laboratory)->verify_fully(subject.problem, verified.variant);
      if (const Status health = (*laboratory)->health(); !health.ok()) return fail(health);
      judge(subject.problem, verified);
      worst_o = std::max(worst_o, verified.answer.value.verdict.error_o);
      worst_state = std::max(worst_state, verified.answer.value.verdict.error_state);
      ++done;
      if (!verified.passed) {
        ++failures;
        progress.note(fmt::format("FAILED {}\n  {}\n  {}", to_string(subject.problem),
                                  to_string(verified.variant), verified.fault));
      }
      results.push_back(std::move(verified));
    }
    const auto passed =
        std::count_if(results.begin(), results.end(), [](const Verified& one) { return one.passed; });
    for (const Problem& layout : layouts_of(subject.problem)) pool.cancel(layout);
    if (options.json) {
      Json variants = Json::array();
      for (const Verified& one : results) variants.push(to_json(one));
      problems.push(Json::object({{"problem", to_json(subject.problem)}, {"variants", variants}}));
      continue;
    }
    fmt::print("{}: {} of {} verified variants pass ({} in all), worst errors o {:.2e}, final state {:.2e}\n",
               to_string(subject.problem), passed, results.size(), subject.variants.size(), worst_o,
               worst_state);
    if (options.verbose) {
      for (const Verified& one : results) {
        fmt::print("  {}\n", to_string(one.variant));
        print_cases(one);
      }
    }
    std::fflush(stdout);
  }
  if (options.json) {
    fmt::print("{}\n", Json::object({{"device", device->name},
                                     {"variants", total},
                                     {"verified", done},
                                     {"failures", failures},
                                     {"problems", problems}})
                           .dump(2));
  } else {
    fmt::print("{} of {} variants verified in {}, {} failed\n", done, total,
               format_duration(progress.elapsed()), failures);
  }
  return failures == 0 ? kExitOk : kExitCheckFailed;
}

}  // namespace

void add_verify_command(CLI::App& app, int& exit_code) {
  add_command<VerifyOptions>(app, exit_code, "verify", "Check variants against the fp64 reference on the GPU",
                             run_verify)
      .footer(
          "Each variant must reach the accuracy that it is meant for, on all gates, layouts, states and "
          "packings.\n\n"
          "Examples:\n"
          "  gla-tune verify\n"
          "  gla-tune verify --sample 50 --budget 5m\n"
          "  gla-tune verify --op chunk_forward --head-dims 60x100 --group 4 --sample 20 -v");
}

}  // namespace gla
