// What the generator renders compiles, for three architectures: a covering set, most of it for two of them, and what the
// shipped tables name.
// Needs NVRTC, no GPU. README.md beside this file says how to compile more.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.h"
#include "compiler.h"
#include "files.h"
#include "gla/generator/space.h"
#include "problems.h"
#include "sha256.h"
#include "table.h"

using namespace gla;
using namespace gla::test;

namespace {

constexpr const char* kArchitectures[] = {"sm_80", "sm_90a", "sm_100a"};

/// Kernels of the tables that are compiled for their own architecture, where each has been compiled and measured
/// before, and of the others' for each.
constexpr std::size_t kSample = 1;

struct Job {
  std::string name;
  Source source;
  std::string architecture;
};

/// True, with a line that CTest shows, where there is no NVRTC.
bool no_nvrtc() {
  const Result<std::string> version = nvrtc_version();
  if (!version.ok()) WARN("SKIPPED: " << version.status().message());
  return !version.ok();
}

/// False, with a line that says so, where this NVRTC is older than the architecture.
bool is_known(const std::string& name) {
  const Source empty{"empty.cu", "extern \"C\" __global__ void kernel() {}\n", {"kernel"}};
  const Status status = compile(empty, architecture(name)).status();
  const bool known = status.message().find("--gpu-architecture") == std::string::npos;
  if (!known) WARN("NVRTC " << *nvrtc_version() << " does not know " << name);
  return known;
}

/// Cubins of these templates from earlier runs; those of other templates are removed.
std::string cubin_folder() {
  const std::filesystem::path root = GLA_CUBINS;
  const std::filesystem::path folder = root / std::string(templates_hash());
  std::filesystem::create_directories(folder);
  for (const auto& entry : std::filesystem::directory_iterator(root))
    if (entry.path() != folder) std::filesystem::remove_all(entry.path());
  return folder;
}

/// Empty, or what is wrong with what the compiler made.
std::string complaint(const Source& source, const Result<Cubin>& cubin) {
  if (!cubin.ok()) return cubin.status().message();
  if (cubin->entries != source.entries || cubin->resources.size() != source.entries.size())
    return fmt::format("entries are {}", fmt::join(cubin->entries, ", "));
  for (std::size_t i = 0; i < source.entries.size(); ++i)
    if (cubin->resources[i].registers <= 0) return source.entries[i] + " has no registers";
  return "";
}

/// Compiles on every core; a job that fails fails the test. Says how many were compiled and how many had been before.
void compile_all(const std::vector<Job>& jobs, const std::string& what) {
  CubinCache cache(cubin_folder());
  std::atomic<std::size_t> next = 0;
  std::atomic<int> compiled = 0;
  std::mutex mutex;
  std::vector<std::string> failures;
  const auto work = [&] {
    for (std::size_t i = next++; i < jobs.size(); i = next++) {
      std::string note;
      const Result<Cubin> cubin = cache.get(jobs[i].source, architecture(jobs[i].architecture), &note);
      compiled += note == "compiled";
      if (const std::string wrong = complaint(jobs[i].source, cubin); !wrong.empty()) {
        const std::lock_guard lock(mutex);
        failures.push_back(fmt::format("{} for {}: {}", jobs[i].name, jobs[i].architecture, wrong));
      }
    }
  };
  std::vector<std::thread> threads(std::max(1u, std::thread::hardware_concurrency()));
  for (std::thread& thread : threads) thread = std::thread(work);
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) FAIL_CHECK(failure);
  WARN(what << ": " << jobs.size() - failures.size() << " of " << jobs.size() << " are right, " << compiled
            << " of them compiled now");
}

Problem changed(Problem problem, void (*change)(Problem&)) {
  change(problem);
  return problem;
}

/// A problem, and what its variant must have; the middle one of those that have it is taken.
struct Case {
  Problem problem;
  Family family;
  std::vector<std::pair<Parameter, int>> wanted;
};

