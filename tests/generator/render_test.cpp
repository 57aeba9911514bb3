// Rendering: a function of problem and variant, distinct where the kernels differ, and complete without a file on disk.
#include "gla/generator/render.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "catch.h"
#include "gla/generator/space.h"
#include "problems.h"
#include "render_common.h"

using namespace gla;
using namespace gla::test;

namespace {

const std::string kChunkParameters =
    " chunk=64 tile_v=64 warps_v=4 warps_k=1 group_tile=1 stages=1 score_parts=2 state_parts=2 async_copy=1 "
    "producers=0 cluster=1 min_blocks=2";
const std::string kDecode = "decode lanes_k=8 rows_v=4 warps=4 stages=2 min_blocks=1";
const std::string kWalkParameters =
    " chunk=16 tile_k=32 tile_v=32 warps=2 stages=1 score_parts=2 state_parts=2 async_copy=1 producers=0";

/// The names between quotes or angle brackets after each #include.
std::vector<std::string> includes(std::string_view text) {
  constexpr std::string_view kInclude = "#include ";
  std::vector<std::string> names;
  for (std::size_t at = text.find(kInclude); at != text.npos; at = text.find(kInclude, at)) {
    at += kInclude.size();
    const char end = text[at] == '<' ? '>' : '"';
    names.emplace_back(text.substr(at + 1, text.find(end, at + 1) - at - 1));
  }
  return names;
}

bool is_embedded(const std::string& name) {
  const auto files = embedded_templates();
  return std::any_of(files.begin(), files.end(), [&](const EmbeddedFile& file) { return file.name == name; });
}

/// The line that declares kernel `entry`, without what it calls.
std::string declaration(const Source& source, const std::string& entry) {
  const std::size_t name = source.text.find(fmt::format(" {}(", entry));
  if (name == std::string::npos) return "";
  const std::size_t line = source.text.rfind('\n', name) + 1;
  return source.text.substr(line, name - line);
}

/// Each entry is declared with the launch bounds of its shape.
void has_bounds(const Source& source, const std::vector<EntryShape>& shapes) {
  REQUIRE(source.entries.size() == shapes.size());
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    CHECK(declaration(source, source.entries[i]) ==
          fmt::format("GLA_KERNEL void GLA_LAUNCH_BOUNDS({}, {})", shapes[i].threads, shapes[i].min_blocks));
  }
}

/// A variant of each family that serves the problem.
std::vector<Variant> one_of_each_family(const Problem& problem) {
  if (problem.operation == Operation::recurrent_forward) return {variant(kDecode)};
  if (problem.operation == Operation::recurrent_backward)
    return {variant("lines lanes=8 rows=2 warps=2 chunk=4")};
  if (problem.operation == Operation::chunk_backward) return {variant("walks segments=8" + kWalkParameters)};
  return {variant("fused" + kChunkParameters), variant("segmented segments=8" + kChunkParameters),
          variant(kDecode)};
}

}  // namespace

TEST_CASE("the same problem and variant give the same source") {
  for (const Problem& problem :
       {chunk_of(128, 128), recurrent_of(60, 100), backward_of(60, 100), recurrent_backward_of(60, 100)})
    for (const Variant& one : one_of_each_family(problem)) {
      CHECK(render(problem, one).text == render(problem, one).text);
      CHECK(render_tools(problem).text == render_tools(problem).text);
    }
}

TEST_CASE(
    "variants whose kernels differ have different text; the number of segments is no matter of the kernel") {
  const Problem problem = chunk_of(64, 64, DType::bf16, 2);
  std::map<std::string, Variant> seen;
  for (const Variant& one : space(problem, architecture("sm_80"))) {
    const Variant kernel = with(one, Parameter::segments, 0);
    const auto [at, is_new] = seen.emplace(render(problem, one).text, kernel);
    if (!is_new && at->second != kernel)
      FAIL_CHECK(to_string(one) << " has the text of " << to_string(at->second));
  }
  const Variant segmented = variant("segmented segments=8" + kChunkParameters);
  CHECK(render(problem, segmented).text == render(problem, with(segmented, Parameter::segments, 32)).text);
}

TEST_CASE(
    "walks over segments are other kernels than walks over whole sequences, whatever the number of "
    "segments") {
  const Problem problem = backward_of(64, 64);
  std::map<std::string, Variant> seen;
  for (const Variant& one : space(problem, architecture("sm_80"))) {
    const Variant kernel = with(one, Parameter::segments, std::min(one[Parameter::segments], 2));
    const auto [at, is_new] = seen.emplace(render(problem, one).text, kernel);
    if (!is_new && at->second != kernel)
      FAIL_CHECK(to_string(one) << " has the text of " << to_string(at->second));
  }
  const Variant segmented = variant("walks segments=8" + kWalkParameters);
  CHECK(render(problem, segmented).text == render(problem, with(segmented, Parameter::segments, 2)).text);
}

