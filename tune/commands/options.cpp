#include "commands/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <span>

#include "check.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"
#include "search.h"

namespace gla {
namespace {

template <class T, class Parse>
Status parse_all(const std::vector<std::string>& texts, Parse parse, std::vector<T>& values) {
  for (const std::string& text : texts) {
    auto value = parse(text);
    if (!value.ok()) return value.status();
    values.push_back(*value);
  }
  return {};
}

}  // namespace

void ProblemOptions::add_to(CLI::App& command) {
  const std::string group = "Problems";
  command
      .add_option(
          "--op", operations,
          "chunk_forward, recurrent_forward, chunk_backward (default: these three), recurrent_backward")
      ->delimiter(',')
      ->group(group);
  command.add_option("--dtype", dtypes, "fp16, bf16, fp32 (default: bf16)")->delimiter(',')->group(group);
  command.add_option("--gate-dtype", gate_dtype, "of gk and gv: fp32 or the dtype (default)")->group(group);
  command.add_option("--head-dims", head_dims, "K or KxV (default: 64,128,256,128x256,256x512)")
      ->delimiter(',')
      ->group(group);
  command.add_option("--group", groups, "query heads per key/value head (default: 1)")
      ->delimiter(',')
      ->group(group);
  command.add_flag("--gv", gate_v, "with decay per value channel (recurrent operations)")->group(group);
}

Result<TaskSelection> ProblemOptions::selection() const {
  TaskSelection selection;
  GLA_RETURN_IF_ERROR(parse_all(operations, parse_operation, selection.operations));
  GLA_RETURN_IF_ERROR(parse_all(dtypes, parse_dtype, selection.dtypes));
  GLA_RETURN_IF_ERROR(parse_all(head_dims, parse_head_dims, selection.head_dims));
  selection.groups = groups;
  selection.gate_v = gate_v;
  if (!gate_dtype.empty()) {
    const auto dtype = parse_dtype(gate_dtype);
    if (!dtype.ok()) return dtype.status();
    selection.gate_dtype = *dtype;
  }
  return selection;
}

Result<std::vector<TuningTask>> ProblemOptions::tasks(const std::vector<std::string>& workloads) const {
  auto chosen = selection();
  if (!chosen.ok()) return chosen.status();
  GLA_RETURN_IF_ERROR(parse_all(workloads, parse_workload, chosen->workloads));
  std::span<const Operation> asked_for = kUsualOperations;
  if (!chosen->operations.empty()) asked_for = chosen->operations;
  if (chosen->gate_v && std::none_of(asked_for.begin(), asked_for.end(), is_recurrent))
    return invalid_argument("--gv is for recurrent operations, which --op leaves out");
  for (const Workload& workload : chosen->workloads) {
    const auto takes_it = [&](Operation operation) { return suits(operation, workload); };
    if (std::none_of(asked_for.begin(), asked_for.end(), takes_it))
      return invalid_argument(fmt::format(
          "--workload {} suits no operation that --op asks for: recurrent operations take T from 1 to "
          "{}, the others from {}",
          to_string(workload), kLongestRecurrent, kShortestChunk));
  }
  auto tasks = tuning_tasks(*chosen);
  for (const TuningTask& task : tasks) GLA_RETURN_IF_ERROR(check(task.problem));
  return tasks;
}

void TargetOptions::add_to(CLI::App& command) {
  command.add_option("--arch", arch,
                     "compile for this architecture instead of the GPU's, for example sm_90a");
  command.add_option("--device", device, "CUDA ordinal of the GPU (default: 0)");
}

Result<Target> resolve(const TargetOptions& options) {
  if (!options.arch.empty()) {
    auto architecture = parse_architecture(options.arch);
    if (!architecture.ok()) return architecture.status();
    return Target{*architecture, std::nullopt, "named by --arch"};
  }
  auto device = driver::device(options.device);
  if (device.ok()) return Target{device->architecture, *device, device->name};
  if (options.device != 0) return device.status();
  auto architecture = parse_architecture(kDefaultArchitecture);
  if (!architecture.ok()) return architecture.status();
  return Target{*architecture, std::nullopt,
                fmt::format("the default without a GPU ({})", device.status().message())};
}

void VariantOptions::add_to(CLI::App& command, int default_top) {
  top = default_top;
  auto* one =
      command.add_option("--variant", variant, "this variant only, as `gla-tune list --variants` writes it");
  auto* best = command.add_option(
      "--top", top, fmt::format("the best N of the model's ranking (default: {})", default_top));
  auto* every = command.add_flag("--all", all, "every variant of the space");
  one->excludes(best)->excludes(every);
  best->excludes(every);
}

Result<std::vector<Variant>> VariantOptions::variants(const TuningTask& task,
                                                      const Architecture& architecture) const {
  if (!variant.empty()) {
    const auto one = parse_variant(variant);
    if (!one.ok()) return one.status();
    if (const Status status = check(task.problem, architecture, *one); !status.ok())
      return invalid_argument(fmt::format("--variant \"{}\" is not one of {} on sm_{}: {}", variant,
                                          to_string(task.problem), architecture.name, status.message()));
    return std::vector{*one};
  }
  auto found = space(task.problem, architecture);
  if (all) return found;
  if (top < 1) return invalid_argument(fmt::format("--top {}: at least 1", top));
  found = ranked(task.problem, found, task.workloads, architecture);
  if (found.size() > static_cast<std::size_t>(top)) found.resize(static_cast<std::size_t>(top));
  return found;
}

CompilePool::Compile compile_into(CubinCache& cache, const Architecture& architecture) {
  return [&cache, architecture](const Problem& problem, const Variant& variant) -> Result<Compiled> {
    auto cubin = cache.get(render(problem, variant), architecture);
    if (!cubin.ok()) return cubin.status();
    return Compiled{cubin->resources, cubin->entries};
  };
}

std::string own_path() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).string();
}

std::string own_command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string line = "gla-tune", argument;
  std::getline(file, argument, '\0');
  while (std::getline(file, argument, '\0')) line += " " + argument;
  return line;
}

std::string now_utc() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string cuda_version(int driver_version) {
  return fmt::format("{}.{}", driver_version / 1000, driver_version % 1000 / 10);
}

}  // namespace gla
