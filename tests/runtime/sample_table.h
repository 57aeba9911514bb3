// A small table with legal variants, and folders that vanish after the test.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "driver.h"
#include "gla/generator/model.h"
#include "gla/generator/space.h"
#include "table.h"

namespace gla::test {

inline Problem chunk_problem(int k = 128, int v = 128) {
  Problem problem;
  problem.head_dim_k = static_cast<std::int16_t>(k);
  problem.head_dim_v = static_cast<std::int16_t>(v);
  return problem;
}

inline Problem recurrent_problem() {
  Problem problem;
  problem.operation = Operation::recurrent_forward;
  return problem;
}

inline Architecture hopper() {
  return *parse_architecture("sm_90a");
}

inline driver::Device h100() {
  driver::Device device;
  device.name = "NVIDIA H100 80GB HBM3";
  device.compute_capability = 90;
  device.architecture = hopper();
  return device;
}

/// The variants of a problem that are meant for a class, in the space's order; found once, for one thread.
inline const std::vector<Variant>& variants(const Problem& problem, Accuracy accuracy = Accuracy::standard) {
  static std::map<std::pair<Problem, Accuracy>, std::vector<Variant>> known;
  const auto [place, is_new] = known.try_emplace({problem, accuracy});
  if (is_new)
    for (const Variant& variant : space(problem, hopper()))
      if (meant_for(problem, variant, accuracy)) place->second.push_back(variant);
  return place->second;
}

inline Point point(const Workload& workload, const Variant& variant, Accuracy accuracy = Accuracy::standard) {
  return {accuracy, workload, "logsigmoid/16", variant, 612.5e-6, 0.004, 0.61, 0.0, 0.0023, 0.0009};
}

inline Table sample_table(const std::string& gpu = "NVIDIA H100 80GB HBM3", int multiprocessors = 132) {
  Table table;
  table.device = {gpu, "sm_90a", 90, multiprocessors, 85899345920, 3.03e12, "13.0"};
  table.origin = {
      "gla-tune 0.1.0", "13.0", {}, "2026-11-22T12:00:00Z", "gla-tune tune --note \"a: b\"", true};
  const std::vector<Variant> chunk = variants(chunk_problem());
  const std::vector<Variant> fast = variants(chunk_problem(), Accuracy::fast);
  table.problems.resize(2);
  TableProblem& prefill = table.problems[0];
  prefill.problem = chunk_problem();
  prefill.tally = {512, 300, 298, 120, {{"does not fit: registers", 2}}};
  prefill.points = {point({1, 96, 8192, false}, chunk.front()), point({4, 16, 2048, false}, chunk.at(1)),
                    point({8, 8, 1024, true}, chunk.at(2)),
                    point({1, 96, 8192, false}, fast.back(), Accuracy::fast)};
  TableProblem& decode = table.problems[1];
  decode.problem = recurrent_problem();
  decode.tally = {40, 40, 40, 40, {}};
  decode.points = {point({64, 32, 1, false}, variants(recurrent_problem()).front())};
  table.origin.templates = current_templates(table.problems);
  return table;
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "gla-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace gla::test
