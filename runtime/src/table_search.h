// Which dispatch tables apply to a device, in which order, and why the others do not.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "driver.h"
#include "gla/generator/status.h"
#include "table.h"

namespace gla {

/// Where tables are looked for. A table is asked for, or one of a folder's *.yaml files.
struct TablePlaces {
  std::string given;                  ///< ContextOptions::table; "none": no table at all
  std::string environment;            ///< GLA_TABLE, likewise
  std::filesystem::path user_folder;  ///< XDG_CONFIG_HOME/gla-tune/tables or ~/.config/gla-tune/tables
  std::vector<std::filesystem::path> shipped;  ///< the first of these folders that exists
};
TablePlaces table_places(const std::string& given);

/// How well a table fits a device, best first.
enum class TableFit {
  asked_for,    ///< the caller or GLA_TABLE named it
  same_gpu,     ///< measured on a GPU of this name
  similar_gpu,  ///< measured on another GPU of this architecture
  ranked,       ///< of this architecture, but ranked by the model: not measured
  foreign,      ///< of another architecture: not used
  unreadable,   ///< refused: not used
};

struct TableCandidate {
  std::string path;
  std::string source;  ///< "ContextOptions::table", "GLA_TABLE", "user folder", "shipped"
  TableFit fit = TableFit::unreadable;
  std::string reason;  ///< one sentence for a person
  Table table;         ///< empty if unreadable
  /// Worth a warning: unreadable, or made from other templates and the first to serve one of its problems.
  bool doubtful = false;
};

/// Every table found, those in use first and best first: asked for, then of this GPU, then of the
/// architecture's GPU with the closest multiprocessor count and bandwidth, then shipped ones of other templates, then
/// ranked ones; the user's before a shipped one of equal fit. A table that was asked for and cannot be read is an error; with one,
/// the folders still serve the problems that it lacks.
Result<std::vector<TableCandidate>> find_tables(const driver::Device& device, const TablePlaces& places);

inline bool is_used(const TableCandidate& candidate) {
  return candidate.fit < TableFit::foreign;
}

}  // namespace gla
