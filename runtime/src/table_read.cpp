#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <set>
#include <string_view>
#include <tuple>

#include "call_limits.h"
#include "files.h"
#include "gla/generator/architecture.h"
#include "gla/generator/render.h"
#include "gla/generator/space.h"
#include "table.h"

namespace gla {
namespace {

/// The first fault of a table. Thrown inside this file only, as yaml-cpp throws its own.
struct Fault {
  int line;
  std::string reason;
};

int line_of(const YAML::Mark& mark) {
  return mark.line + 1;  // yaml-cpp counts from 0
}

[[noreturn]] void fail(const YAML::Node& node, std::string reason) {
  throw Fault{line_of(node.Mark()), std::move(reason)};
}

/// Passes the value of a Result on, or its message as a fault at the node.
template <class T>
T take(const YAML::Node& node, Result<T> result) {
  if (!result.ok()) fail(node, result.status().message());
  return *std::move(result);
}

bool is_quoted(const YAML::Node& node) {
  return node.Tag() == "!";
}

template <class Number>
bool parse_number(const std::string& text, Number& value) {
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  return error == std::errc{} && stopped == end;
}

bool reads_as_other_type(const std::string& text) {
  double value = 0;
  return text.empty() || text == "true" || text == "false" || text == "null" || text == "~" ||
         parse_number(text, value);
}

/// A mapping whose keys are exactly those expected, each once.
class Map {
 public:
  Map(const YAML::Node& node, std::string name, std::initializer_list<std::string_view> keys)
      : node_(node), name_(std::move(name)) {
    if (!node.IsMap()) fail(node, fmt::format("{} must be a mapping", name_));
    for (const auto& pair : node) {
      const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "?";
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail(pair.first, fmt::format("unknown key '{}' in {}", key, name_));
      if (!values_.emplace(key, pair.second).second)
        fail(pair.first, fmt::format("key '{}' occurs twice in {}", key, name_));
    }
    for (const std::string_view key : keys) {
      if (!values_.contains(std::string(key))) fail(node, fmt::format("{} lacks the key '{}'", name_, key));
    }
  }

  YAML::Node operator[](const std::string& key) const { return values_.at(key); }

  std::string text(const std::string& key) const {
    const YAML::Node value = scalar(key, "a text");
    if (!is_quoted(value) && reads_as_other_type(value.Scalar()))
      fail(value,
           fmt::format("{} must be a text (quoted if it looks like a number), not {}", key, value.Scalar()));
    return value.Scalar();
  }

  bool boolean(const std::string& key) const {
    const YAML::Node value = scalar(key, "true or false");
    if (is_quoted(value) || (value.Scalar() != "true" && value.Scalar() != "false"))
      fail(value, fmt::format("{} must be true or false, not {}", key, shown(value)));
    return value.Scalar() == "true";
  }

  std::int64_t integer(const std::string& key, std::int64_t least, std::int64_t most) const {
    const YAML::Node value = scalar(key, "a whole number");
    std::int64_t number = 0;
    if (is_quoted(value) || !parse_number(value.Scalar(), number))
      fail(value, fmt::format("{} must be a whole number, not {}", key, shown(value)));
    if (number < least || number > most)
      fail(value, fmt::format("{} is {}; accepted: {} to {}", key, number, least, most));
    return number;
  }
  int count(const std::string& key, std::int64_t least = 0, std::int64_t most = kMostCount) const {
    return static_cast<int>(integer(key, least, most));
  }

  double real(const std::string& key, double least, double most) const {
    const YAML::Node value = scalar(key, "a number");
    double number = 0;
    if (is_quoted(value) || !parse_number(value.Scalar(), number))
      fail(value, fmt::format("{} must be a number, not {}", key, shown(value)));
    if (!(number >= least && number <= most))
      fail(value, fmt::format("{} is {}; accepted: {} to {}", key, number, least, most));
    return number;
  }

 private:
  static std::string shown(const YAML::Node& value) {
    return is_quoted(value) ? fmt::format("\"{}\"", value.Scalar()) : fmt::format("'{}'", value.Scalar());
  }

