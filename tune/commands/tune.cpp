// gla-tune tune: the command that the project is named after.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <thread>

#include "check.h"
#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "commands/tune_options.h"
#include "emulated_verifier.h"
#include "emulator_home.h"
#include "files.h"
#include "gla/generator/render.h"
#include "gla/gla.hpp"
#include "merge.h"
#include "table_report.h"
#include "text_table.h"
#include "tuner.h"
#include "worker.h"

namespace gla {
namespace {

/// "NVIDIA H200" -> "nvidia-h200"
std::string table_stem(const std::string& name) {
  std::string text;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      text += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!text.empty() && text.back() != '-') {
      text += '-';
    }
  }
  while (!text.empty() && text.back() == '-') text.pop_back();
  return text;
}

std::string output_path(const TuneOptions& options, const Target& target) {
  if (!options.output.empty()) return options.output;
  const std::string name =
      target.device ? table_stem(target.device->name) : "sm_" + target.architecture.name + "-model";
  const auto folder = user_folder("XDG_CONFIG_HOME", ".config");
  return ((folder.empty() ? std::filesystem::path(".") : folder / "tables") / (name + ".yaml")).string();
}

TableDevice table_device(const Target& target, double copy_bandwidth) {
  TableDevice device;
  device.architecture = "sm_" + target.architecture.name;
  device.name = target.device ? target.device->name : "any " + device.architecture;
  device.compute_capability = target.architecture.compute_capability;
  device.multiprocessors = target.architecture.multiprocessors;
  device.copy_bandwidth = copy_bandwidth;
  if (target.device) {
    device.memory_bytes = static_cast<std::int64_t>(target.device->memory_bytes);
    device.driver = cuda_version(target.device->driver_version);
  }
  return device;
}

/// Workloads whose tensors fit into the device's memory.
std::vector<TuningTask> that_fit(std::vector<TuningTask> tasks, std::size_t memory_bytes,
                                 Progress& progress) {
  for (TuningTask& task : tasks) {
    std::erase_if(task.workloads, [&](const Workload& workload) {
      const bool fits = floor_bytes(task.problem, workload, true) < 0.7 * static_cast<double>(memory_bytes);
      if (!fits)
        progress.note(fmt::format("{}: {} does not fit into {}", to_string(task.problem), to_string(workload),
                                  format_bytes(static_cast<double>(memory_bytes))));
      return !fits;
    });
  }
  std::erase_if(tasks, [](const TuningTask& task) { return task.workloads.empty(); });
  return tasks;
}

Result<TunedTable> tune_measured(const TuneOptions& options, const Target& target,
                                 std::vector<TuningTask> tasks, const std::string& path, CubinCache& cache,
                                 Progress& progress) {
  auto laboratory = WorkerLaboratory::start({own_path(), options.target.device, cache.folder()});
  if (!laboratory.ok()) return laboratory.status();
  const auto bandwidth = (*laboratory)->measure_copy_bandwidth();
  if (!bandwidth.ok()) return bandwidth.status();
  const auto nvrtc = nvrtc_version();
  if (!nvrtc.ok()) return Status{StatusCode::compile, nvrtc.status().message()};
  auto journal =
      Journal::open(path + ".journal", {target.device->name, std::string(templates_hash()), *nvrtc});
  if (!journal.ok()) return journal.status();
  if (!journal->note().empty()) progress.note(journal->note());
  if (journal->records() > 0)
    progress.note(fmt::format("resuming: {} results are in {}.journal", journal->records(), path));

  tasks = that_fit(std::move(tasks), target.device->memory_bytes, progress);
  if (tasks.empty())
    return Status{StatusCode::unsupported,
                  "none of the workloads fits into the memory of " + target.device->name};
  // One core is the worker's.
  const unsigned cores = std::max(2u, std::thread::hardware_concurrency());
  CompilePool pool(options.jobs != 0 ? options.jobs : cores - 1, compile_into(cache, target.architecture));
  TuningBench bench{**laboratory, pool, *journal, progress, target.architecture, *bandwidth};
  bench.most_variants = options.compile_top.value_or(bench.most_variants);
  auto tuned = tune_tasks(bench, tasks, options.budget_seconds);
  if (!tuned.ok()) return tuned;
  tuned->table.device = table_device(target, *bandwidth);
  if ((*laboratory)->restarts() > 0)
    progress.note(
        fmt::format("the worker was restarted {} times; `refused` says why", (*laboratory)->restarts()));
  return tuned;
}

/// Writes the table only if the runtime will take it: a bad one must not replace a good one.
Status write_checked(const Table& table, const std::string& path) {
  if (const auto back = parse_table(format_table(table), path); !back.ok())
    return {StatusCode::internal, back.status().message()};
  return write_table(table, path);
}

Status merge(const TuneOptions& options) {
  std::vector<Table> shares;
  for (const std::string& path : options.merge) {
    auto table = read_table(path);
    if (!table.ok()) return table.status();
    shares.push_back(*std::move(table));
  }
  for (std::size_t i = 0; i < shares.size(); ++i) {
    for (const Operation operation : superseded(shares[i], shares))
      fmt::print(stderr, "{}: its {} is of other templates and left out\n", options.merge[i],
                 to_string(operation));
  }
  const auto merged = merge_tables(shares);
  if (!merged.ok()) return merged.status();
  GLA_RETURN_IF_ERROR(write_checked(*merged, options.output));
  fmt::print("{}\n{} shares merged into {}\n", format_report(*merged, {}), shares.size(), options.output);
  return {};
}

