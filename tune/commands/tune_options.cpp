#include "commands/tune_options.h"

#include <fmt/format.h>

#include <charconv>

namespace gla {
namespace {

std::optional<int> take_number(std::string_view& text) {
  int value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(parsed.ptr - text.data()));
  return value;
}

}  // namespace

Result<double> parse_duration(std::string_view text) {
  const Status refusal =
      invalid_argument(fmt::format("\"{}\" is not a duration such as 90s, 7m30s or 1h", text));
  std::string_view rest = text;
  double seconds = 0;
  while (!rest.empty()) {
    const auto number = take_number(rest);
    if (!number || *number < 0) return refusal;
    const char unit = rest.empty() ? 's' : rest.front();
    if (!rest.empty()) rest.remove_prefix(1);
    if (unit != 's' && unit != 'm' && unit != 'h') return refusal;
    seconds += *number * (unit == 's' ? 1.0 : unit == 'm' ? 60.0 : 3600.0);
  }
  return seconds > 0 ? Result<double>(seconds) : refusal;
}

Result<Share> parse_share(std::string_view text) {
  std::string_view rest = text;
  const auto index = take_number(rest);
  const bool slash = !rest.empty() && rest.front() == '/';
  if (slash) rest.remove_prefix(1);
  const auto count = take_number(rest);
  if (!index || !slash || !count || !rest.empty() || *index < 1 || *index > *count)
    return invalid_argument(fmt::format("\"{}\" is not a share such as 2/4", text));
  return Share{*index, *count};
}

void TuneOptions::add_to(CLI::App& command) {
  problems.add_to(command);
  target.add_to(command);
  command
      .add_option("--workload", workloads,
                  "N or B, H, T of a point, for example B4,T4096,H16 (default: a grid)")
      ->group("Problems");
  command.add_option_function<std::string>("--budget", into(budget_seconds, "--budget", parse_duration),
                                           "wall time, compilation included (default: 7m30s)");
  command.add_option("-o,--output", output,
                     "the table (default: tables/<gpu>.yaml in the user's configuration folder)");
  command.add_option("--cache", cache, "folder of compiled kernels (default: the user's)");
  command.add_option("-j,--jobs", jobs, "compiling or emulating threads (default: one per core)");
  command
      .add_option("--compile-top", compile_top,
                  "variants per problem that are tried (default: what the budget allows; offline: 4)")
      ->check(CLI::Range(1, 10000));
  command.add_flag("--no-verify", no_verify,
                   "offline: do not verify what the table recommends on the emulator");
  command.add_option_function<std::string>("--share", into(share, "--share", parse_share),
                                           "tune every n-th problem only, for example 1/2 (see --merge)");
  command.add_option("--merge", merge, "no tuning: merge these tables into --output")
      ->needs(command.get_option("--output"));
  CLI::Option* const renewed = command.add_option(
      "--renew", renew, "no search: verify and measure again what this table recommends, as after an update");
  for (const char* other : {"--dtype", "--gate-dtype", "--head-dims", "--group", "--gv", "--workload",
                            "--share", "--arch", "--compile-top"})
    renewed->excludes(command.get_option(other));
  command.add_flag("--keep-journal", keep_journal, "keep the journal of a finished run");
  command.add_flag("-q,--quiet", quiet, "no progress line");
}

}  // namespace gla