TEST_CASE("problems that share a variant have different text") {
  for (const Operation operation : kOperations) {
    std::map<std::string, Problem> seen;
    std::vector<Problem> problems = legal_problems();
    for (const int dim : {1, 37, 64, 512}) {
      problems.push_back(problem_of(operation, dim, 128));
      problems.push_back(problem_of(operation, 128, dim));
    }
    problems.push_back(problem_of(operation, 128, 128, DType::bf16, 4));
    for (const Problem& problem : problems) {
      if (problem.operation != operation || problem == problem_of(operation, 64, 64)) continue;
      const auto [at, is_new] = seen.emplace(render(problem, one_of_each_family(problem)[0]).text, problem);
      if (!is_new && at->second != problem)
        FAIL_CHECK(to_string(problem) << " has the text of " << to_string(at->second));
    }
    CHECK(seen.size() > 20);
  }
}

TEST_CASE(
    "the entries are the kernels of the source, in launch order but for the schedule, and with their launch "
    "bounds") {
  const Problem problem = chunk_of(128, 128);
  const std::vector<Variant> variants = one_of_each_family(problem);
  CHECK(render(problem, variants[0]).entries == std::vector<std::string>{"chunk_fused"});
  CHECK(render(problem, variants[1]).entries ==
        std::vector<std::string>{"chunk_segment_states", "chunk_segment_scan", "chunk_segment_outputs",
                                 "chunk_schedule"});
  CHECK(render(problem, variants[2]).entries == std::vector<std::string>{"recurrent_decode"});
  for (const Variant& one : variants) has_bounds(render(problem, one), entry_shapes(problem, one));

  const Problem backward = backward_of(128, 128);
  const Variant whole = variant("walks segments=1" + kWalkParameters);
  const Variant segmented = one_of_each_family(backward)[0];
  CHECK(render(backward, whole).entries ==
        std::vector<std::string>{"chunk_query_gradients", "chunk_value_gradients", "chunk_key_gradients"});
  CHECK(render(backward, segmented).entries ==
        std::vector<std::string>{"chunk_segment_states", "chunk_segment_state_gradients",
                                 "chunk_segment_scan", "chunk_segment_scan_back", "chunk_query_gradients",
                                 "chunk_value_gradients", "chunk_key_gradients", "chunk_schedule"});
  for (const Variant& one : {whole, segmented})
    has_bounds(render(backward, one), entry_shapes(backward, one));
}

TEST_CASE("the tools are fill, compare and naive, with the threads that tool_shapes() says") {
  const Source tools = render_tools(recurrent_of(37, 100));
  CHECK(tools.entries == std::vector<std::string>{"fill", "compare", "naive"});
  has_bounds(tools, tool_shapes());
}

TEST_CASE(
    "arguments with tensor maps stay in the parameter, and kernels wait for earlier ones before they let one "
    "start that may "
    "run beside them, and not twice") {
  Source source;
  add_entry(source, {"plain", 64, 1, "forward(args)"});
  add_entry(source, {.name = "waited", .call = "forward(args)", .start = Start::waited});
  add_entry(source, {.name = "mapped",
                     .threads = 128,
                     .min_blocks = 2,
                     .call = "forward(args)",
                     .args_type = "TensorArgs",
                     .start = Start::by_itself});
  CHECK(source.entries == std::vector<std::string>{"plain", "waited", "mapped"});
  CHECK(source.text ==
        "GLA_KERNEL void GLA_LAUNCH_BOUNDS(64, 1) plain(gla::KernelArgs args) {\n"
        "  gla::let_next_kernel_start();\n  gla::wait_for_earlier_kernels();\n  gla::forward(args);\n}\n"
        "GLA_KERNEL void GLA_LAUNCH_BOUNDS(1, 1) waited(gla::KernelArgs args) {\n"
        "  gla::wait_for_earlier_kernels();\n  gla::let_next_kernel_start();\n  gla::forward(args);\n}\n"
        "GLA_KERNEL void GLA_LAUNCH_BOUNDS(128, 2) mapped(const GLA_GRID_CONSTANT gla::TensorArgs args) {\n"
        "  gla::forward(args);\n}\n");
}

