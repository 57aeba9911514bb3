#include <fmt/format.h>

#include <iterator>

#include "files.h"
#include "table.h"

namespace gla {
namespace {

/// A YAML double-quoted scalar.
std::string yaml_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out += '"';
}

/// Six digits are more than a measurement has, and reading them back writes the same six.
std::string number(double value) {
  return fmt::format("{:.6g}", value);
}

std::string variant_map(const Variant& variant) {
  std::string out = fmt::format("{{family: {}", to_string(variant.family));
  for (const Parameter parameter : parameters_of(variant.family))
    if (is_written(variant, parameter))
      out += fmt::format(", {}: {}", to_string(parameter), variant[parameter]);
  return out += "}";
}

class Writer {
 public:
  template <class... Values>
  void line(fmt::format_string<const Values&...> format, const Values&... values) {
    fmt::format_to(std::back_inserter(text_), format, values...);
    text_ += '\n';
  }

  void device(const TableDevice& device) {
    line("device:");
    line("  name: {}", yaml_text(device.name));
    line("  architecture: {}", device.architecture);
    line("  compute_capability: {}", device.compute_capability);
    line("  multiprocessors: {}", device.multiprocessors);
    line("  memory_bytes: {}", device.memory_bytes);
    line("  copy_bandwidth: {}", number(device.copy_bandwidth));
    line("  driver: {}", yaml_text(device.driver));
  }

  void origin(const TableOrigin& origin) {
    line("origin:");
    line("  tool: {}", yaml_text(origin.tool));
    line("  nvrtc: {}", yaml_text(origin.nvrtc));
    std::string templates;
    for (const auto& [operation, hash] : origin.templates)
      templates +=
          fmt::format("{}{}: {}", templates.empty() ? "" : ", ", to_string(operation), yaml_text(hash));
    line("  templates: {{{}}}", templates);
    line("  date: {}", yaml_text(origin.date));
    line("  command: {}", yaml_text(origin.command));
    line("  measured: {}", origin.measured);
  }

  void problem(const TableProblem& entry) {
    const Problem& problem = entry.problem;
    line("- operation: {}", to_string(problem.operation));
    line("  dtype: {}", to_string(problem.dtype));
    line("  gate_dtype: {}", to_string(problem.gate_dtype));
    line("  head_dim_k: {}", problem.head_dim_k);
    line("  head_dim_v: {}", problem.head_dim_v);
    line("  group: {}", problem.group);
    line("  gate_k: {}", problem.gate_k);
    line("  gate_v: {}", problem.gate_v);
    tally(entry.tally);
    line("  points:{}", entry.points.empty() ? " []" : "");
    for (const Point& each : entry.points) point(each);
  }

  std::string take() { return std::move(text_); }

 private:
  void tally(const Tally& tally) {
    line("  tally:");
    line("    space: {}", tally.space);
    line("    compiled: {}", tally.compiled);
    line("    verified: {}", tally.verified);
    line("    measured: {}", tally.measured);
    line("    refused:{}", tally.refused.empty() ? " {}" : "");
    for (const auto& [reason, count] : tally.refused) line("      {}: {}", yaml_text(reason), count);
  }

  void point(const Point& point) {
    const Workload& work = point.workload;
    line("  - workload: {{sequences: {}, heads: {}, tokens: {}, packed: {}}}", work.sequences, work.heads,
         work.tokens, work.packed);
    line("    accuracy: {}", to_string(point.accuracy));
    line("    gates: {}", yaml_text(point.gates));
    line("    variant: {}", variant_map(point.variant));
    line("    microseconds: {}", number(1e6 * point.seconds));
    line("    noise: {}", number(point.noise));
    line("    floor_share: {}", number(point.floor_share));
    line("    fallback_share: {}", number(point.fallback_share));
    line("    error: {{o: {}, state: {}}}", number(point.error_o), number(point.error_state));
  }

  std::string text_;
};

}  // namespace

std::string format_table(const Table& table) {
  Writer writer;
  writer.line("# A dispatch table of gla-tune; docs/table.md explains every key.");
  writer.line("schema: {}", kTableSchema);
  writer.device(table.device);
  writer.origin(table.origin);
  writer.line("problems:{}", table.problems.empty() ? " []" : "");
  for (const TableProblem& entry : table.problems) writer.problem(entry);
  writer.line("end: gla-tune");
  return writer.take();
}

Status write_table(const Table& table, const std::string& path) {
  return write_file(path, format_table(table));
}

}  // namespace gla