/// Verifies on the emulator with the quick cases. None where that was not asked for or cannot be done, which is said.
VerifyVariant emulated_verification(const TuneOptions& options, const std::vector<TuningTask>& tasks,
                                    const CubinCache& cache) {
  if (options.no_verify) return {};
  const auto toolchain = emulator_toolchain(std::filesystem::path(cache.folder()) / "emulator");
  if (!toolchain.ok()) {
    fmt::print(stderr, "gla-tune: warning: nothing is verified: {}\n", toolchain.status().message());
    return {};
  }
  auto verifiers = std::make_shared<std::map<Problem, EmulatedVerifier>>();
  for (const TuningTask& task : tasks)
    verifiers->try_emplace(task.problem, *toolchain, quick_cases(task.problem), kGpuSeed);
  return [verifiers](const Problem& problem, const Variant& variant) -> Answer<Verdict> {
    const auto answer = verifiers->at(problem).verify(variant);
    return {answer.value.verdict, answer.refusal};
  };
}

Result<TunedTable> tune_by_model(const TuneOptions& options, const Target& target,
                                 const std::vector<TuningTask>& tasks, CubinCache& cache,
                                 Progress& progress) {
  progress.note(
      fmt::format("No measurement: tuning for sm_{} offline ({}). Kernels are compiled and ranked by the "
                  "cost model, what\n"
                  "the table recommends is verified on the emulator; the table is marked `measured: false`. "
                  "Run `gla-tune tune` on the GPU itself for a measured one.",
                  target.architecture.name, target.reason));
  CompilePool pool(options.jobs, compile_into(cache, target.architecture));
  const double bandwidth = target.architecture.copy_bandwidth;
  OfflineOptions offline{.copy_bandwidth = bandwidth,
                         .verify = emulated_verification(options, tasks, cache),
                         .jobs = options.jobs};
  offline.compile_top = options.compile_top.value_or(offline.compile_top);
  auto tuned = tune_offline(pool, progress, target.architecture, tasks, offline);
  if (tuned.ok()) tuned->table.device = table_device(target, bandwidth);
  return tuned;
}

Result<std::vector<TuningTask>> tasks_of(const TuneOptions& options) {
  if (options.renew.empty()) return options.problems.tasks(options.workloads);
  const auto selection = options.problems.selection();
  if (!selection.ok()) return selection.status();
  const auto table = read_table(options.renew);
  if (!table.ok()) return table.status();
  std::vector<TuningTask> tasks = renewal_tasks(*table, selection->operations);
  if (tasks.empty())
    return invalid_argument(fmt::format("--renew {} has no problem of these operations", options.renew));
  return tasks;
}

Status tune(const TuneOptions& options) {
  if (!options.merge.empty()) return merge(options);
  auto tasks = tasks_of(options);
  if (!tasks.ok()) return tasks.status();
  const std::size_t problems = tasks->size();
  *tasks = share_of(*std::move(tasks), options.share.index, options.share.count);
  if (tasks->empty())
    return invalid_argument(fmt::format("--share {}/{} is empty: there are {} problems", options.share.index,
                                        options.share.count, problems));
  const auto target = resolve(options.target);
  if (!target.ok()) return target.status();
  if (!options.renew.empty() && !target->device)
    return {StatusCode::cuda, "--renew measures, which takes a GPU: " + target->reason};
  const std::string path = output_path(options, *target);
  const auto nvrtc = nvrtc_version();
  if (!nvrtc.ok()) return {StatusCode::compile, nvrtc.status().message()};

  Progress progress(options.quiet);
  CubinCache cache(options.cache.empty() ? CubinCache::default_folder() : options.cache);
  const bool measured = target->device.has_value();
  auto tuned = measured ? tune_measured(options, *target, *std::move(tasks), path, cache, progress)
                        : tune_by_model(options, *target, *tasks, cache, progress);
  if (!tuned.ok()) return tuned.status();

  tuned->table.origin = {.tool = fmt::format("gla-tune {}", version()),
                         .nvrtc = *nvrtc,
                         .templates = current_templates(tuned->table.problems),
                         .date = now_utc(),
                         .command = own_command_line(),
                         .measured = measured};
  GLA_RETURN_IF_ERROR(write_checked(tuned->table, path));
  if (measured && !options.keep_journal) {
    std::error_code ignored;
    std::filesystem::remove(path + ".journal", ignored);
  }
  fmt::print("{}\n{} in {}\n", format_report(tuned->table, tuned->runner_up_seconds), path,
             format_duration(progress.elapsed()));
  for (const TableProblem& problem : tuned->table.problems)
    if (problem.points.empty())
      return {StatusCode::format,
              fmt::format("no variant of {} survived; the lines above say why", to_string(problem.problem))};
  return {};
}

int run_tune(const TuneOptions& options) {
  const Status status = tune(options);
  return status.ok() ? kExitOk : fail(status);
}

}  // namespace

void add_tune_command(CLI::App& app, int& exit_code) {
  add_command<TuneOptions>(app, exit_code, "tune", "Find the fastest variants and write the dispatch table",
                           run_tune)
      .footer(
          "Without a GPU, or with --arch, nothing is measured: kernels are compiled and ranked by the cost "
          "model, and what\n"
          "the table recommends is verified on the emulator, for which a C++ compiler must be there.\n"
          "An interrupted run resumes from the journal beside its table when the same command is given "
          "again.\n\n"
          "Examples:\n"
          "  gla-tune tune\n"
          "  gla-tune tune --head-dims 128 --dtype bf16,fp16 --workload B4,T4096,H16 --budget 90s\n"
          "  gla-tune tune --renew old.yaml -o new.yaml\n"
          "  gla-tune tune --arch sm_90a -o sm_90a.yaml\n"
          "  gla-tune tune --device 1 --share 2/2 -o b.yaml && gla-tune tune --merge a.yaml b.yaml -o "
          "all.yaml");
}

}  // namespace gla