  YAML::Node scalar(const std::string& key, std::string_view wanted) const {
    const YAML::Node& value = values_.at(key);
    if (!value.IsScalar()) {
      // A key without a value is marked where the next token starts; the mapping is nearer.
      fail(value.IsNull() ? node_ : value, fmt::format("{} in {} must be {}", key, name_, wanted));
    }
    return value;
  }

  YAML::Node node_;
  std::string name_;
  std::map<std::string, YAML::Node> values_;
};

TableDevice read_device(const YAML::Node& node) {
  const Map map(node, "device",
                {"name", "architecture", "compute_capability", "multiprocessors", "memory_bytes",
                 "copy_bandwidth", "driver"});
  TableDevice device;
  device.name = map.text("name");
  device.architecture = map.text("architecture");
  const Architecture architecture = take(map["architecture"], parse_architecture(device.architecture));
  device.compute_capability = map.count("compute_capability", 1);
  if (device.compute_capability != architecture.compute_capability) {
    fail(map["compute_capability"],
         fmt::format("compute_capability is {}; that of {} is {}", device.compute_capability,
                     device.architecture, architecture.compute_capability));
  }
  device.multiprocessors = map.count("multiprocessors", 1);
  device.memory_bytes = map.integer("memory_bytes", 0, std::numeric_limits<std::int64_t>::max());
  device.copy_bandwidth = map.real("copy_bandwidth", 0, 1e18);
  device.driver = map.text("driver");
  return device;
}

std::map<Operation, std::string> read_templates(const YAML::Node& node) {
  if (!node.IsMap()) fail(node, "templates must be a mapping from operations to digests");
  std::map<Operation, std::string> templates;
  for (const auto& pair : node) {
    const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "?";
    const Operation operation = take(pair.first, parse_operation(key));
    if (!pair.second.IsScalar() || !is_quoted(pair.second))
      fail(pair.first, fmt::format("templates: the digest of {} must be a quoted text", key));
    if (!templates.emplace(operation, pair.second.Scalar()).second)
      fail(pair.first, fmt::format("templates: {} occurs twice", key));
  }
  return templates;
}

TableOrigin read_origin(const YAML::Node& node) {
  const Map map(node, "origin", {"tool", "nvrtc", "templates", "date", "command", "measured"});
  return {map.text("tool"), map.text("nvrtc"),   read_templates(map["templates"]),
          map.text("date"), map.text("command"), map.boolean("measured")};
}

/// Schema 1 has one digest, of all templates: the operations of a table are as old as it is.
TableOrigin read_first_origin(const YAML::Node& node, const std::vector<TableProblem>& problems) {
  const Map map(node, "origin", {"tool", "nvrtc", "templates_hash", "date", "command", "measured"});
  std::map<Operation, std::string> templates = current_templates(problems);
  if (const std::string all = map.text("templates_hash"); all != templates_hash())
    for (auto& [operation, hash] : templates) hash = all;
  return {map.text("tool"), map.text("nvrtc"),   std::move(templates),
          map.text("date"), map.text("command"), map.boolean("measured")};
}

Tally read_tally(const YAML::Node& node) {
  const Map map(node, "tally", {"space", "compiled", "verified", "measured", "refused"});
  Tally tally;
  tally.space = map.count("space");
  tally.compiled = map.count("compiled", 0, tally.space);
  tally.verified = map.count("verified", 0, tally.space);
  tally.measured = map.count("measured", 0, tally.space);
  const YAML::Node refused = map["refused"];
  if (!refused.IsMap()) fail(refused, "refused must be a mapping from reasons to counts");
  for (const auto& pair : refused) {
    const std::string reason = pair.first.Scalar();
    int count = 0;
    if (!pair.second.IsScalar() || is_quoted(pair.second) || !parse_number(pair.second.Scalar(), count) ||
        count < 1)
      fail(pair.first, fmt::format("refused: the count of '{}' must be a whole number from 1", reason));
    if (!tally.refused.emplace(reason, count).second)
      fail(pair.first, fmt::format("refused: '{}' occurs twice", reason));
  }
  return tally;
}

Variant read_variant(const YAML::Node& node, const Problem& problem, const Architecture& architecture) {
  if (!node.IsMap()) fail(node, "variant must be a mapping");
  const YAML::Node family = node["family"];
  if (!family || !family.IsScalar()) fail(node, "variant lacks the key 'family'");
  Variant variant;
  variant.family = take(family, parse_family(family.Scalar()));
  std::set<std::string> seen;
  for (const auto& pair : node) {
    const std::string key = pair.first.IsScalar() ? pair.first.Scalar() : "?";
    if (!seen.insert(key).second) fail(pair.first, fmt::format("key '{}' occurs twice in variant", key));
    if (key == "family") continue;
    const Parameter parameter = take(pair.first, parse_parameter(key));
    std::int16_t value = 0;
    if (!pair.second.IsScalar() || is_quoted(pair.second) || !parse_number(pair.second.Scalar(), value))
      fail(pair.first,
           fmt::format("{} must be a whole number up to {}", key, std::numeric_limits<std::int16_t>::max()));
    variant.set(parameter, value);
  }
  const std::span<const Parameter> parameters = parameters_of(variant.family);
  std::size_t own = 1;  // the family
  for (const Parameter parameter : parameters) {
    const bool given = seen.contains(std::string(to_string(parameter)));
    if (!given && !is_optional(parameter))
      fail(node, fmt::format("variant lacks the key '{}'", to_string(parameter)));
    own += given ? 1 : 0;
  }
  if (seen.size() != own)
    fail(node, fmt::format("variant has a parameter that {} does not have", to_string(variant.family)));
  if (const Status status = check(problem, architecture, variant); !status.ok())
    fail(node, fmt::format("variant is outside the space: {}", status.message()));
  return variant;
}

Point read_point(const YAML::Node& node, const Problem& problem, const Architecture& architecture) {
  const Map map(node, "point",
                {"workload", "accuracy", "gates", "variant", "microseconds", "noise", "floor_share",
                 "fallback_share", "error"});
  const Map workload(map["workload"], "workload", {"sequences", "heads", "tokens", "packed"});
  const Map error(map["error"], "error", {"o", "state"});
  constexpr double kMost = 1e12;
  Point point;
  point.workload.sequences = workload.integer("sequences", 1, kMostCount);
  point.workload.heads = workload.integer("heads", 1, kMostCount);
  point.workload.tokens = workload.integer("tokens", 1, kMostTokens);
  point.workload.packed = workload.boolean("packed");
  point.accuracy = take(map["accuracy"], parse_accuracy(map.text("accuracy")));
  point.gates = map.text("gates");
  point.variant = read_variant(map["variant"], problem, architecture);
  point.seconds = 1e-6 * map.real("microseconds", 1e-6, kMost);
  point.noise = map.real("noise", 0, kMost);
  point.floor_share = map.real("floor_share", 0, kMost);
  point.fallback_share = map.real("fallback_share", 0, 1);
  point.error_o = error.real("o", 0, kMost);
  point.error_state = error.real("state", 0, kMost);
  return point;
}

TableProblem read_problem(const YAML::Node& node, const Architecture& architecture) {
  const Map map(node, "problem",
                {"operation", "dtype", "gate_dtype", "head_dim_k", "head_dim_v", "group", "gate_k", "gate_v",
                 "tally", "points"});
  TableProblem entry;
  Problem& problem = entry.problem;
  problem.operation = take(map["operation"], parse_operation(map.text("operation")));
  problem.dtype = take(map["dtype"], parse_dtype(map.text("dtype")));
  problem.gate_dtype = take(map["gate_dtype"], parse_dtype(map.text("gate_dtype")));
  problem.head_dim_k = static_cast<std::int16_t>(map.integer("head_dim_k", 1, kMaxHeadDim));
  problem.head_dim_v = static_cast<std::int16_t>(map.integer("head_dim_v", 1, kMaxHeadDim));
  problem.group = static_cast<std::int16_t>(map.integer("group", 1, kMaxGroup));
  problem.gate_k = map.boolean("gate_k");
  problem.gate_v = map.boolean("gate_v");
  if (const Status status = check(problem); !status.ok()) fail(node, status.message());
  if (problem != tuning_key(problem)) fail(node, "gate_dtype must be the dtype where there is no gate");
  entry.tally = read_tally(map["tally"]);

  const YAML::Node points = map["points"];
  if (!points.IsSequence()) fail(points, "points must be a list");
  std::set<std::tuple<Accuracy, Workload, std::string>> seen;
  for (const YAML::Node& each : points) {
    Point point = read_point(each, problem, architecture);
    if (!seen.emplace(point.accuracy, point.workload, point.gates).second) {
      fail(each, fmt::format("a second point for {}, accuracy {}, gates {}", to_string(point.workload),
                             to_string(point.accuracy), point.gates));
    }
    entry.points.push_back(std::move(point));
  }
  return entry;
}

/// The table's schema; one that is not known is reported as such, not as the unknown keys that it brings.
int read_schema(const YAML::Node& root) {
  if (!root.IsMap()) fail(root, "a table must be a mapping");
  const YAML::Node schema = root["schema"];
  if (!schema) fail(root, "the table lacks the key 'schema'");
  int version = 0;
  if (!schema.IsScalar() || is_quoted(schema) || !parse_number(schema.Scalar(), version))
    fail(schema, "schema must be a whole number");
  if (version < 1 || version > kTableSchema)
    fail(schema, fmt::format("schema is {}; this version of gla-tune reads 1 to {}", version, kTableSchema));
  return version;
}

void check_end(const YAML::Node& root) {
  const YAML::Node end = root["end"];
  if (!end) throw Fault{0, "the closing line 'end: gla-tune' is missing: the file was cut short"};
  if (!end.IsScalar() || end.Scalar() != "gla-tune") fail(end, "the last line must be 'end: gla-tune'");
}

Table read(const std::string& text) {
  const std::vector<YAML::Node> documents = YAML::LoadAll(text);
  if (documents.empty()) throw Fault{1, "the file is empty"};
  if (documents.size() > 1) fail(documents[1], "a second YAML document; a table is one");
  const YAML::Node& root = documents.front();
  const int schema = read_schema(root);
  check_end(root);
  const Map map(root, "the table", {"schema", "device", "origin", "problems", "end"});
  Table table;
  table.device = read_device(map["device"]);
  const Architecture architecture = take(map["device"], parse_architecture(table.device.architecture));
  const YAML::Node problems = map["problems"];
  if (!problems.IsSequence()) fail(problems, "problems must be a list");
  for (const YAML::Node& each : problems) {
    TableProblem entry = read_problem(each, architecture);
    if (find_problem(table, entry.problem) != nullptr)
      fail(each, fmt::format("a second entry for {}", to_string(entry.problem)));
    table.problems.push_back(std::move(entry));
  }
  const YAML::Node origin = map["origin"];
  table.origin = schema == 1 ? read_first_origin(origin, table.problems) : read_origin(origin);
  for (const auto& [operation, hash] : current_templates(table.problems))
    if (!table.origin.templates.contains(operation))
      fail(origin["templates"],
           fmt::format("templates lacks {}, of which the table has problems", to_string(operation)));
  return table;
}

}  // namespace

Result<Table> parse_table(const std::string& text, const std::string& name_in_messages) {
  const auto refuse = [&](int line, const std::string& reason) {
    const auto lines = 1 + std::count(text.begin(), text.end(), '\n') - (text.ends_with('\n') ? 1 : 0);
    return Status{StatusCode::format,
                  fmt::format("{}:{}: {}", name_in_messages, line > 0 ? line : lines, reason)};
  };
  try {
    return read(text);
  } catch (const Fault& fault) {
    return refuse(fault.line, fault.reason);
  } catch (const YAML::Exception& error) {
    return refuse(line_of(error.mark), error.msg);
  } catch (const std::exception& error) {
    return refuse(0, error.what());
  }
}

Result<Table> read_table(const std::string& path) {
  const Result<std::string> text = read_file(path);
  if (!text.ok()) return text.status();
  return parse_table(*text, path);
}

}  // namespace gla
