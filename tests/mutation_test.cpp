// Mutation testing of synchronisation: each barrier, vote, fence, arrival, wait and commit of the templates is deleted in
// turn, and the emulator must object to every mutant, by a Fault or by a wrong result. One that nobody objects to is a gap
// in the tests, or needless in the kernel.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "catch.h"
#include "emulated_case.h"
#include "gla/generator/render.h"
#include "parallel.h"
#include "small_variants.h"
#include "source_toolchain.h"

using namespace gla;
using namespace gla::test;
namespace fs = std::filesystem;

namespace {

/// A call that makes threads, copies or products wait for each other.
struct Site {
  fs::path file;  ///< within templates/
  std::size_t line = 0;
  std::string primitive;
};

/// Of two that begin alike the longer comes first.
constexpr const char* kPrimitives[] = {"block_sync_and",
                                       "block_sync",
                                       "part_sync_and",
                                       "part_sync",
                                       "cluster_sync",
                                       "warp_sync",
                                       "copy_async_wait",
                                       "copy_async_commit",
                                       "fence_for_warpgroup",
                                       "warpgroup_fence",
                                       "warpgroup_commit",
                                       "warpgroup_wait",
                                       "barrier_arrive_expect",
                                       "barrier_arrive",
                                       "barrier_wait_for_cluster",
                                       "barrier_wait",
                                       "bulk_commit",
                                       "bulk_wait_read",
                                       "wait_for_earlier_kernels"};

/// With the call deleted; of a vote the thread's own value is left, a name or a call without arguments, of a barrier of a cluster the block's.
/// Calls with arguments are of one line.
std::string without_synchronisation(const std::string& line) {
  static const std::regex statement(fmt::format(
      R"(({})(<[^;]*>)?\(\);|(barrier_\w+|part_sync<[^;]*>)\([^;]*\);)", fmt::join(kPrimitives, "|")));
  static const std::regex vote(R"((?:block_sync_and\(|part_sync_and<[^;]*>\([^,;]*, )(\w+(?:\(\))?)\))");
  static const std::regex of_cluster(R"(cluster_sync\(\);)");
  if (std::regex_search(line, of_cluster)) return std::regex_replace(line, of_cluster, "block_sync();");
  return std::regex_replace(std::regex_replace(line, statement, ";"), vote, "$1");
}

std::vector<std::string> lines_of(const fs::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// Whether the line has a call, which comments are not.
bool has_call(const std::string& line) {
  static const std::regex call(fmt::format(R"(\b({})(<.*>)?\()", fmt::join(kPrimitives, "|")));
  return std::regex_search(line.substr(0, line.find("//")), call);
}

/// All sites but in the primitives' own files. Fails where it does not know how to delete a call.
std::vector<Site> sites() {
  static const std::regex primitive(fmt::format("{}", fmt::join(kPrimitives, "|")));
  static const std::set<fs::path> own{
      "device/thread.cuh",  "device/async_copy.cuh", "device/warpgroup.cuh", "device/tensor_copy.cuh",
      "device/cluster.cuh", "device/launch.cuh",     "device/relay.cuh"};
  std::vector<Site> found;
  for (const auto& entry : fs::recursive_directory_iterator(GLA_TEMPLATES_FOLDER)) {
    const fs::path file = fs::relative(entry.path(), GLA_TEMPLATES_FOLDER);
    if (!entry.is_regular_file() || own.count(file) != 0) continue;
    const std::vector<std::string> lines = lines_of(entry.path());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      std::smatch match;
      if (!has_call(lines[i])) continue;
      INFO(file.string() << ":" << i + 1 << ": " << lines[i]);
      CHECK(lines[i] != without_synchronisation(lines[i]));
      std::regex_search(lines[i], match, primitive);
      found.push_back({file, i, match.str()});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Site& a, const Site& b) { return std::tie(a.file, a.line) < std::tie(b.file, b.line); });
  return found;
}

/// A copy of the templates without the call; whole without a site.
emulator::Toolchain toolchain_of(const std::optional<Site>& site) {
  const fs::path folder = fs::path(GLA_MUTANTS_FOLDER) /
                          (site ? fmt::format("{}-{}", site->file.stem().string(), site->line + 1) : "whole");
  fs::remove_all(folder);
  fs::create_directories(folder);
  fs::copy(GLA_TEMPLATES_FOLDER, folder / "templates", fs::copy_options::recursive);
  if (site) {
    std::vector<std::string> lines = lines_of(folder / "templates" / site->file);
    lines[site->line] = without_synchronisation(lines[site->line]);
    std::ofstream file(folder / "templates" / site->file);
    for (const std::string& line : lines) file << line << '\n';
  }
  return {GLA_HOST_COMPILER, {folder / "templates", GLA_EMULATOR_FOLDER}, folder / "programs"};
}

/// What objects to one run of a kernel.
std::string objection_to_run(const Problem& problem, const ReferenceInput& in, const KernelCase& c,
                             const LaunchKernel& kernel) {
  try {
    const ReferenceLoss loss = make_loss(in, c);
    return complaint(judge(in, run_kernel(in, c, kernel, loss), loss),
                     accuracy_bar(problem, c.gates, Accuracy::fast));
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
}

/// Inputs of a case whose gates are steep from token 64 on in half of the channels.
ReferenceInput half_steep(const Problem& problem, const KernelCase& c) {
  ReferenceInput in = make_inputs(problem, c);
  const auto channels = static_cast<std::size_t>(problem.head_dim_k);
  for (std::size_t i = 64 * channels; i < in.gk.size(); ++i)
    if (i % channels < channels / 2) in.gk[i] *= 256;
  return in;
}

/// The kernels that can object to a mutant.
enum class Kernels { all, pipelines, segments };

/// What objects to a kernel of the chunk families: all paths through a chunk, a ring of copies that turns, rows that are
/// no whole vectors, values in several parts, groups, segments; pipelines with one warpgroup and two, and in a cluster.
std::string objection_to_chunks(const emulator::Toolchain& toolchain, Kernels wanted) {
  const Problem segments = chunk_of(64, 128), large = chunk_of(256, 64), shared = chunk_of(128, 256);
  const ChunkChoice one{.tile_v = 64, .warps_v = 4, .warps_k = 1, .producers = 4};
  ChunkChoice two = one;
  two.family = "segmented segments=2";
  two.tile_v = 128;
  two.warps_v = two.producers = 8;
  ChunkChoice cluster = one;
  cluster.chunk = 64;
  cluster.tile_v = 256;
  cluster.warps_v = 8;
  cluster.score_parts = 1;
  cluster.cluster = 2;
  ChunkChoice grouped = one;
  grouped.family = "overlapped segments=2";
  grouped.group_tile = 2;
  const ChunkChoice tight{
      .chunk = 64, .tile_v = 128, .warps_v = 8, .warps_k = 1, .stages = 3, .producers = 8};
  const std::pair<Problem, ChunkChoice> kernels[] = {
      {small_problem(Family::fused, DType::bf16), {}},
      {chunk_of(64, 64, DType::bf16, 2), grouped},
      {shared, cluster},
      {segments, two},
      {large, one},
      {chunk_of(32, 32, DType::fp16, 2), {.group_tile = 2, .stages = 1, .state_parts = 2}},
      {chunk_of(20, 37), {.stages = 1, .async_copy = 0}},
      {small_problem(Family::segmented, DType::bf16), {.family = "segmented segments=2"}},
      {chunk_of(128, 128), tight}};
  for (const auto& [problem, choice] : kernels) {
    if (wanted == Kernels::pipelines && choice.producers == 0) continue;
    if (wanted == Kernels::segments && !choice.family.starts_with("segmented")) continue;
    if (wanted != Kernels::pipelines && choice.stages == tight.stages)
      continue;  // longer than the others, and like them but in pipelines
    const LaunchKernel kernel = kernel_of(problem, chunk_variant(problem, choice), toolchain);
    for (const Gates gates : {Gates::sixteenth, Gates::ten, Gates::hundred}) {
      const KernelCase c{.tokens = choice.stages * choice.chunk > 150 ? 300 : 150, .gates = gates};
      if (std::string found = objection_to_run(problem, make_inputs(problem, c), c, kernel); !found.empty())
        return found;
    }
    // Some sequences are cut, and some not.
    const KernelCase packed{.tokens = 340, .cu_seqlens = {0, 10, 170, 180, 340}, .gates = Gates::sixteenth};
    if (choice.family.starts_with("segmented")) {
      if (std::string found = objection_to_run(problem, make_inputs(problem, packed), packed, kernel);
          !found.empty())
        return found;
    }
    if (choice.producers == 0) continue;
    // Chunks that end within a box, and a steep chunk behind a gentle one; steep for one block of a cluster.
    const KernelCase c{.tokens = 150, .cu_seqlens = {0, 120, 150}, .gates = Gates::sixteenth};
    const ReferenceInput steep = half_steep(problem, c);
    if (std::string found = objection_to_run(problem, steep, c, kernel); !found.empty()) return found;
  }
  return {};
}

/// What objects to a kernel of family walks: warps that share key channels, all paths, a ring of copies that turns, groups,
/// segments, values in several parts; pipelines, which are all that can object to what they alone have.
std::string objection_to_walks(const emulator::Toolchain& toolchain, bool of_pipelines) {
  const std::pair<Problem, WalksChoice> kernels[] = {
      {backward_of(32, 32), {}},
      {backward_of(32, 32, DType::bf16, 2), {.chunk = 16, .warps = 2}},
      {backward_of(32, 32, DType::fp16), {.segments = 2, .warps = 2}},
      {backward_of(64, 64), {.tile_k = 64, .tile_v = 64, .producers = 4}},
      {backward_of(128, 64),
       {.segments = 2, .chunk = 64, .tile_k = 128, .tile_v = 64, .warps = 8, .producers = 4}},
      {backward_of(64, 128), {.chunk = 64, .tile_k = 64, .tile_v = 64, .warps = 8, .producers = 4}},
      {backward_of(64, 128), {.segments = 2, .tile_k = 64, .tile_v = 64, .warps = 8, .producers = 4}}};
  for (const auto& [problem, choice] : kernels) {
    if (of_pipelines && choice.producers == 0) continue;
    const LaunchKernel kernel = kernel_of(problem, walks_variant(problem, choice), toolchain);
    for (const Gates gates : {Gates::sixteenth, Gates::ten, Gates::hundred}) {
      const KernelCase c{.tokens = 150, .gates = gates};
      if (std::string found = objection_to_run(problem, make_inputs(problem, c), c, kernel); !found.empty())
        return found;
    }
    if (choice.producers == 0) continue;
    // Chunks that end within a box, and one that is steep for some warps of a warpgroup.
    const KernelCase c{.tokens = 150, .cu_seqlens = {0, 100, 150}, .gates = Gates::sixteenth};
    if (std::string found = objection_to_run(problem, half_steep(problem, c), c, kernel); !found.empty())
      return found;
  }
  return {};
}

/// What objects to a kernel of family lines: units of whole rows and of rows that are padded, more of them than there is room for,
/// segments, chunks in shared memory and in the workspace, both gates.
std::string objection_to_lines(const emulator::Toolchain& toolchain) {
  const std::pair<Problem, LinesChoice> kernels[] = {
      {recurrent_backward_of(32, 32), {}}, {recurrent_backward_of(20, 12, DType::fp32), {.chunk = 2}}};
  for (auto [problem, choice] : kernels) {
    problem.gate_v = problem.dtype == DType::fp32;
    const LaunchKernel kernel = kernel_of(problem, lines_variant(problem, choice), toolchain);
    for (const std::int64_t tokens : {6, 30, 150}) {
      const KernelCase c{.tokens = tokens};
      if (std::string found = objection_to_run(problem, make_inputs(problem, c), c, kernel); !found.empty())
        return found;
    }
  }
  return {};
}

/// What objects to the tool that sums squared errors.
std::string objection_to_tools(const emulator::Toolchain& toolchain) {
  const Source source = render_tools({});
  const std::vector<float> value(20 * 33, 2.0f), reference(value.size(), 1.0f);
  std::vector<CompareSums> sums(1);
  CompareArgs args;
  args.value = {const_cast<float*>(value.data()), 0, 33, 33};
  args.reference = {const_cast<float*>(reference.data()), 0, 33, 33};
  args.sequences = 1;
  args.tokens = 20;
  args.heads = 1;
  args.channels = 33;
  args.dtype = static_cast<int>(DType::fp32);
  args.sums = sums.data();
  const EntryShape shape = tool_shapes()[1];
  try {
    emulator::Program::build(source.name, source.text, toolchain)
        .run("compare", {1, shape.threads, shape.shared_bytes}, args);
  } catch (const emulator::Fault& fault) {
    return fault.what();
  }
  return sums[0].squared_error == static_cast<double>(value.size()) ? "" : "a wrong sum";
}

bool is_of_walks(const fs::path& file) {
  return file.string().starts_with("key_");
}

/// Of what the pipeline of chunk_forward alone has.
bool is_of_pipeline(const fs::path& file) {
  return file == "chunk_pipeline.cuh" || file == "chunk_stages.cuh" || file == "cluster_sums.cuh" ||
         file == "warpgroup_products.cuh";
}

std::string objection(const emulator::Toolchain& toolchain, const fs::path& file) {
  if (file == "verification.cuh") return objection_to_tools(toolchain);
  if (file.string().starts_with("line_")) return objection_to_lines(toolchain);
  if (is_of_walks(file)) return objection_to_walks(toolchain, file == "key_pipeline.cuh");
  // What blocks hand on, and which chunks they have.
  if (file == "schedule.cuh") return objection_to_chunks(toolchain, Kernels::segments);
  const bool of_pipelines = is_of_pipeline(file) || file == "steep_chunk.cuh";
  return objection_to_chunks(toolchain, of_pipelines ? Kernels::pipelines : Kernels::all);
}

/// Rows of the table in docs/testing.md: how many mutants each file has, by primitive.
std::vector<std::string> table_rows(const std::vector<Site>& all) {
  std::map<std::string, std::map<std::string, int>> counts;
  for (const Site& site : all) ++counts[site.file.string()][site.primitive];
  std::vector<std::string> rows;
  for (auto& [file, count] : counts) {
    std::string row = fmt::format("| `{}` |", file);
    for (const char* primitive : kPrimitives) row += fmt::format(" {} |", count[primitive]);
    rows.push_back(row);
  }
  return rows;
}

void expect_objections(const std::vector<Site>& all) {
  std::vector<std::string> objections(all.size());
  in_parallel(all.size(), 0,
              [&](std::size_t i) { objections[i] = objection(toolchain_of(all[i]), all[i].file); });
  for (std::size_t i = 0; i < all.size(); ++i) {
    const std::string name =
        fmt::format("{}:{} without {}", all[i].file.string(), all[i].line + 1, all[i].primitive);
    fmt::print("{}: {}\n", name, objections[i].empty() ? "NOBODY OBJECTS" : objections[i]);
    INFO(name);
    CHECK_FALSE(objections[i].empty());
  }
}

}  // namespace

TEST_CASE("of a call nothing is left, of a vote the thread's own value, of a cluster's barrier the block's") {
  const std::pair<const char*, const char*> lines[] = {
      {"warpgroup_wait<1>();  // all but one", ";  // all but one"},
      {"if (lane == 0) barrier_arrive(ring.empty(slot));", "if (lane == 0) ;"},
      {"return warp_any(block_sync_and(value));", "return warp_any(value);"},
      {"cluster_sync();  // all of it", "block_sync();  // all of it"},
      {"barrier_wait_for_cluster(arriving, round % 2);", ";"},
      {"part_sync<kThreads / 2>(first_id(1) + half);", ";"},
      {"if (!part_sync_and<kShape.threads - 128>(half + 1, is_small)) return;", "if (!is_small) return;"}};
  for (const auto& [line, left] : lines) {
    CHECK(has_call(line));
    CHECK(without_synchronisation(line) == left);
  }
  CHECK_FALSE(has_call("barrier_init(full, 1);  // as block_sync()"));
}

TEST_CASE("nobody objects to the templates as they are") {
  CHECK(objection_to_chunks(toolchain_of({}), Kernels::all) == "");
  CHECK(objection_to_lines(toolchain_of({})) == "");
  CHECK(objection_to_tools(toolchain_of({})) == "");
}

TEST_CASE("somebody objects to the loss of each barrier, vote, fence, wait and commit") {
  std::vector<Site> all = sites();
  std::erase_if(all, [](const Site& site) { return is_of_walks(site.file) || is_of_pipeline(site.file); });
  REQUIRE(all.size() > 10);
  expect_objections(all);
}

// Up to three programs to a mutant, minutes in all.
TEST_CASE("and of those in walks over key channels", "[.walks]") {
  std::vector<Site> all = sites();
  std::erase_if(all, [](const Site& site) { return !is_of_walks(site.file); });
  REQUIRE_FALSE(all.empty());
  CHECK(objection_to_walks(toolchain_of({}), false) == "");
  expect_objections(all);
}

TEST_CASE("and of those in the pipeline of chunk_forward", "[.pipeline]") {
  std::vector<Site> all = sites();
  std::erase_if(all, [](const Site& site) { return !is_of_pipeline(site.file); });
  REQUIRE_FALSE(all.empty());
  expect_objections(all);
}

TEST_CASE("docs/testing.md counts the mutants as they are") {
  const std::vector<std::string> document = lines_of(GLA_TESTING_DOCUMENT);
  for (const std::string& row : table_rows(sites())) {
    INFO(row);
    CHECK(std::find(document.begin(), document.end(), row) != document.end());
  }
}
