// The dispatch table: measured points of one GPU, read from and written to YAML (docs/table.md).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gla/generator/problem.h"
#include "gla/generator/status.h"
#include "gla/generator/variant.h"

namespace gla {

inline constexpr int kTableSchema = 2;  ///< 1 is read too

struct TableDevice {
  std::string name;          ///< "NVIDIA H200"
  std::string architecture;  ///< "sm_90a"
  int compute_capability = 0;
  int multiprocessors = 0;
  std::int64_t memory_bytes = 0;
  double copy_bandwidth = 0;  ///< bytes/s read plus written; measured, or the architecture's estimate
  std::string driver;         ///< CUDA version of the driver, "13.0"; empty offline
};

struct TableOrigin {
  std::string tool;   ///< "gla-tune 0.1.0"
  std::string nvrtc;  ///< "13.0"
  /// templates_hash() of each operation that the table has, as it was when that was tuned.
  std::map<Operation, std::string> templates;
  std::string date;      ///< "2026-11-22T12:00:00Z"
  std::string command;   ///< the arguments of the run
  bool measured = true;  ///< false: ranked by the model, no GPU (times are predictions)
};

/// One workload and the variant that serves it best.
struct Point {
  Accuracy accuracy = Accuracy::standard;
  Workload workload;
  std::string gates;  ///< "logsigmoid/16": the gates it was tuned on
  Variant variant;
  double seconds = 0;         ///< median; a prediction when not measured
  double noise = 0;           ///< relative: median absolute deviation / median
  double floor_share = 0;     ///< floor / seconds
  double fallback_share = 0;  ///< share of chunks off the fast path
  double error_o =
      0;  ///< relative error in verification, worst gates: of o, or the worst of dq, dk, dv and dgk
  double error_state = 0;  ///< of final_state, or of the gradient of initial_state
};

/// What happened to the variants of the space: nothing is dropped silently.
struct Tally {
  int space = 0, compiled = 0, verified = 0, measured = 0;
  std::map<std::string, int> refused;  ///< reason -> variants
};

struct TableProblem {
  Problem problem;  ///< a tuning_key()
  Tally tally;
  std::vector<Point> points;
};

struct Table {
  TableDevice device;
  TableOrigin origin;
  std::vector<TableProblem> problems;
};

/// What TableOrigin::templates says of problems that are tuned now.
std::map<Operation, std::string> current_templates(const std::vector<TableProblem>& problems);
/// Operations whose kernels are made of other templates now: their times may no longer hold.
std::vector<Operation> outdated(const TableOrigin& origin);

/// Reads and checks a whole table: schema version, every key known and of its type, ranges, duplicates,
/// variants inside their spaces. The first fault is a `format` status "file:line: reason"; nothing
/// half-loads.
Result<Table> read_table(const std::string& path);
Result<Table> parse_table(const std::string& text, const std::string& name_in_messages);

/// Writes to a temporary name beside `path` and renames.
Status write_table(const Table& table, const std::string& path);
std::string format_table(const Table& table);

/// Where a workload lies between the points: octaves of N*H and of the (mean) tokens per sequence.
struct Coordinates {
  double parallel = 0;
  double tokens = 0;
  bool packed = false;
};
/// `parallel_scale`: multiprocessors of the table's GPU over those of the device; fewer multiprocessors fill
/// up sooner.
Coordinates coordinates(const Workload& workload, double parallel_scale = 1);
/// Square of the distance in octaves; packed against padded counts as one.
double distance(const Coordinates& a, const Coordinates& b);
/// Within half an octave in both directions, and alike in being packed.
bool same_bucket(const Coordinates& a, const Coordinates& b);

/// The problem of the table that serves `problem`: its tuning key.
const TableProblem* find_problem(const Table& table, const Problem& problem);

/// The nearest point in (log N*H, log T), if the table has the tuning key and class; of equally near points
/// the first. Points of the default class serve `fast` where the table has none of that class. exact: same
/// bucket.
struct Lookup {
  const Point* point = nullptr;
  bool exact = false;
};
Lookup lookup(const Table& table, const Problem& problem, const Workload& workload, Accuracy accuracy,
              double parallel_scale = 1);

}  // namespace gla