/// Families, dtypes, parts, gates, groups, state layouts, load paths and odd head dims, as few sources as will do.
std::vector<Case> covering_set() {
  using enum Family;
  using enum Parameter;
  return {
      {chunk_of(128, 128), fused, {{chunk, 16}, {score_parts, 2}, {state_parts, 2}, {stages, 2}}},
      {changed(chunk_of(64, 64), [](Problem& p) { p.gate_k = false; }),
       fused,
       {{score_parts, 1}, {state_parts, 1}, {chunk, 128}}},
      {changed(chunk_of(100, 60, DType::fp16, 4), [](Problem& p) { p.gate_dtype = DType::fp32; }),
       fused,
       {{score_parts, 3}, {chunk, 16}}},
      {changed(chunk_of(37, 37, DType::fp32), [](Problem& p) { p.state_v_first = true; }),
       fused,
       {{score_parts, 3}}},
      {chunk_of(37, 64), fused, {{score_parts, 2}, {async_copy, 0}}},
      {changed(chunk_of(256, 512, DType::bf16, 4), [](Problem& p) { p.gate_dtype = DType::fp32; }),
       segmented,
       {{score_parts, 2}, {state_parts, 1}, {group_tile, 2}}},
      {chunk_of(64, 100, DType::fp32), segmented, {{score_parts, 2}, {warps_k, 2}}},
      {changed(chunk_of(1, 7, DType::fp16), [](Problem& p) { p.gate_k = false, p.state_v_first = true; }),
       segmented,
       {{score_parts, 2}, {async_copy, 0}}},
      {chunk_of(512, 512), decode, {{lanes_k, 32}}},
      {changed(recurrent_of(60, 100, DType::fp16, 4),
               [](Problem& p) {
                 p.gate_dtype = DType::fp32;
                 p.gate_v = p.reverse = true;
                 p.state_dtype = DType::bf16;
               }),
       decode,
       {{stages, 2}}},
      {changed(recurrent_of(1, 512, DType::fp32),
               [](Problem& p) { p.gate_k = false, p.state_v_first = true; }),
       decode,
       {{rows_v, 8}, {stages, 2}}},
      {changed(recurrent_of(128, 37), [](Problem& p) { p.gate_k = false, p.gate_v = true; }),
       decode,
       {{rows_v, 1}, {warps, 4}}},
      {changed(backward_of(100, 60, DType::fp16, 4), [](Problem& p) { p.fp32_gate_gradients = true; }),
       walks,
       {{segments, 2}, {score_parts, 3}}},
      {changed(recurrent_backward_of(60, 100, DType::fp16, 4),
               [](Problem& p) {
                 p.fp32_gate_gradients = true;
                 p.gate_v = p.reverse = p.state_v_first = true;
               }),
       lines,
       {{rows, 2}}},
      {recurrent_backward_of(37, 512, DType::fp32), lines, {{lanes, 32}}},
      {changed(recurrent_backward_of(64, 64), [](Problem& p) { p.gate_k = false, p.gate_v = true; }),
       lines,
       {{rows, 1}}},
  };
}

/// What sm_90a alone has: pipelines, with all numbers of producers and of warpgroups, gates of two dtypes, a cluster, and of
/// the gradients of v.
std::vector<Case> pipeline_set() {
  using enum Family;
  using enum Parameter;
  return {{changed(chunk_of(128, 256, DType::bf16, 2), [](Problem& p) { p.gate_dtype = DType::fp32; }),
           segmented,
           {{producers, 8}, {warps_v, 8}, {score_parts, 2}, {cluster, 1}}},
          {chunk_of(64, 64), fused, {{producers, 12}, {stages, 4}}},
          {chunk_of(256, 256),
           fused,
           {{chunk, 32}, {tile_v, 256}, {stages, 3}, {score_parts, 2}, {producers, 4}, {cluster, 2}}},
          {backward_of(64, 128), walks, {{segments, 2}, {tile_v, 128}, {producers, 8}}},
          {changed(backward_of(64, 64), [](Problem& p) { p.fp32_gate_gradients = true; }),
           walks,
           {{segments, 1}, {chunk, 32}, {producers, 4}}}};
}

/// Of the space of `name`; the smallest architecture's variants are legal on all.
Variant variant_of(const Case& one, const char* name) {
  std::vector<Variant> found = space(one.problem, architecture(name));
  std::erase_if(found, [&](const Variant& candidate) {
    return candidate.family != one.family ||
           std::any_of(one.wanted.begin(), one.wanted.end(),
                       [&](const auto& wanted) { return candidate[wanted.first] != wanted.second; });
  });
  INFO(to_string(one.problem) << ": no such variant of family " << to_string(one.family));
  REQUIRE_FALSE(found.empty());
  return found[found.size() / 2];
}

}  // namespace

