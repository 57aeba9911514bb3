// gla-tune compile: what the compiler makes of variants.
#include <fmt/format.h>

#include <algorithm>

#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "gla/generator/render.h"
#include "json.h"
#include "problem_json.h"
#include "progress.h"
#include "text_table.h"

namespace gla {
namespace {

struct CompileOptions {
  ProblemOptions problems;
  TargetOptions target;
  VariantOptions variants;
  std::string cache;
  unsigned jobs = 0;
  bool json = false;

  void add_to(CLI::App& command) {
    problems.add_to(command);
    target.add_to(command);
    variants.add_to(command, 8);
    command.add_option("--cache", cache, "folder of compiled kernels (default: the user's)");
    command.add_option("-j,--jobs", jobs, "threads (default: one per core)");
    command.add_flag("--json", json, "print JSON");
  }
};

/// A kernel of a variant, compiled.
struct Row {
  Problem problem;
  Variant variant;
  std::string entry;
  KernelResources resources;
  EntryShape shape;
  std::size_t shared_bytes = 0;  ///< static and dynamic
  int blocks = 0;                ///< that fit on one multiprocessor
};

/// Spills first, since they cost most; then the more threads in flight the better.
bool better(const Row& a, const Row& b) {
  const auto key = [](const Row& row) {
    return std::tuple(row.resources.spill_bytes, -row.blocks * row.shape.threads, row.resources.registers);
  };
  return key(a) < key(b);
}

Json to_json(const Row& row) {
  return Json::object({{"problem", to_json(row.problem)},
                       {"variant", to_string(row.variant)},
                       {"entry", row.entry},
                       {"registers", row.resources.registers},
                       {"spill_bytes", row.resources.spill_bytes},
                       {"shared_bytes", row.shared_bytes},
                       {"threads", row.shape.threads},
                       {"blocks_per_multiprocessor", row.blocks}});
}

void print(const std::vector<Row>& rows, const Architecture& architecture) {
  using Align = TextTable::Align;
  TextTable table({{"variant"},
                   {"kernel"},
                   {"registers", Align::right},
                   {"spills", Align::right},
                   {"shared", Align::right},
                   {"threads", Align::right},
                   {"blocks", Align::right},
                   {"occupancy", Align::right}});
  const Problem* problem = nullptr;
  for (const Row& row : rows) {
    if (problem == nullptr || *problem != row.problem) table.section(to_string(row.problem));
    problem = &row.problem;
    const double share =
        static_cast<double>(row.blocks * row.shape.threads) / architecture.threads_per_multiprocessor;
    table.add({to_string(row.variant), row.entry, std::to_string(row.resources.registers),
               std::to_string(row.resources.spill_bytes), format_bytes(static_cast<double>(row.shared_bytes)),
               std::to_string(row.shape.threads), std::to_string(row.blocks), format_percent(share)});
  }
  fmt::print("{}", table.format());
}

int run_compile(const CompileOptions& options) {
  const auto tasks = options.problems.tasks();
  if (!tasks.ok()) return fail(tasks.status());
  const auto target = resolve(options.target);
  if (!target.ok()) return fail(target.status());
  if (const auto nvrtc = nvrtc_version(); !nvrtc.ok())
    return fail({StatusCode::compile, nvrtc.status().message()});

  CubinCache cache(options.cache.empty() ? CubinCache::default_folder() : options.cache);
  Progress progress(options.json);
  CompilePool pool(options.jobs, compile_into(cache, target->architecture));
  std::vector<std::vector<Variant>> wanted;
  std::size_t total = 0, done = 0;
  for (const TuningTask& task : *tasks) {
    auto variants = options.variants.variants(task, target->architecture);
    if (!variants.ok()) return fail(variants.status());
    pool.request(task.problem, *variants);
    total += variants->size();
    wanted.push_back(*std::move(variants));
  }

  std::vector<Row> rows;
  std::vector<std::string> failures;
  for (std::size_t t = 0; t < tasks->size(); ++t) {
    const Problem& problem = (*tasks)[t].problem;
    const auto first = static_cast<std::ptrdiff_t>(rows.size());
    for (std::vector<Variant> waiting = wanted[t]; !waiting.empty();) {
      progress.update(
          fmt::format("{} of {} compiled", done, total),
          done == 0 ? -1.0
                    : progress.elapsed() / static_cast<double>(done) * static_cast<double>(total - done));
      const auto ready = pool.first_ready(problem, waiting, 0.5);
      if (!ready) continue;
      ++done;
      const Variant variant = waiting[*ready];
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(*ready));
      const auto compiled = pool.outcome(problem, variant);
      if (!compiled.ok()) {
        failures.push_back(
            fmt::format("{}: {}: {}", to_string(problem), to_string(variant), compiled.status().message()));
        continue;
      }
      const auto shapes = entry_shapes(problem, variant);
      for (std::size_t e = 0; e < compiled->entries.size(); ++e) {
        Row row{problem, variant, compiled->entries[e], compiled->resources[e], shapes[e], 0, 0};
        row.shared_bytes = static_cast<std::size_t>(row.resources.shared_bytes) + row.shape.shared_bytes;
        row.blocks =
            occupancy(target->architecture, row.shape.threads, row.resources.registers, row.shared_bytes);
        rows.push_back(row);
      }
    }
    std::stable_sort(rows.begin() + first, rows.end(), better);
  }

  if (options.json) {
    Json list = Json::array(), failed = Json::array();
    for (const Row& row : rows) list.push(to_json(row));
    for (const std::string& failure : failures) failed.push(failure);
    fmt::print("{}\n", Json::object({{"architecture", "sm_" + target->architecture.name},
                                     {"kernels", list},
                                     {"failures", failed}})
                           .dump(2));
  } else {
    fmt::print("sm_{} ({})\n\n", target->architecture.name, target->reason);
    print(rows, target->architecture);
  }
  for (const std::string& failure : failures) fmt::print(stderr, "gla-tune: {}\n", failure);
  return failures.empty() ? kExitOk : kExitCompile;
}

}  // namespace

void add_compile_command(CLI::App& app, int& exit_code) {
  add_command<CompileOptions>(app, exit_code, "compile",
                              "Compile variants: registers, spills, shared memory, occupancy", run_compile)
      .footer(
          "Examples:\n"
          "  gla-tune compile --arch sm_100a\n"
          "  gla-tune compile --op chunk_forward --head-dims 128 --all --json");
}

}  // namespace gla
