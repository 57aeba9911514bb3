// gla-tune verify: every variant against the fp64 reference, on the GPU or on the emulator.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <random>

#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "commands/tune_options.h"
#include "commands/verify_report.h"
#include "emulated_verifier.h"
#include "emulator_home.h"
#include "gla/generator/space.h"
#include "parallel.h"
#include "verification_case.h"
#include "worker.h"

namespace gla {
namespace {

constexpr std::size_t kOddSample = 16;      // variants of each problem beyond those that were asked for
constexpr std::size_t kEmulatedSample = 4;  // of each problem unless --sample says otherwise: seconds each

struct VerifyOptions {
  ProblemOptions problems;
  int device = 0;
  std::string variant, cache, arch = kDefaultArchitecture;
  std::optional<std::size_t> sample;
  double budget_seconds = std::numeric_limits<double>::infinity();
  unsigned seed = 1, jobs = 0;
  bool emulate = false, json = false, quiet = false, verbose = false;

  void add_to(CLI::App& command) {
    problems.add_to(command);
    auto* emulator =
        command.add_flag("--emulate", emulate, "run on the CPU: needs a C++ compiler, no GPU and no NVRTC");
    command.add_option("--device", device, "CUDA ordinal (default: 0)")->excludes(emulator);
    command
        .add_option("--arch", arch,
                    fmt::format("with --emulate: whose space is meant (default: {})", kDefaultArchitecture))
        ->needs(emulator);
    command.add_option("--variant", variant, "this variant only");
    command.add_option("--sample", sample,
                       fmt::format("this many variants of each problem, drawn at random; 0: all (default: "
                                   "all, with --emulate {})",
                                   kEmulatedSample));
    command.add_option_function<std::string>(
        "--budget", into(budget_seconds, "--budget", parse_duration),
        "wall time after which no further variant is started (default: none)");
    command.add_option(
        "--seed", seed,
        "of the sample; with --emulate also of the inputs and the order of threads (default: 1)");
    command.add_option("--cache", cache, "folder of compiled kernels (default: the user's)");
    command.add_option("-j,--jobs", jobs, "compiling or emulating threads (default: one per core)");
    command.add_flag("--json", json, "print JSON, with every case");
    command.add_flag("-v,--verbose", verbose, "print the errors of every case");
    command.add_flag("-q,--quiet", quiet, "no progress line");
  }
  bool default_problems() const {
    return problems.operations.empty() && problems.dtypes.empty() && problems.head_dims.empty() &&
           problems.groups.empty() && problems.gate_dtype.empty() && !problems.gate_v;
  }
  std::size_t variants_of_each() const { return sample.value_or(emulate ? kEmulatedSample : 0); }
  VerifyReport::Form form() const {
    return json      ? VerifyReport::Form::json
           : verbose ? VerifyReport::Form::every_case
                     : VerifyReport::Form::text;
  }
};

/// Each problem gets a part of what is left when its first variant is started, as large as its number of variants.
class Budget {
 public:
  Budget(double seconds, const std::vector<Subject>& subjects, const Progress& progress)
      : seconds_(seconds), left_(subjects.size() + 1), deadlines_(subjects.size()), progress_(&progress) {
    for (std::size_t s = subjects.size(); s-- > 0;) left_[s] = left_[s + 1] + subjects[s].variants.size();
  }

  bool spent(std::size_t subject) {
    const std::lock_guard lock(mutex_);
    const double now = progress_->elapsed();
    std::optional<double>& deadline = deadlines_[subject];
    if (!deadline) {
      const auto variants = static_cast<double>(left_[subject] - left_[subject + 1]);
      deadline = now + (seconds_ - now) * variants / static_cast<double>(left_[subject]);
    }
    return now >= *deadline;
  }

