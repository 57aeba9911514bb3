#include "table_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "problem_json.h"
#include "text_table.h"

namespace gla {
namespace {

std::string header(const Table& table) {
  const TableDevice& device = table.device;
  std::string text = fmt::format("{} · {} · {} multiprocessors · copies at {:.2f} TB/s", device.name,
                                 device.architecture, device.multiprocessors, device.copy_bandwidth * 1e-12);
  if (!device.driver.empty()) text += " · driver for CUDA " + device.driver;
  text += fmt::format(" · NVRTC {}\n{} · {}\n", table.origin.nvrtc, table.origin.tool, table.origin.date);
  for (const auto& [operation, hash] : table.origin.templates)
    text += fmt::format("{} from templates {}\n", to_string(operation), hash);
  if (!table.origin.measured) {
    const bool verified = std::any_of(table.problems.begin(), table.problems.end(),
                                      [](const TableProblem& problem) { return problem.tally.verified > 0; });
    text += fmt::format(
        "NOT MEASURED: ranked by the cost model from compiled kernels; times are predictions.\n{}\n",
        verified ? "Verified on the emulator, not on a GPU." : "NOT VERIFIED: errors are unknown.");
  }
  return text;
}

std::string tally_line(const Tally& tally) {
  std::string text = fmt::format("{} variants in the space, {} compiled, {} verified, {} measured",
                                 tally.space, tally.compiled, tally.verified, tally.measured);
  int refused = 0;
  std::string reasons;
  for (const auto& [reason, count] : tally.refused) {
    refused += count;
    reasons += fmt::format("{}{} {}", reasons.empty() ? "" : ", ", reason, count);
  }
  return refused == 0 ? text : text + fmt::format(", {} refused ({})", refused, reasons);
}

/// The standard point of the same workload and variant, if `fast` has one: they share a row.
bool same_as_standard(const TableProblem& problem, const Point& fast) {
  for (const Point& point : problem.points)
    if (point.accuracy == Accuracy::standard && point.workload == fast.workload)
      return point.variant == fast.variant;
  return false;
}

}  // namespace

std::string format_report(const Table& table, const std::vector<std::vector<double>>& runner_up_seconds) {
  using Align = TextTable::Align;
  TextTable text({{"  workload"},
                  {"accuracy"},
                  {"time", Align::right},
                  {"noise", Align::right},
                  {"of floor", Align::right},
                  {"next best", Align::right},
                  {"variant"}});
  for (std::size_t p = 0; p < table.problems.size(); ++p) {
    const TableProblem& problem = table.problems[p];
    text.section(fmt::format("{}\n  {}", to_string(problem.problem), tally_line(problem.tally)));
    for (std::size_t i = 0; i < problem.points.size(); ++i) {
      const Point& point = problem.points[i];
      const bool fast = point.accuracy == Accuracy::fast;
      if (fast && same_as_standard(problem, point)) continue;
      const double next =
          p < runner_up_seconds.size() && i < runner_up_seconds[p].size() ? runner_up_seconds[p][i] : 0;
      text.add({"  " + to_string(point.workload), std::string(to_string(point.accuracy)),
                format_seconds(point.seconds),
                table.origin.measured ? fmt::format("{:.1f} %", point.noise * 100) : "",
                format_percent(point.floor_share),
                next > 0 ? fmt::format("+{:.0f} %", (next / point.seconds - 1) * 100) : "",
                to_string(point.variant)});
    }
  }
  return header(table) + "\n" + text.format();
}

Json to_json(const Table& table) {
  Json problems = Json::array();
  for (const TableProblem& problem : table.problems) {
    Json points = Json::array(), refused = Json::object();
    for (const Point& point : problem.points)
      points.push(Json::object({{"accuracy", to_string(point.accuracy)},
                                {"workload", to_json(point.workload)},
                                {"gates", point.gates},
                                {"variant", to_string(point.variant)},
                                {"seconds", point.seconds},
                                {"noise", point.noise},
                                {"floor_share", point.floor_share},
                                {"fallback_share", point.fallback_share},
                                {"error_o", point.error_o},
                                {"error_state", point.error_state}}));
    for (const auto& [reason, count] : problem.tally.refused) refused.set(reason, count);
    problems.push(Json::object({{"problem", to_json(problem.problem)},
                                {"space", problem.tally.space},
                                {"compiled", problem.tally.compiled},
                                {"verified", problem.tally.verified},
                                {"measured", problem.tally.measured},
                                {"refused", refused},
                                {"points", points}}));
  }
  Json templates = Json::object({});
  for (const auto& [operation, hash] : table.origin.templates)
    templates.set(std::string(to_string(operation)), hash);
  return Json::object({{"device", table.device.name},
                       {"architecture", table.device.architecture},
                       {"multiprocessors", table.device.multiprocessors},
                       {"copy_bandwidth", table.device.copy_bandwidth},
                       {"driver", table.device.driver},
                       {"tool", table.origin.tool},
                       {"nvrtc", table.origin.nvrtc},
                       {"templates", templates},
                       {"date", table.origin.date},
                       {"command", table.origin.command},
                       {"measured", table.origin.measured},
                       {"problems", problems}});
}

}  // namespace gla
