// gla-tune as a user's shell runs it.
#pragma once

#include <fmt/format.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

#include "catch.h"
#include "compiler.h"
#include "temporary_folder.h"

struct Outcome {
  int code = -1;
  std::string output;  ///< standard output
  std::string errors;
};

/// Runs gla-tune in a folder of its own: no cache, configuration or table of the user's is touched.
class Shell {
 public:
  /// `variables`: more of the environment, such as "CXX=g++".
  Outcome run(const std::string& arguments, const std::string& variables = {}) const {
    const std::string command = fmt::format(
        "env -u GLA_TABLE -u GLA_CACHE_DIR -u CXX XDG_CONFIG_HOME={} XDG_CACHE_HOME={} {} {} {} 2>{}",
        folder_ / "config", folder_ / "cache", variables, GLA_TUNE, arguments, folder_ / "errors");
    Outcome outcome;
    FILE* pipe = popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::array<char, 4096> buffer{};
    for (std::size_t count = 0; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
      outcome.output.append(buffer.data(), count);
    outcome.code = WEXITSTATUS(pclose(pipe));
    outcome.errors = content_of(folder_ / "errors");
    return outcome;
  }
  std::string path(const char* name) const { return folder_ / name; }

 private:
  TemporaryFolder folder_;
};

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline bool has_nvrtc() {
  return gla::nvrtc_version().ok();
}
