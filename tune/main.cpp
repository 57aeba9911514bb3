// gla-tune: writes, checks, measures and ranks gated-linear-attention kernels.
#include <fmt/format.h>

#include "commands/commands.h"
#include "commands/exit_code.h"
#include "gla/gla.hpp"

namespace {

constexpr const char* kFooter =
    "Examples:\n"
    "  gla-tune info                    what is here and which table applies\n"
    "  gla-tune tune                    tune this GPU with good defaults, in under 8 minutes\n"
    "  gla-tune bench --shape B1,T8192,H96,D128\n\n"
    "Exit codes:\n"
    "  0  done            3  a GPU is needed and missing, or failed\n"
    "  1  a check failed  4  a compiler is missing or refused a kernel\n"
    "  2  usage           5  a file could not be read or written\n"
    "                     6  a fault of gla-tune";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("gla-tune: the fastest gated-linear-attention kernels for your GPU", "gla-tune");
  app.set_version_flag("--version", fmt::format("gla-tune {}", gla::version()));
  app.require_subcommand(1);
  app.footer(kFooter);
  app.get_formatter()->column_width(32);
  int exit_code = gla::kExitOk;
  gla::add_info_command(app, exit_code);
  gla::add_list_command(app, exit_code);
  gla::add_generate_command(app, exit_code);
  gla::add_compile_command(app, exit_code);
  gla::add_verify_command(app, exit_code);
  gla::add_tune_command(app, exit_code);
  gla::add_bench_command(app, exit_code);
  gla::add_show_command(app, exit_code);
  gla::add_validate_command(app, exit_code);
  gla::add_completion_command(app, exit_code);
  gla::add_worker_command(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? gla::kExitOk : gla::kExitUsage;
  }
  return exit_code;
}
