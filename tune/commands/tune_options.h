// The options of gla-tune tune.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "commands/options.h"

namespace gla {

/// "90", "90s", "7m30s", "1h": seconds.
Result<double> parse_duration(std::string_view text);

/// "2/4": the second of four shares.
struct Share {
  int index = 1;
  int count = 1;
};
Result<Share> parse_share(std::string_view text);

/// For CLI11's add_option_function: parses, stores, and turns a status into a usage error that names the option.
template <class T>
std::function<void(const std::string&)> into(T& target, const char* option,
                                             Result<T> (*parse)(std::string_view)) {
  return [&target, option, parse](const std::string& text) {
    const auto value = parse(text);
    if (!value.ok()) throw CLI::ValidationError(option, value.status().message());
    target = *value;
  };
}

struct TuneOptions {
  ProblemOptions problems;
  TargetOptions target;
  std::vector<std::string> workloads;
  double budget_seconds = 450;  ///< of wall time, everything included
  std::optional<std::size_t> compile_top;
  Share share;
  std::vector<std::string> merge;
  std::string output, cache, renew;
  unsigned jobs = 0;
  bool no_verify = false, keep_journal = false, quiet = false;

  void add_to(CLI::App& command);
};

}  // namespace gla
