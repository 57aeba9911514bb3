#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "catch.h"
#include "files.h"
#include "gla/generator/render.h"
#include "sample_table.h"

using namespace gla;
using namespace gla::test;

namespace {

/// The sample with the first `from` replaced; says which line that was on.
struct Edited {
  std::string text;
  long line;
};
Edited edited(const std::string& from, const std::string& to) {
  std::string text = format_table(sample_table());
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  const long line = 1 + std::count(text.begin(), text.begin() + static_cast<long>(at), '\n');
  text.replace(at, from.size(), to);
  return {text, line};
}

void refused(const std::string& from, const std::string& to, const std::string& reason) {
  const Edited table = edited(from, to);
  const Result<Table> read = parse_table(table.text, "some.yaml");
  INFO("'" << from << "' -> '" << to << "': " << read.status().message());
  REQUIRE_FALSE(read.ok());
  CHECK(read.status().code() == StatusCode::format);
  CHECK(read.status().message().find(fmt::format("some.yaml:{}: ", table.line)) == 0);
  CHECK(read.status().message().find(reason) != std::string::npos);
}

}  // namespace

TEST_CASE("a table that was written reads back equal and is written the same again") {
  const Table table = sample_table();
  const std::string text = format_table(table);
  const Result<Table> read = parse_table(text, "sample");
  INFO(read.status().message());
  REQUIRE(read.ok());
  CHECK(format_table(*read) == text);
  CHECK(read->device.name == table.device.name);
  CHECK(std::abs(read->device.copy_bandwidth / table.device.copy_bandwidth - 1) < 1e-6);
  CHECK(read->origin.command == table.origin.command);
  REQUIRE(read->problems.size() == 2);
  CHECK(read->problems[0].problem == chunk_problem());
  CHECK(read->problems[0].tally.refused == table.problems[0].tally.refused);
  REQUIRE(read->problems[0].points.size() == 4);
  CHECK(read->problems[0].points[2].workload == Workload{8, 8, 1024, true});
  CHECK(read->problems[0].points[3].accuracy == Accuracy::fast);
  CHECK(read->problems[0].points[0].variant == table.problems[0].points[0].variant);
  CHECK(std::abs(read->problems[0].points[0].seconds - 612.5e-6) < 1e-12);
}

TEST_CASE("a table without problems, or with a problem without points, is legal") {
  Table table = sample_table();
  table.problems[0].points.clear();
  CHECK(parse_table(format_table(table), "t").ok());
  table.problems.clear();
  CHECK(parse_table(format_table(table), "t").ok());
}

TEST_CASE("strings keep quotes, backslashes and line breaks") {
  Table table = sample_table();
  table.origin.command = "a \"b\" \\c\n\td: #e";
  table.device.driver = "";
  const Result<Table> read = parse_table(format_table(table), "t");
  REQUIRE(read.ok());
  CHECK(read->origin.command == table.origin.command);
  CHECK(read->device.driver.empty());
}

TEST_CASE("a table cut anywhere is refused with file and line", "[wide]") {
  const std::string text = format_table(sample_table());
  for (std::size_t length = 0; length + 1 < text.size(); ++length) {
    const Result<Table> read = parse_table(text.substr(0, length), "cut.yaml");
    INFO("cut after " << length << " bytes");
    REQUIRE_FALSE(read.ok());
    REQUIRE(read.status().code() == StatusCode::format);
    REQUIRE(read.status().message().find("cut.yaml:") == 0);
  }
}

TEST_CASE("a table of another schema is refused by its version, whatever else it has") {
  refused("schema: 2", "schema: 3\nnew_key: 1", "schema is 3; this version of gla-tune reads 1 to 2");
  refused("schema: 2", "schema: 0", "schema is 0; this version of gla-tune reads 1 to 2");
  refused("schema: 2", "schema: one", "schema must be a whole number");
}

