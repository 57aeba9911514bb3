#include "tuning_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <set>

namespace gla {
namespace {

/// A number from 1 to `most`; `what` names the argument in messages.
Result<std::int64_t> parse_positive(std::string_view digits, std::string_view what, std::string_view whole,
                                    std::int64_t most) {
  std::int64_t value = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size() || value < 1 || value > most)
    return invalid_argument(
        fmt::format("{} \"{}\": \"{}\" is not a whole number from 1 to {}", what, whole, digits, most));
  return value;
}

/// What was chosen, each once: a table has no place for a second one.
template <class T>
std::vector<T> or_default(const std::vector<T>& chosen, const std::vector<T>& fallback) {
  std::vector<T> found;
  for (const T& one : chosen.empty() ? fallback : chosen)
    if (std::find(found.begin(), found.end(), one) == found.end()) found.push_back(one);
  return found;
}

}  // namespace

bool suits(Operation operation, const Workload& workload) {
  return is_recurrent(operation) ? workload.tokens <= kLongestRecurrent : workload.tokens >= kShortestChunk;
}

std::vector<Workload> default_workloads(Operation operation) {
  const auto workload = [](std::int64_t sequences, std::int64_t heads, std::int64_t tokens) {
    return Workload{.sequences = sequences, .heads = heads, .tokens = tokens};
  };
  // At most 2^20 (token, head)s, so that K256 V512 stays under 4 GiB (with all its gradients 8) and a slow variant under 0.1 s.
  if (operation == Operation::recurrent_backward)
    return {workload(1, 32, 16), workload(32, 32, 16), workload(1, 16, 64), workload(16, 32, 64)};
  if (!is_recurrent(operation))
    return {workload(1, 8, 2048),  workload(1, 8, 16384), workload(2, 16, 2048), workload(2, 16, 16384),
            workload(8, 8, 1024),  workload(4, 16, 2048), workload(4, 32, 2048), workload(4, 32, 8192),
            workload(4, 64, 4096), workload(16, 32, 512)};
  return {workload(1, 32, 1),   workload(8, 32, 1),  workload(64, 32, 1),
          workload(256, 32, 1), workload(1, 32, 16), workload(32, 32, 16)};
}

std::vector<TuningTask> tuning_tasks(const TaskSelection& selection) {
  const std::vector<HeadDims> kDims{{64, 64}, {128, 128}, {256, 256}, {128, 256}, {256, 512}};
  const std::vector<Operation> usual(std::begin(kUsualOperations), std::end(kUsualOperations));
  std::vector<TuningTask> tasks;
  for (const DType dtype : or_default(selection.dtypes, {DType::bf16})) {
    for (const int group : or_default(selection.groups, {1})) {
      for (const HeadDims dims : or_default(selection.head_dims, kDims)) {
        // Operations alternate: the quick compilation of one runs beside the measurement of another.
        for (const Operation operation : or_default(selection.operations, usual)) {
          TuningTask task;
          task.problem.operation = operation;
          task.problem.dtype = dtype;
          task.problem.gate_dtype = selection.gate_dtype.value_or(dtype);
          task.problem.gate_v = selection.gate_v && is_recurrent(operation);
          task.problem.head_dim_k = static_cast<std::int16_t>(dims.k);
          task.problem.head_dim_v = static_cast<std::int16_t>(dims.v);
          task.problem.group = static_cast<std::int16_t>(group);
          for (const Workload& workload : or_default(selection.workloads, default_workloads(operation)))
            if (selection.workloads.empty() || suits(operation, workload)) task.workloads.push_back(workload);
          if (!task.workloads.empty()) tasks.push_back(std::move(task));
        }
      }
    }
  }
  return tasks;
}

std::vector<TuningTask> renewal_tasks(const Table& table, const std::vector<Operation>& operations) {
  std::vector<TuningTask> tasks;
  for (const TableProblem& one : table.problems) {
    const auto is_one = [&](Operation operation) { return operation == one.problem.operation; };
    if (!operations.empty() && std::none_of(operations.begin(), operations.end(), is_one)) continue;
    std::set<Workload> workloads;
    std::set<Variant> variants;
    TuningTask task{one.problem, {}, {}};
    for (const Point& point : one.points) {
      if (workloads.insert(point.workload).second) task.workloads.push_back(point.workload);
      if (variants.insert(point.variant).second) task.variants.push_back(point.variant);
    }
    if (!task.workloads.empty()) tasks.push_back(std::move(task));
  }
  return tasks;
}

Result<HeadDims> parse_head_dims(std::string_view text) {
  const std::size_t cross = text.find('x');
  const auto k = parse_positive(text.substr(0, cross), "head dims", text, kMaxHeadDim);
  if (!k.ok()) return k.status();
  const auto v = cross == std::string_view::npos
                     ? k
                     : parse_positive(text.substr(cross + 1), "head dims", text, kMaxHeadDim);
  if (!v.ok()) return v.status();
  return HeadDims{static_cast<int>(*k), static_cast<int>(*v)};
}

Result<Workload> parse_workload(std::string_view text) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();  // what a table takes
  if (text.empty())
    return invalid_argument("workload \"\": expected B, N, H or T and a number, such as B4,T2048,H16");
  Workload workload;
  std::set<const std::int64_t*> given;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
    const char letter = part.empty() ? '\0' : part.front();
    std::int64_t* field = letter == 'B' || letter == 'N' ? &workload.sequences
                          : letter == 'H'                ? &workload.heads
                          : letter == 'T'                ? &workload.tokens
                                                         : nullptr;
    if (field == nullptr)
      return invalid_argument(fmt::format(
          "\"{}\" in workload \"{}\": expected B, N, H or T and a number, such as B4,T2048,H16", part, text));
    if (!given.insert(field).second)
      return invalid_argument(
          fmt::format("workload \"{}\" gives {} twice{}", text,
                      letter == 'H'   ? "heads"
                      : letter == 'T' ? "tokens"
                                      : "sequences",
                      letter == 'B' || letter == 'N' ? ": B and N both mean sequences" : ""));
    const auto value = parse_positive(part.substr(1), "workload", text, kMost);
    if (!value.ok()) return value.status();
    *field = *value;
  }
  return workload;
}

std::vector<TuningTask> share_of(std::vector<TuningTask> tasks, int index, int count) {
  std::vector<TuningTask> share;
  for (std::size_t i = 0; i < tasks.size(); ++i)
    if (static_cast<int>(i % static_cast<std::size_t>(count)) == index - 1)
      share.push_back(std::move(tasks[i]));
  return share;
}

}  // namespace gla
