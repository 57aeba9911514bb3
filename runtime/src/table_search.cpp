#include "table_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <system_error>
#include <utility>

#include "files.h"
#include "gla/generator/render.h"

namespace gla {
namespace {

namespace fs = std::filesystem;

constexpr const char* kShipped = "shipped";

std::vector<fs::path> yaml_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  if (folder.empty()) return files;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// 0 for the same multiprocessors and bandwidth; a factor of e in either counts 1.
double difference(const driver::Device& device, const TableDevice& other) {
  const double multiprocessors =
      std::abs(std::log(static_cast<double>(other.multiprocessors) / device.architecture.multiprocessors));
  if (other.copy_bandwidth <= 0 || device.architecture.copy_bandwidth <= 0) return multiprocessors;
  return multiprocessors + std::abs(std::log(other.copy_bandwidth / device.architecture.copy_bandwidth));
}

void judge(TableCandidate& candidate, const driver::Device& device) {
  const TableDevice& other = candidate.table.device;
  if (other.compute_capability != device.compute_capability) {
    candidate.fit = TableFit::foreign;
    candidate.reason = fmt::format("for {} ({}); this device is sm_{}", other.name, other.architecture,
                                   device.architecture.name);
  } else if (!candidate.table.origin.measured) {
    candidate.fit = TableFit::ranked;
    candidate.reason = fmt::format("for {}, ranked by the model and not measured", other.architecture);
  } else if (other.name == device.name) {
    candidate.fit = TableFit::same_gpu;
    candidate.reason = "measured on this GPU model";
  } else {
    candidate.fit = TableFit::similar_gpu;
    candidate.reason =
        fmt::format("measured on {} ({} multiprocessors), of the same architecture as this GPU ({})",
                    other.name, other.multiprocessors, device.architecture.multiprocessors);
  }
  for (const Operation operation : outdated(candidate.table.origin)) {
    candidate.reason += fmt::format(
        "; its times of {} may no longer hold: made from other templates ({}, here {})", to_string(operation),
        candidate.table.origin.templates.at(operation), templates_hash(operation));
  }
}

/// What it ranks by, least first. A shipped table that was measured of other templates gives way to one of today's that was
/// measured on a similar GPU: its variants may be slower than others by now, and those that there were not yet are not in it.
std::pair<double, double> rank(const TableCandidate& candidate, const driver::Device& device) {
  const bool gives_way = candidate.source == kShipped && candidate.fit <= TableFit::similar_gpu &&
                         !outdated(candidate.table.origin).empty();
  const TableFit fit = gives_way ? TableFit::similar_gpu : candidate.fit;
  // Tables of this GPU differ by what they measured, which says nothing of how well they fit.
  const bool by_difference = candidate.fit == TableFit::similar_gpu || candidate.fit == TableFit::ranked;
  return {static_cast<double>(fit) + (gives_way ? 0.5 : 0.0),
          by_difference ? difference(device, candidate.table.device) : 0.0};
}

/// Of candidates, the best first, `index`: TableCandidate::doubtful.
bool is_doubtful(const std::vector<TableCandidate>& candidates, std::size_t index) {
  const TableCandidate& candidate = candidates[index];
  if (!is_used(candidate)) return candidate.fit == TableFit::unreadable;
  const std::vector<Operation> old = outdated(candidate.table.origin);
  return std::any_of(
      candidate.table.problems.begin(), candidate.table.problems.end(), [&](const TableProblem& entry) {
        return std::find(old.begin(), old.end(), entry.problem.operation) != old.end() &&
               std::none_of(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(index),
                            [&](const TableCandidate& better) {
                              return find_problem(better.table, entry.problem) != nullptr;
                            });
      });
}

/// Reads one file. `fatal` is set where the caller asked for it by name.
Status add(std::vector<TableCandidate>& found, const fs::path& path, std::string source, bool fatal,
           const driver::Device& device) {
  Result<Table> table = read_table(path.string());
  if (!table.ok() && fatal) {
    return {table.status().code(), fmt::format("table named by {}: {}", source, table.status().message())};
  }
  TableCandidate candidate;
  candidate.path = path.string();
  candidate.source = std::move(source);
  if (table.ok()) {
    candidate.table = *std::move(table);
    judge(candidate, device);
    if (fatal && is_used(candidate)) {
      candidate.reason = fmt::format("named by {}; {}", candidate.source, candidate.reason);
      candidate.fit = TableFit::asked_for;
    } else if (fatal) {
      return {StatusCode::unsupported,
              fmt::format("table named by {}: {} is {}", candidate.source, candidate.path, candidate.reason)};
    }
  } else {
    candidate.reason = table.status().message();
  }
  found.push_back(std::move(candidate));
  return {};
}

}  // namespace

TablePlaces table_places(const std::string& given) {
  TablePlaces places;
  places.given = given;
  places.environment = environment("GLA_TABLE");
  places.user_folder = user_folder("XDG_CONFIG_HOME", ".config");
  if (!places.user_folder.empty()) places.user_folder /= "tables";
  places.shipped = {own_folder() / "../share/gla-tune/tables", own_folder() / "../../share/gla-tune/tables"};
#ifdef GLA_BUILD_TABLES
  places.shipped.insert(places.shipped.end(), {GLA_INSTALL_TABLES, GLA_BUILD_TABLES});
#endif
  return places;
}

Result<std::vector<TableCandidate>> find_tables(const driver::Device& device, const TablePlaces& places) {
  std::vector<TableCandidate> found;
  const bool given = !places.given.empty();
  const std::string& named = given ? places.given : places.environment;
  if (named == "none") return found;
  if (!named.empty()) {
    if (Status status = add(found, named, given ? "ContextOptions::table" : "GLA_TABLE", true, device);
        !status.ok())
      return status;
  }
  for (const fs::path& path : yaml_files(places.user_folder))
    (void)add(found, path, "user folder", false, device);
  std::error_code error;
  for (const fs::path& folder : places.shipped) {
    if (!fs::is_directory(folder, error)) continue;
    for (const fs::path& path : yaml_files(folder)) (void)add(found, path, kShipped, false, device);
    break;
  }
  std::stable_sort(found.begin(), found.end(), [&](const TableCandidate& a, const TableCandidate& b) {
    return rank(a, device) < rank(b, device);
  });
  for (std::size_t i = 0; i < found.size(); ++i) found[i].doubtful = is_doubtful(found, i);
  return found;
}

}  // namespace gla