TEST_CASE("the templates of every operation that a table has are named in it") {
  const std::string chunk = "chunk_forward: \"" + templates_hash(Operation::chunk_forward) + "\"";
  const std::string recurrent = "recurrent_forward: \"" + templates_hash(Operation::recurrent_forward) + "\"";
  refused("  templates: {" + chunk + ", ", "  templates: {",
          "templates lacks chunk_forward, of which the table has problems");
  refused("{" + chunk, "{" + chunk + ", " + chunk, "templates: chunk_forward occurs twice");
  refused("{" + chunk, "{chunk_forward: 12", "templates: the digest of chunk_forward must be a quoted text");
  refused("{" + chunk, "{chunk: \"12\"", "operation is 'chunk'");
  refused("{" + chunk + ", " + recurrent + "}", "12",
          "templates must be a mapping from operations to digests");
}

TEST_CASE("a table of schema 1 is as old as all templates together") {
  const Table table = sample_table();
  std::string text = format_table(table);
  const std::size_t at = text.find("  templates: {"), end = text.find('\n', at);
  REQUIRE(at != std::string::npos);
  for (const std::string& hash : {std::string(templates_hash()), std::string("0123456789abcdef")}) {
    std::string first = text;
    first.replace(at, end - at, "  templates_hash: \"" + hash + "\"")
        .replace(first.find("schema: 2"), 9, "schema: 1");
    const Result<Table> read = parse_table(first, "t");
    REQUIRE(read.ok());
    const bool is_new = hash == templates_hash();
    CHECK(outdated(read->origin).size() == (is_new ? 0 : 2));
    CHECK((read->origin.templates == table.origin.templates) == is_new);
  }
}

TEST_CASE("unknown, missing and repeated keys are refused with their line") {
  refused("  multiprocessors:", "  multiprocessor:", "unknown key 'multiprocessor' in device");
  refused("    noise: 0.004", "    noises: 0.004", "unknown key 'noises' in point");
  refused("  nvrtc: \"13.0\"", "  tool: \"13.0\"", "key 'tool' occurs twice in origin");
  refused("{o: 0.0023, state: 0.0009}", "{o: 0.0023}", "error lacks the key 'state'");
  refused("{family: fused, ", "{", "variant lacks the key 'family'");
  refused("chunk: ", "chunks: ", "chunks");
}

TEST_CASE("values of a wrong type are refused with their line") {
  refused("compute_capability: 90", "compute_capability: \"90\"",
          "compute_capability must be a whole number");
  refused("compute_capability: 90", "compute_capability: 9.5", "compute_capability must be a whole number");
  refused("compute_capability: 90", "compute_capability: [90]", "compute_capability in device must be");
  refused("measured: true", "measured: yes", "measured must be true or false");
  refused("noise: 0.004", "noise: low", "noise must be a number");
  refused("noise: 0.004", "noise: nan", "noise is nan");
  refused("driver: \"13.0\"", "driver: 13.0", "driver must be a text");
  refused("packed: false", "packed: 0", "packed must be true or false");
  refused("heads: 96", "heads: many", "heads must be a whole number");
  refused("architecture: sm_90a", "architecture: sm_1", "sm_1");
  refused("operation: chunk_forward", "operation: chunk_fwd", "chunk_fwd");
  refused("accuracy: default", "accuracy: best", "best");
}

TEST_CASE("values out of range are refused with their line") {
  refused("heads: 96", "heads: 0", "heads is 0; accepted: 1 to");
  refused("tokens: 8192", "tokens: 99999999999999", "tokens is 99999999999999");
  refused("head_dim_k: 128", "head_dim_k: 513", "head_dim_k is 513; accepted: 1 to 512");
  refused("microseconds: 612.5", "microseconds: -1", "microseconds is -1");
  refused("fallback_share: 0", "fallback_share: 1.5", "fallback_share is 1.5");
  refused("compute_capability: 90", "compute_capability: 80", "that of sm_90a is 90");
  refused("compiled: 300", "compiled: 513", "compiled is 513; accepted: 0 to 512");
}

TEST_CASE("a variant outside the space is refused with its line and the constraint") {
  refused("variant: {family: fused, chunk: ", "variant: {family: fused, chunk: 9",
          "variant is outside the space");
  refused("variant: {family: fused", "variant: {family: fuzed", "fuzed");
}

