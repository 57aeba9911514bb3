// gla-tune bench: shapes through the runtime.
#include "bench.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "gla/generator/render.h"
#include "json.h"
#include "problem_json.h"
#include "text_table.h"
#include "tuning_task.h"
#include "workload_inputs.h"

namespace gla {
namespace {

/// The shapes of PEERS.md, training and decode.
const std::vector<std::string> kDefaultShapes{"B1,T8192,H96,D128", "B2,T16384,H16,D128", "B4,T2048,H16,D128",
                                              "B4,T4096,H64,D128", "B8,T1024,H8,D64",    "B8,T2048,H32,D256",
                                              "B1,T1,H32,D128",    "B8,T1,H32,D128",     "B64,T1,H32,D128",
                                              "B256,T1,H32,D128",  "B64,T1,H16,D256",    "B64,T1,H32,D64"};

constexpr const char* kMethod =
    "median of device time per call; CUDA graphs of calls whose inputs rotate through more than 4 times the "
    "L2, queued "
    "behind a blocked stream; floor: bytes of each input and output once over the measured copy bandwidth";

struct BenchCommandOptions {
  std::vector<std::string> shapes;
  std::string operation, dtype = "bf16", gate_dtype, accuracy = "default", gates = "logsigmoid/16", table,
                         cache;
  int device = 0;
  double seconds = 1;
  bool fp32_gate_gradients = false, states = false, packed = false, check = false, json = false;