TEST_CASE("every family compiles for every architecture, and in every dtype, split, gating and layout") {
  if (no_nvrtc()) return;
  std::vector<Job> jobs;
  // Those of a family for the architectures in turns, and each of a few for all of them.
  const std::vector<Case> cases = covering_set();
  std::map<Family, std::size_t> many, places;
  for (const Case& one : cases) ++many[one.family];
  for (const Case& one : cases) {
    const Variant chosen = variant_of(one, kArchitectures[0]);
    const std::size_t turn = places[one.family]++ % std::size(kArchitectures);
    for (std::size_t i = 0; i < std::size(kArchitectures); ++i) {
      const char* name = kArchitectures[i];
      if (!is_known(name) || (many[one.family] >= std::size(kArchitectures) && i != turn)) continue;
      CHECK(check(one.problem, architecture(name), chosen).message() == "");
      jobs.push_back({to_string(one.problem) + ": " + to_string(chosen), render(one.problem, chosen), name});
    }
  }
  for (const Case& one : pipeline_set()) {
    if (!is_known("sm_90a")) break;
    const Variant chosen = variant_of(one, "sm_90a");
    jobs.push_back(
        {to_string(one.problem) + ": " + to_string(chosen), render(one.problem, chosen), "sm_90a"});
  }
  compile_all(jobs, "covering set");
}

TEST_CASE("the tools for verification compile for every architecture") {
  if (no_nvrtc()) return;
  const Problem full = changed(recurrent_of(60, 100, DType::fp16, 4), [](Problem& p) {
    p.gate_v = p.reverse = p.state_v_first = true;
    p.state_dtype = DType::bf16;
  });
  const Problem ungated =
      changed(recurrent_of(512, 1, DType::fp32, 64), [](Problem& p) { p.gate_k = false; });
  const Problem backward = backward_of(60, 512, DType::bf16, 4);
  std::vector<Job> jobs;
  for (const char* name : kArchitectures) {
    if (!is_known(name)) continue;
    for (const Problem& problem : {chunk_of(128, 128), full, ungated, backward})
      jobs.push_back({to_string(problem), render_tools(problem), name});
  }
  compile_all(jobs, "tools");
}

TEST_CASE("variants that a shipped table names compile for sm_80, sm_90a and sm_100a") {
  if (no_nvrtc()) return;
  // Per architecture the distinct kernels by their text: those of its own tables, and those of the others.
  struct Kernels {
    std::map<std::string, Job> own, others;
  };
  std::map<std::string, Kernels> kernels;
  int tables = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(GLA_SOURCE_DIR) / "tables")) {
    if (entry.path().extension() != ".yaml") continue;
    const Result<Table> table = read_table(entry.path());
    INFO(table.status().message());
    REQUIRE(table.ok());
    ++tables;
    std::set<std::string> targets(std::begin(kArchitectures), std::end(kArchitectures));
    targets.insert(table->device.architecture);
    for (const TableProblem& problem : table->problems)
      for (const Point& point : problem.points) {
        const Source source = render(problem.problem, point.variant);
        const std::string name = to_string(problem.problem) + ": " + to_string(point.variant);
        for (const std::string& target : targets) {
          if (!check(problem.problem, architecture(target), point.variant).ok())
            continue;  // of its own alone
          Kernels& of_target = kernels[target];
          (target == table->device.architecture ? of_target.own : of_target.others)
              .emplace(source.text, Job{name, source, target});
        }
      }
  }
  if (tables == 0) WARN("no table ships: nothing to compile");

  const bool is_exhaustive = !environment("GLA_COMPILE_EVERYTHING").empty();
  for (const auto& [name, of_target] : kernels) {
    if (!is_known(name)) continue;
    std::vector<Job> jobs;
    std::size_t distinct = 0;
    const auto add = [&](const std::map<std::string, Job>& candidates, const auto& is_new) {
      // The sample is the same in every run with these templates, and another one when they change.
      std::map<std::string, const Job*> ordered;
      for (const auto& [text, job] : candidates)
        if (is_new(text)) ordered.emplace(sha256(std::string(templates_hash()) + name + text), &job);
      distinct += ordered.size();
      std::size_t taken = 0;
      for (const auto& [order, job] : ordered)
        if (is_exhaustive || taken++ < kSample) jobs.push_back(*job);
    };
    add(of_target.own, [](const std::string&) { return true; });
    add(of_target.others, [&](const std::string& text) { return of_target.own.count(text) == 0; });
    compile_all(jobs,
                fmt::format("{} of {} kernels in {} tables, for {}", jobs.size(), distinct, tables, name));
  }
}