TEST_CASE("a problem and a point may occur once") {
  Table table = sample_table();
  table.problems.push_back(table.problems[0]);
  CHECK(parse_table(format_table(table), "t").status().message().find("a second entry for chunk_forward") !=
        std::string::npos);
  table = sample_table();
  table.problems[0].points.push_back(table.problems[0].points[0]);
  CHECK(parse_table(format_table(table), "t").status().message().find("a second point for N1 H96 T8192") !=
        std::string::npos);
}

TEST_CASE("what is not YAML, not a mapping or more than one document is refused") {
  CHECK(parse_table("{", "t").status().message().find("t:") == 0);
  CHECK(parse_table("", "t").status().message() == "t:1: the file is empty");
  CHECK_FALSE(parse_table("- 1\n- 2\n", "t").ok());
  CHECK_FALSE(parse_table(std::string(1000, '['), "t").ok());
  CHECK_FALSE(parse_table(std::string("\0\0\0", 3), "t").ok());
  CHECK_FALSE(parse_table(format_table(sample_table()) + "---\nschema: 1\n", "t").ok());
}

TEST_CASE("the example of docs/table.md is a legal table") {
  const std::string page = *read_file(GLA_SOURCE_DIR "/docs/table.md");
  const std::size_t begin = page.find("```yaml\n") + 8;
  const Result<Table> read =
      parse_table(page.substr(begin, page.find("```", begin) - begin), "docs/table.md");
  INFO(read.status().message());
  CHECK(read.ok());
}

TEST_CASE("every table that ships is legal") {
  for (const auto& entry : std::filesystem::directory_iterator(GLA_SOURCE_DIR "/tables")) {
    if (entry.path().extension() != ".yaml") continue;
    const Result<Table> read = read_table(entry.path().string());
    INFO(read.status().message());
    CHECK(read.ok());
  }
}

TEST_CASE("a table is written whole or not at all") {
  const TemporaryFolder folder;
  const std::string path = (folder.path() / "deeper" / "gpu.yaml").string();
  REQUIRE(write_table(sample_table(), path).ok());
  REQUIRE(read_table(path).ok());
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path() / "deeper"), {}) == 1);

  REQUIRE(write_file(folder.path() / "file", "").ok());
  const Status status = write_table(sample_table(), (folder.path() / "file" / "gpu.yaml").string());
  CHECK(status.code() == StatusCode::io);
  CHECK(read_table((folder.path() / "absent.yaml").string()).status().code() == StatusCode::io);
  CHECK(read_table(folder.path().string()).status().code() == StatusCode::io);
}

TEST_CASE("lookup takes the nearest point in octaves of N*H and T") {
  const Table table = sample_table();
  const auto points = [&](const Workload& workload, Accuracy accuracy = Accuracy::standard) {
    return lookup(table, chunk_problem(), workload, accuracy);
  };
  const std::vector<Point>& all = table.problems[0].points;
  CHECK(points({1, 96, 8192, false}).point == &all[0]);
  CHECK(points({1, 96, 8192, false}).exact);
  CHECK(points({1, 128, 10000, false}).exact);
  CHECK(points({96, 1, 16384, false}).point == &all[0]);
  CHECK_FALSE(points({96, 1, 16384, false}).exact);
  CHECK(points({4, 16, 2048, false}).point == &all[1]);
  CHECK(points({8, 8, 1024, true}).point->workload.packed);
  CHECK(points({1, 96, 8192, false}, Accuracy::fast).point == &all[3]);
}

TEST_CASE("points of the default class serve fast calls, and not the other way round") {
  const Table table = sample_table();
  CHECK(lookup(table, recurrent_problem(), {64, 32, 1, false}, Accuracy::fast).exact);
  Table only_fast = table;
  only_fast.problems[1].points[0].accuracy = Accuracy::fast;
  CHECK(lookup(only_fast, recurrent_problem(), {64, 32, 1, false}, Accuracy::standard).point == nullptr);
}

TEST_CASE("reverse, state layout and state dtype share points; other fields do not") {
  const Table table = sample_table();
  Problem problem = recurrent_problem();
  problem.reverse = true;
  problem.state_v_first = true;
  problem.state_dtype = DType::bf16;
  CHECK(lookup(table, problem, {64, 32, 1, false}, Accuracy::standard).exact);
  problem.group = 2;
  CHECK(lookup(table, problem, {64, 32, 1, false}, Accuracy::standard).point == nullptr);
}