  void add_to(CLI::App& command) {
    command.add_option("--shape", shapes,
                       "B or N, T, H, G, D or K and V: B1,T8192,H96,D128 (default: those of the comparisons "
                       "that suit --op)");
    command.add_option("--op", operation,
                       "an operation, such as recurrent_backward (default: chunk_forward or "
                       "recurrent_forward, by T)");
    command.add_option("--dtype", dtype, "fp16, bf16 (default), fp32");
    command.add_option("--gate-dtype", gate_dtype, "fp32 or the dtype (default)");
    command.add_flag("--fp32-gate-gradients", fp32_gate_gradients,
                     "of a backward operation: gradients of 16-bit gates in fp32");
    command.add_option("--accuracy", accuracy, "default or fast");
    std::vector<std::string> kinds;
    for (const Gates kind : kAllGates) kinds.emplace_back(to_string(kind));
    command.add_option("--gates", gates, fmt::format("{}; default: the first", fmt::join(kinds, ", ")))
        ->check(CLI::IsMember(kinds).description(""));
    command.add_flag("--states", states,
                     "with initial and final state, or their gradients (recurrent_forward always has them)");
    command.add_flag("--packed", packed, "cu_seqlens: T is the packed total, B the number of sequences");
    command.add_flag("--check", check, "compare with the fp64 reference");
    command.add_option("--seconds", seconds, "device time to spend per shape (default: 1)")
        ->check(CLI::Range(1e-3, 3600.0));
    command.add_option("--table", table, "dispatch table, or none");
    command.add_option("--cache", cache, "folder of compiled kernels (default: the user's)");
    command.add_option("--device", device, "CUDA ordinal (default: 0)");
    command.add_flag("--json", json, "print JSON");
  }
};

Result<std::vector<Shape>> shapes_of(const BenchCommandOptions& options) {
  const auto dtype = parse_dtype(options.dtype);
  if (!dtype.ok()) return dtype.status();
  const auto gate_dtype = parse_dtype(options.gate_dtype.empty() ? options.dtype : options.gate_dtype);
  if (!gate_dtype.ok()) return gate_dtype.status();
  std::vector<Shape> shapes;
  const bool chosen = !options.shapes.empty();
  for (const std::string& text : chosen ? options.shapes : kDefaultShapes) {
    auto shape = parse_shape(text);
    if (!shape.ok()) return shape.status();
    shape->problem.dtype = *dtype;
    shape->problem.gate_dtype = *gate_dtype;
    shape->problem.fp32_gate_gradients = options.fp32_gate_gradients;
    shape->workload.packed = options.packed;
    if (!options.operation.empty()) {
      const auto operation = parse_operation(options.operation);
      if (!operation.ok()) return operation.status();
      if (!chosen && !suits(*operation, shape->workload)) continue;
      shape->problem.operation = *operation;
    }
    if (Status status = check(shape->problem); !status.ok()) return status;
    shapes.push_back(*shape);
  }
  return shapes;
}

Json to_json(const Shape& shape, const BenchResult& result, const BenchOptions& options) {
  Json json = Json::object({{"shape", to_string(shape)},
                            {"problem", to_json(shape.problem)},
                            {"workload", to_json(shape.workload)},
                            {"variant", to_string(result.choice.variant)},
                            {"match", to_string(result.choice.match)},
                            {"reason", result.choice.reason},
                            {"seconds", result.device.median},
                            {"noise", result.device.noise},
                            {"samples", result.device.samples},
                            {"throttled_rounds", result.throttled_rounds},
                            {"floor_seconds", result.floor_seconds},
                            {"floor_share", result.floor_seconds / result.device.median},
                            {"host_seconds", result.host_seconds},
                            {"first_call_seconds", result.first_seconds},
                            {"workspace_bytes", result.workspace_bytes}});
  if (options.check) {
    std::int64_t nan_mismatches = 0;
    const bool states = options.states || timed_with_states(shape.problem.operation);
    for (const Output output : outputs_of(shape.problem)) {
      if (is_state(output) && !states) continue;
      const ErrorReport& error = result.errors[output];
      json.set(fmt::format("error_{}", key_of(output)), error.overall);
      json.set(fmt::format("worst_error_{}", key_of(output)), error.worst);
      nan_mismatches += error.nan_mismatches;
    }
    json.set("nan_mismatches", nan_mismatches);
  }
  return json;
}

/// Of o, or of the gradients by q, k, v and gk.
double largest_error(const BenchResult& result) {
  double largest = 0;
  for (const Output output : kOutputs)
    if (!is_state(output)) largest = std::max(largest, result.errors[output].overall);
  return largest;
}

/// Within the bar of the gates; true for what was not checked, whose errors are zero.
bool accurate(const Shape& shape, const BenchResult& result, const BenchOptions& options) {
  const Bar bar = accuracy_bar(shape.problem, options.gates, options.accuracy);
  return std::all_of(std::begin(kOutputs), std::end(kOutputs), [&](Output output) {
    return result.errors[output].overall <= bar[output] && result.errors[output].nan_mismatches == 0;
  });
}

int run_bench(const BenchCommandOptions& options) {
  const auto shapes = shapes_of(options);
  if (!shapes.ok()) return fail(shapes.status());
  const auto accuracy = parse_accuracy(options.accuracy);
  if (!accuracy.ok()) return fail(accuracy.status());
  const auto gpu = Gpu::open(options.device);
  if (!gpu.ok()) return fail(gpu.status());
  CubinCache cache(options.cache.empty() ? CubinCache::default_folder() : options.cache);
  ContextOptions context_options;
  context_options.device = options.device;
  context_options.table = options.table;
  context_options.cache_dir = cache.folder();
  context_options.log = [](LogLevel level, const std::string& line) {
    if (level == LogLevel::warning) fmt::print(stderr, "{}\n", line);
  };
  const auto context = Context::create(context_options);
  if (!context.ok()) return fail(context.status());
  const auto bench = Bench::create(**gpu, **context, cache);
  if (!bench.ok()) return fail(bench.status());
  const auto* gates = std::find_if(std::begin(kAllGates), std::end(kAllGates),
                                   [&](Gates kind) { return to_string(kind) == options.gates; });
  const BenchOptions bench_options{.accuracy = *accuracy,
                                   .gates = *gates,
                                   .states = options.states,
                                   .check = options.check,
                                   .budget_seconds = options.seconds};

  const bool backward = std::any_of(shapes->begin(), shapes->end(),
                                    [](const Shape& shape) { return is_backward(shape.problem.operation); });
  using Align = TextTable::Align;
  TextTable table({{"shape"},
                   {"time", Align::right},
                   {"noise", Align::right},
                   {"floor", Align::right},
                   {"of floor", Align::right},
                   {"host", Align::right},
                   {backward ? "worst error" : "error o"},
                   {"match"},
                   {"variant"}});
  Json list = Json::array();
  int exit_code = kExitOk;
  for (const Shape& shape : *shapes) {
    const auto result = (*bench)->run(shape, bench_options);
    if (!result.ok()) {
      exit_code = fail({result.status().code(), to_string(shape) + ": " + result.status().message()});
      continue;
    }
    if (!accurate(shape, *result, bench_options)) exit_code = kExitCheckFailed;
    list.push(to_json(shape, *result, bench_options));
    table.add({to_string(shape), format_seconds(result->device.median),
               fmt::format("{:.1f} %", result->device.noise * 100), format_seconds(result->floor_seconds),
               format_percent(result->floor_seconds / result->device.median),
               format_seconds(result->host_seconds),
               options.check ? fmt::format("{:.2e}", largest_error(*result)) : "-",
               std::string(to_string(result->choice.match)), to_string(result->choice.variant)});
  }
  if (options.json) {
    fmt::print("{}\n", Json::object({{"device", (*gpu)->device().name},
                                     {"driver", cuda_version((*gpu)->device().driver_version)},
                                     {"date", now_utc()},
                                     {"tool", fmt::format("gla-tune {}", version())},
                                     {"templates_hash", templates_hash()},
                                     {"command", own_command_line()},
                                     {"method", kMethod},
                                     {"copy_bandwidth", (*bench)->copy_bandwidth()},
                                     {"dtype", options.dtype},
                                     {"accuracy", options.accuracy},
                                     {"gates", options.gates},
                                     {"results", list}})
                           .dump(2));
  } else {
    fmt::print("{} · copies at {:.2f} TB/s · {} · accuracy {} · gates {}\n\n{}", (*gpu)->device().name,
               (*bench)->copy_bandwidth() * 1e-12, options.dtype, options.accuracy, options.gates,
               table.format());
  }
  return exit_code;
}

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  add_command<BenchCommandOptions>(app, exit_code, "bench", "Time shapes through the runtime", run_bench)
      .footer(
          "Examples:\n"
          "  gla-tune bench\n"
          "  gla-tune bench --op chunk_backward --check\n"
          "  gla-tune bench --shape B1,T8192,H96,D128 --shape B1,T4096,H4,K256,V512 --check --json");
}

}  // namespace gla