TEST_CASE(
    "walks by warps of value channels that no warpgroup holds wait before dv by warpgroups starts beside "
    "them") {
  const Variant mixed = variant(
      "walks segments=1 chunk=32 tile_k=32 tile_v=128 warps=8 stages=2 score_parts=2 state_parts=2 "
      "async_copy=1 producers=8");
  const std::string text = render(backward_of(256, 512), mixed).text;
  const auto starts_with = [&](const std::string& entry, const std::string& start) {
    const std::size_t body = text.find("{\n", text.find(entry + "(const")) + 2;
    CHECK(text.substr(body, start.size()) == start);
  };
  starts_with("chunk_query_gradients",
              "  gla::wait_for_earlier_kernels();\n  gla::let_next_kernel_start();\n");
  starts_with("chunk_value_gradients", "  gla::value_pipeline<");
  starts_with("chunk_key_gradients", "  gla::let_next_kernel_start();\n  gla::wait_for_earlier_kernels();\n");
}

TEST_CASE("every include of a rendered source names an embedded template") {
  for (const Problem& problem : legal_problems()) {
    std::vector<Source> sources{render_tools(problem)};
    for (const Variant& one : one_of_each_family(problem)) sources.push_back(render(problem, one));
    for (const Source& source : sources) {
      const std::vector<std::string> names = includes(source.text);
      CHECK_FALSE(names.empty());
      for (const std::string& name : names)
        if (!is_embedded(name)) FAIL_CHECK(source.name << " includes " << name);
    }
  }
}

TEST_CASE("a template includes only templates beside or below it, except where it chooses the compiler") {
  for (const EmbeddedFile& file : embedded_templates()) {
    if (file.name == "device/platform.cuh") continue;
    const std::string folder(file.name.substr(0, file.name.rfind('/') + 1));
    for (const std::string& name : includes(file.text))
      if (!is_embedded(folder + name)) FAIL_CHECK(file.name << " includes " << name);
  }
}

TEST_CASE("every template is embedded as it lies in the source tree") {
  const std::filesystem::path root = std::filesystem::path(GLA_SOURCE_DIR) / "templates";
  std::set<std::string> on_disk;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().extension() == ".h" || entry.path().extension() == ".cuh")
      on_disk.insert(std::filesystem::relative(entry.path(), root).generic_string());
  }
  std::set<std::string> embedded;
  for (const EmbeddedFile& file : embedded_templates()) {
    embedded.emplace(file.name);
    std::ifstream stream(root / file.name, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    if (text != file.text) FAIL_CHECK(file.name << " differs from the file");
  }
  CHECK(embedded == on_disk);
}

TEST_CASE("the hash of the templates is 16 hexadecimal digits, the same at every call") {
  const std::string hash(templates_hash());
  CHECK(hash.size() == 16);
  CHECK(hash.find_first_not_of("0123456789abcdef") == std::string::npos);
  CHECK(templates_hash() == hash);
}

TEST_CASE("the templates of an operation are all that its variants include, and no other operation's") {
  const std::pair<Problem, Variant> by_warpgroups[] = {
      {chunk_of(128, 128),
       variant("fused chunk=64 tile_v=128 warps_v=8 warps_k=1 group_tile=1 stages=2 score_parts=2 "
               "state_parts=1 async_copy=1 producers=8 cluster=1 min_blocks=1")},
      {backward_of(128, 128),
       variant("walks segments=1 chunk=64 tile_k=128 tile_v=128 warps=8 stages=2 score_parts=2 "
               "state_parts=2 async_copy=1 producers=8")}};
  for (const Operation operation : kOperations) {
    std::set<std::string> names;
    for (const EmbeddedFile& file : templates_of(operation)) names.emplace(file.name);
    for (const EmbeddedFile& file : templates_of(operation)) {
      const std::string folder(file.name.substr(0, file.name.rfind('/') + 1));
      for (const std::string& name : includes(file.text))
        CHECK(names.count(folder + name) == (is_embedded(folder + name) ? 1 : 0));
    }
    for (const Problem& problem : legal_problems()) {
      if (problem.operation != operation) continue;
      for (const Variant& one : one_of_each_family(problem))
        for (const std::string& name : includes(render(problem, one).text)) CHECK(names.count(name) == 1);
    }
    for (const auto& [problem, one] : by_warpgroups) {
      if (problem.operation != operation) continue;
      for (const std::string& name : includes(render(problem, one).text)) CHECK(names.count(name) == 1);
    }
    CHECK(names.count("verification.cuh") == 0);
    CHECK(names.count("chunk_gates.cuh") == (is_recurrent(operation) ? 0 : 1));
    CHECK(names.count("key_walk.cuh") == (operation == Operation::chunk_backward ? 1 : 0));
    CHECK(templates_hash(operation).size() == 16);
  }
  CHECK(templates_hash(Operation::chunk_forward) != templates_hash(Operation::recurrent_forward));
  CHECK(templates_hash(Operation::chunk_forward) != templates_hash(Operation::chunk_backward));
}
