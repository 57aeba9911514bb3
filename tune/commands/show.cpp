// gla-tune show and validate: tables for people, and whether they are sound.
#include <fmt/format.h>

#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "json.h"
#include "problem_json.h"
#include "table.h"
#include "table_report.h"
#include "table_search.h"

namespace gla {
namespace {

struct ShowOptions {
  std::vector<std::string> tables;
  int device = 0;
  bool json = false;

  void add_to(CLI::App& command) {
    command.add_option("tables", tables, "tables to show (default: the one that applies to the GPU)");
    command.add_option("--device", device, "CUDA ordinal (default: 0)");
    command.add_flag("--json", json, "print JSON");
  }
};

struct ValidateOptions {
  std::vector<std::string> tables;

  void add_to(CLI::App& command) { command.add_option("tables", tables, "tables to check")->required(); }
};

Result<std::string> table_in_use(int ordinal) {
  const auto device = driver::device(ordinal);
  if (!device.ok())
    return Status{StatusCode::cuda,
                  "name a table: without a GPU none applies (" + device.status().message() + ")"};
  const auto found = find_tables(*device, table_places(""));
  if (!found.ok()) return found.status();
  if (found->empty() || !is_used(found->front()))
    return Status{StatusCode::io,
                  fmt::format("no table applies to {}; `gla-tune tune` makes one", device->name)};
  return found->front().path;
}

int run_show(const ShowOptions& options) {
  std::vector<std::string> paths = options.tables;
  if (paths.empty()) {
    const auto path = table_in_use(options.device);
    if (!path.ok()) return fail(path.status());
    paths.push_back(*path);
  }
  Json list = Json::array();
  for (const std::string& path : paths) {
    const auto table = read_table(path);
    if (!table.ok()) return fail(table.status());
    if (options.json) {
      Json json = to_json(*table);
      json.set("path", path);
      list.push(std::move(json));
    } else {
      fmt::print("{}\n{}", path, format_report(*table, {}));
    }
  }
  if (options.json) fmt::print("{}\n", list.dump(2));
  return kExitOk;
}

int run_validate(const ValidateOptions& options) {
  int exit_code = kExitOk;
  for (const std::string& path : options.tables) {
    const auto table = read_table(path);
    if (!table.ok()) {
      exit_code = fail(table.status());
      continue;
    }
    std::size_t points = 0;
    for (const TableProblem& problem : table->problems) points += problem.points.size();
    fmt::print("{}: valid, {} problems, {} points\n", path, table->problems.size(), points);
  }
  return exit_code;
}

}  // namespace

void add_show_command(CLI::App& app, int& exit_code) {
  add_command<ShowOptions>(app, exit_code, "show", "Show a table", run_show)
      .footer("Example:\n  gla-tune show tables/nvidia-h200.yaml");
}

void add_validate_command(CLI::App& app, int& exit_code) {
  add_command<ValidateOptions>(app, exit_code, "validate",
                               "Check tables: schema, ranges, duplicates, legal variants", run_validate)
      .footer("Example:\n  gla-tune validate tables/*.yaml");
}

}  // namespace gla