 private:
  double seconds_;
  std::mutex mutex_;
  std::vector<std::size_t> left_;  ///< variants from this subject on
  std::vector<std::optional<double>> deadlines_;
  const Progress* progress_;
};

/// What else must work: masked head dims, grouped queries, other dtypes, gates of another type, gv, other layouts.
std::vector<Problem> odd_problems() {
  std::vector<Problem> problems;
  for (const Operation operation : kOperations) {
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
    Problem common;
    common.operation = operation;
    common.head_dim_k = common.head_dim_v = 128;
    for (const Problem& layout : other_layouts(common)) problems.push_back(layout);
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
  std::vector<Problem> asked, others;
  for (const TuningTask& task : *tasks) asked.push_back(task.problem);
  if (options.default_problems()) {
    others = odd_problems();
  } else {
    for (const Problem& problem : asked)
      for (const Problem& layout : other_layouts(problem)) others.push_back(layout);
  }
  std::vector<Subject> found;
  if (!options.variant.empty()) {
    const auto variant = parse_variant(options.variant);
    if (!variant.ok()) return variant.status();
    for (const std::vector<Problem>* problems : {&asked, &others})
      for (const Problem& problem : *problems)
        if (check(problem, architecture, *variant).ok()) found.push_back({problem, {*variant}});
    if (!found.empty()) return found;
    return invalid_argument(fmt::format("no problem has the variant \"{}\"", options.variant));
  }
  const std::size_t count = options.variants_of_each();
  const std::size_t few = count == 0 ? kOddSample : std::min(count, kOddSample);
  for (const Problem& problem : asked)
    found.push_back({problem, sampled(space(problem, architecture), count, options.seed)});
  for (const Problem& problem : others)
    found.push_back({problem, sampled(space(problem, architecture), few, options.seed)});
  return found;
}

int verify_on_gpu(const VerifyOptions& options, Progress& progress) {
  const auto device = driver::device(options.device);
  if (!device.ok()) return fail(device.status());
  const auto list = subjects(options, device->architecture);
  if (!list.ok()) return fail(list.status());
  CubinCache cache(options.cache.empty() ? CubinCache::default_folder() : options.cache);
  auto laboratory = WorkerLaboratory::start({own_path(), options.device, cache.folder()});
  if (!laboratory.ok()) return fail(laboratory.status());
  CompilePool pool(options.jobs, compile_into(cache, device->architecture));
  VerifyReport report(*list, options.form(), options.budget_seconds, progress);
  Budget budget(options.budget_seconds, *list, progress);

  const auto compile_ahead = [&](std::size_t s) {
    if (s < list->size()) pool.request((*list)[s].problem, (*list)[s].variants);
  };
  compile_ahead(0);
  for (std::size_t s = 0; s < list->size(); ++s) {
    const Subject& subject = (*list)[s];
    compile_ahead(s + 1);
    for (std::vector<Variant> waiting = subject.variants; !waiting.empty() && !budget.spent(s);) {
      report.now_at(s);
      const auto ready = pool.first_ready(subject.problem, waiting, 0.5);
      if (!ready) continue;
      const Variant variant = waiting[*ready];
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(*ready));
      auto answer = (*laboratory)->verify_fully(subject.problem, variant);
      if (const Status health = (*laboratory)->health(); !health.ok()) return fail(health);
      report.add(s, variant, std::move(answer));
    }
    pool.cancel(subject.problem);
    report.close(s);
  }
  return report.finish({device->name, "sm_" + device->architecture.name, options.seed});
}

/// A subject on the emulator: its inputs and references live from its first variant to its last.
struct EmulatedSubject {
  std::once_flag start;
  std::unique_ptr<EmulatedVerifier> verifier;
  std::atomic<std::size_t> left{0};
};

int verify_emulated(const VerifyOptions& options, Progress& progress) {
  const auto architecture = parse_architecture(options.arch);
  if (!architecture.ok()) return fail(architecture.status());
  const auto list = subjects(options, *architecture);
  if (!list.ok()) return fail(list.status());
  const std::filesystem::path cache = options.cache.empty() ? CubinCache::default_folder() : options.cache;
  const auto toolchain = emulator_toolchain(cache / "emulator");
  if (!toolchain.ok()) return fail(toolchain.status());
  VerifyReport report(*list, options.form(), options.budget_seconds, progress);
  Budget budget(options.budget_seconds, *list, progress);

  std::vector<std::pair<std::size_t, Variant>> work;  // subject after subject
  std::deque<EmulatedSubject> states(list->size());
  for (std::size_t s = 0; s < list->size(); ++s) {
    states[s].left = (*list)[s].variants.size();
    for (const Variant& variant : (*list)[s].variants) work.emplace_back(s, variant);
  }
  in_parallel(work.size(), options.jobs, [&](std::size_t i) {
    const auto& [s, variant] = work[i];
    EmulatedSubject& state = states[s];
    if (!budget.spent(s)) {
      report.now_at(s);
      std::call_once(state.start, [&, subject = s] {
        state.verifier = std::make_unique<EmulatedVerifier>(*toolchain, full_cases((*list)[subject].problem),
                                                            options.seed);
      });
      report.add(s, variant, state.verifier->verify(variant));
    }
    if (--state.left > 0) return;
    state.verifier.reset();
    report.close(s);
  });
  return report.finish({"emulator", "sm_" + architecture->name, options.seed});
}

int run_verify(const VerifyOptions& options) {
  Progress progress(options.quiet);
  return options.emulate ? verify_emulated(options, progress) : verify_on_gpu(options, progress);
}

}  // namespace

void add_verify_command(CLI::App& app, int& exit_code) {
  add_command<VerifyOptions>(app, exit_code, "verify",
                             "Check variants against the fp64 reference, on the GPU or the emulator",
                             run_verify)
      .footer(
          "Each variant must reach the accuracy that it is meant for, on all gates, layouts, states and "
          "packings.\n"
          "With --emulate the kernels are compiled for the CPU and run there (CXX names another compiler "
          "than "
          "the one that built\n"
          "gla-tune): slow, but the order of threads varies, and a missing barrier or a stray access is told "
          "with its source line.\n"
          "Another --seed explores other variants, inputs and orders.\n\n"
          "Examples:\n"
          "  gla-tune verify\n"
          "  gla-tune verify --emulate --head-dims 64 --seed 7 --budget 10m\n"
          "  gla-tune verify --sample 50 --budget 5m\n"
          "  gla-tune verify --op chunk_forward --head-dims 60x100 --group 4 --sample 20 -v");
}

}  // namespace gla
