// Options that several commands share, and what they resolve to.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "compile_pool.h"
#include "compiler.h"
#include "driver.h"
#include "gla/generator/architecture.h"
#include "tuning_task.h"

namespace gla {

/// What is meant without --arch where there is no GPU to ask.
inline constexpr const char* kDefaultArchitecture = "sm_90a";

/// --op, --dtype, --gate-dtype, --head-dims, --group, --gv: which problems.
struct ProblemOptions {
  std::vector<std::string> operations, dtypes, head_dims;
  std::vector<int> groups;
  std::string gate_dtype;
  bool gate_v = false;

  void add_to(CLI::App& command);
  Result<TaskSelection> selection() const;
  /// The tasks of the selection; each problem has been checked.
  Result<std::vector<TuningTask>> tasks(const std::vector<std::string>& workloads = {}) const;
};

/// --arch, --device: what to compile for.
struct TargetOptions {
  std::string arch;
  int device = 0;

  void add_to(CLI::App& command);
};

/// An architecture, and the GPU that it was read from if there is one.
struct Target {
  Architecture architecture;
  std::optional<driver::Device> device;
  std::string reason;  ///< where the architecture comes from, for a person
};
/// --arch wins; otherwise the GPU; without one sm_90a.
Result<Target> resolve(const TargetOptions& options);

/// --variant, --top, --all: which variants of each problem.
struct VariantOptions {
  std::string variant;
  int top = 0;
  bool all = false;

  void add_to(CLI::App& command, int default_top);
  Result<std::vector<Variant>> variants(const TuningTask& task, const Architecture& architecture) const;
};

/// Compiles into the cache.
CompilePool::Compile compile_into(CubinCache& cache, const Architecture& architecture);

/// The path of this executable.
std::string own_path();
/// The command as it was given, without the path of the executable.
std::string own_command_line();

/// "2026-11-22T12:00:00Z"
std::string now_utc();

/// "13.0" of 13000
std::string cuda_version(int driver_version);

}  // namespace gla
