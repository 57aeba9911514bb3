// From a problem and a workload to a variant: the tables in use, in order, then the model. No GPU needed.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "driver.h"
#include "gla/gla.hpp"
#include "table.h"
#include "table_search.h"

namespace gla {

/// A place in the plane of workloads, and the variant that serves there.
struct Site {
  Coordinates at;
  Variant variant;
};

/// Where the calls of one problem and accuracy class get their variants.
struct Route {
  Match match = Match::model;  ///< at best: the distance to the site may make `exact` `nearest`
  std::string table;           ///< empty: the model
  std::string reason;  ///< why this table (or none), and if points of another problem are borrowed, whose
  double parallel_scale = 1;  ///< multiprocessors of the table's GPU over those to be used
  std::vector<Site> sites;    ///< of a table; empty for the model, which has a site per bucket of one octave
};

/// The index of the nearest site; 0 if there is one only. Precondition: not empty.
std::size_t nearest(const std::vector<Site>& sites, const Coordinates& at);

/// The middle of the model's bucket in which a workload lies: every workload there gets the same variant.
Coordinates bucket(const Coordinates& at);
Workload bucket_workload(const Coordinates& bucket);

class Dispatcher {
 public:
  /// `max_multiprocessors`: 0 for all of them.
  Dispatcher(driver::Device device, std::vector<TableCandidate> tables, int max_multiprocessors);

  const Architecture& architecture() const { return architecture_; }
  const std::vector<TableCandidate>& tables() const { return tables_; }

  Route route(const Problem& problem, Accuracy accuracy) const;
  /// The variant of a route at a workload; `unsupported` where the architecture has none. Precondition: check(problem) is
  /// ok.
  Result<Choice> choose(const Route& route, const Problem& problem, const Workload& workload,
                        Accuracy accuracy) const;

 private:
  /// Those of a batch serve packed sequences of the same average length too, in packed_form().
  std::vector<Site> legal_sites(const TableProblem& entry, const Problem& problem, Accuracy accuracy) const;
  std::optional<Variant> model_variant(const Problem& problem, const Workload& workload,
                                       Accuracy accuracy) const;
  const TableProblem* relative(const Table& table, const Problem& problem, Accuracy accuracy) const;

  Architecture architecture_;
  std::vector<TableCandidate> tables_;
  std::string device_name_;

  struct Memo;
  std::shared_ptr<Memo> memo_;  ///< the model's choices so far: each costs milliseconds
};

}  // namespace gla
