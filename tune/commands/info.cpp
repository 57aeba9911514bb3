// gla-tune info: device, toolchain, cache, and which table applies and why.
#include <fmt/format.h>

#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "gla/generator/render.h"
#include "gla/gla.hpp"
#include "json.h"
#include "table_search.h"
#include "text_table.h"

namespace gla {
namespace {

struct InfoOptions {
  int device = 0;
  std::string table;
  bool json = false;

  void add_to(CLI::App& command) {
    command.add_option("--device", device, "CUDA ordinal (default: 0)");
    command.add_option("--table", table, "a table, as ContextOptions::table would name it");
    command.add_flag("--json", json, "print JSON");
  }
};

std::string_view to_string(TableFit fit) {
  switch (fit) {
    case TableFit::asked_for:
      return "asked for";
    case TableFit::same_gpu:
      return "same GPU";
    case TableFit::similar_gpu:
      return "similar GPU";
    case TableFit::ranked:
      return "ranked by the model";
    case TableFit::foreign:
      return "not used";
    case TableFit::unreadable:
      return "refused";
  }
  return "";
}

Json device_json(const driver::Device& device) {
  return Json::object({{"ordinal", device.ordinal},
                       {"name", device.name},
                       {"compute_capability", device.compute_capability},
                       {"architecture", "sm_" + device.architecture.name},
                       {"multiprocessors", device.architecture.multiprocessors},
                       {"memory_bytes", device.memory_bytes},
                       {"l2_bytes", device.architecture.l2_bytes},
                       {"driver", cuda_version(device.driver_version)}});
}

Json table_json(const TableCandidate& candidate) {
  return Json::object({{"path", candidate.path},
                       {"source", candidate.source},
                       {"fit", to_string(candidate.fit)},
                       {"used", is_used(candidate)},
                       {"reason", candidate.reason}});
}

/// Everything that the command says, as JSON: the text is printed from it.
Json gather(const InfoOptions& options) {
  Json info = Json::object({{"version", version()}, {"templates_hash", templates_hash()}});
  const auto nvrtc = nvrtc_version();
  info.set("nvrtc", nvrtc.ok() ? Json(*nvrtc) : Json());
  info.set("nvrtc_error", nvrtc.ok() ? Json() : Json(nvrtc.status().message()));
  info.set("cache", CubinCache::default_folder());
  const auto devices = driver::devices();
  info.set("driver_error", devices.ok() ? Json() : Json(devices.status().message()));
  Json list = Json::array(), tables = Json::array();
  if (devices.ok())
    for (const driver::Device& device : *devices) list.push(device_json(device));
  info.set("devices", std::move(list));
  const auto device = driver::device(options.device);
  if (device.ok()) {
    const auto found = find_tables(*device, table_places(options.table));
    info.set("table_error", found.ok() ? Json() : Json(found.status().message()));
    if (found.ok())
      for (const TableCandidate& candidate : *found) tables.push(table_json(candidate));
  }
  info.set("tables", std::move(tables));
  return info;
}

std::string text_of(const Json& info) {
  std::string text = fmt::format("gla-tune {}, templates {}\n", info["version"].as_string(),
                                 info["templates_hash"].as_string());
  for (const Json& device : info["devices"].items())
    text += fmt::format("GPU {}    {}, {}, {} multiprocessors, {}, L2 {}, driver for CUDA {}\n",
                        device["ordinal"].as_int(), device["name"].as_string(),
                        device["architecture"].as_string(), device["multiprocessors"].as_int(),
                        format_bytes(device["memory_bytes"].as_double()),
                        format_bytes(device["l2_bytes"].as_double()), device["driver"].as_string());
  if (info["devices"].items().empty())
    text +=
        fmt::format("GPU      none: {}\n", info["driver_error"].as_string("the driver reports no device"));
  text += fmt::format("NVRTC    {}\n", info["nvrtc"].is_null() ? "none: " + info["nvrtc_error"].as_string()
                                                               : info["nvrtc"].as_string());
  text += fmt::format("cache    {}\n", info["cache"].as_string());
  if (!info["table_error"].is_null()) text += fmt::format("table    {}\n", info["table_error"].as_string());
  bool used = false;
  for (const Json& table : info["tables"].items()) {
    const bool first = table["used"].as_bool() && !used;
    used = used || first;
    text += fmt::format("table    {}{} ({}): {}\n", first ? "in use: " : "", table["path"].as_string(),
                        table["fit"].as_string(), table["reason"].as_string());
  }
  if (!used && !info["devices"].items().empty())
    text += "table    none applies: the cost model chooses. `gla-tune tune` makes one for this GPU.\n";
  return text;
}

int run_info(const InfoOptions& options) {
  const Json info = gather(options);
  fmt::print("{}", options.json ? info.dump(2) + "\n" : text_of(info));
  return kExitOk;
}

}  // namespace

void add_info_command(CLI::App& app, int& exit_code) {
  add_command<InfoOptions>(app, exit_code, "info",
                           "The device, the toolchain, and which table applies and why", run_info)
      .footer("Example:\n  gla-tune info --json");
}

}  // namespace gla
