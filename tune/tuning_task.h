// What a tuning run is asked to do: problems, each with the workloads of its table points.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gla/generator/problem.h"
#include "gla/generator/variant.h"
#include "table.h"

namespace gla {

struct TuningTask {
  Problem problem;
  std::vector<Workload> workloads;
  std::vector<Variant> variants = {};  ///< the only ones that are tried; empty: the space is searched
};

struct HeadDims {
  int k = 0;
  int v = 0;
  bool operator==(const HeadDims&) const = default;
};

/// What models run; gradients of short sequences are tuned when they are asked for.
inline constexpr Operation kUsualOperations[] = {Operation::chunk_forward, Operation::recurrent_forward,
                                                 Operation::chunk_backward};

/// What a caller narrows the defaults by; an empty list means the default.
struct TaskSelection {
  std::vector<Operation> operations;  ///< kUsualOperations
  std::vector<DType> dtypes;          ///< bf16
  std::vector<HeadDims> head_dims;    ///< 64, 128, 256, 128/256, 256/512
  std::vector<int> groups;            ///< 1
  std::optional<DType> gate_dtype;    ///< the dtype
  bool gate_v = false;                ///< gv present (recurrent operations)
  std::vector<Workload> workloads;    ///< default_workloads(); given ones go to each operation they suit
};

/// The grid of workloads of an operation: N*H by T where models are trained, prefilled and decoded.
std::vector<Workload> default_workloads(Operation operation);

/// Beyond so many tokens the chunk kernel is meant (DESIGN section 1: recurrent is short T and decode).
inline constexpr std::int64_t kLongestRecurrent = 64;
inline constexpr std::int64_t kShortestChunk = 16;

/// Whether a given workload is of a length that the operation is meant for.
bool suits(Operation operation, const Workload& workload);

/// What is given twice counts once.
std::vector<TuningTask> tuning_tasks(const TaskSelection& selection);

/// What a table was tuned for, and nothing but the variants that it recommends. `operations`: those wanted; empty: all.
std::vector<TuningTask> renewal_tasks(const Table& table, const std::vector<Operation>& operations);

/// "64" or "128x256" (K x V).
Result<HeadDims> parse_head_dims(std::string_view text);
/// "B1,T8192,H96", "N4,T2048,H16": letters in any order; B and N both mean sequences.
Result<Workload> parse_workload(std::string_view text);

/// Share `index` of `count` (counted from 1): every count-th task, so that shares take about equally long.
std::vector<TuningTask> share_of(std::vector<TuningTask> tasks, int index, int count);

}  // namespace gla
