// The commands of gla-tune, one file each. Each function adds its subcommand; running it sets the exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

namespace gla {

void add_info_command(CLI::App& app, int& exit_code);
void add_list_command(CLI::App& app, int& exit_code);
void add_generate_command(CLI::App& app, int& exit_code);
void add_compile_command(CLI::App& app, int& exit_code);
void add_verify_command(CLI::App& app, int& exit_code);
void add_tune_command(CLI::App& app, int& exit_code);
void add_bench_command(CLI::App& app, int& exit_code);
void add_show_command(CLI::App& app, int& exit_code);
void add_validate_command(CLI::App& app, int& exit_code);
void add_completion_command(CLI::App& app, int& exit_code);
/// Hidden: the child process that measures (worker.h).
void add_worker_command(CLI::App& app, int& exit_code);

/// Adds a subcommand whose options are `Options` (with add_to) and whose work is `run`.
template <class Options>
CLI::App& add_command(CLI::App& app, int& exit_code, const char* name, const char* description,
                      int (*run)(const Options&)) {
  CLI::App& command = *app.add_subcommand(name, description);
  auto options = std::make_shared<Options>();
  options->add_to(command);
  command.callback([options, run, &exit_code] { exit_code = run(*options); });
  return command;
}

}  // namespace gla
