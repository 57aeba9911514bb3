#include "table_search.h"

#include "catch.h"
#include "files.h"
#include "sample_table.h"

using namespace gla;
using namespace gla::test;

namespace {

struct Folders {
  TemporaryFolder root;
  TablePlaces places;

  Folders() {
    places.user_folder = root.path() / "user";
    places.shipped = {root.path() / "absent", root.path() / "shipped", root.path() / "later"};
  }
  std::string put(const std::string& path, const Table& table) const {
    const std::string full = (root.path() / path).string();
    REQUIRE(write_table(table, full).ok());
    return full;
  }
};

std::vector<TableCandidate> found(const Folders& folders) {
  Result<std::vector<TableCandidate>> tables = find_tables(h100(), folders.places);
  INFO(tables.status().message());
  REQUIRE(tables.ok());
  return *std::move(tables);
}

}  // namespace

TEST_CASE(
    "tables are taken in order: asked for, this GPU, similar GPU, ranked; the user's before a shipped one") {
  Folders folders;
  const std::string similar = folders.put("shipped/a_h200.yaml", sample_table("NVIDIA H200"));
  const std::string exact = folders.put("shipped/z_h100.yaml", sample_table());
  const std::string user = folders.put("user/mine.yaml", sample_table());
  Table unmeasured = sample_table();
  unmeasured.origin.measured = false;
  const std::string ranked = folders.put("user/a_ranked.yaml", unmeasured);
  const std::string asked = folders.put("elsewhere.yaml", sample_table("NVIDIA H20"));
  folders.put("later/ignored.yaml", sample_table());
  folders.places.given = asked;

  const std::vector<TableCandidate> tables = found(folders);
  REQUIRE(tables.size() == 5);
  CHECK(tables[0].path == asked);
  CHECK(tables[0].fit == TableFit::asked_for);
  CHECK(tables[1].path == user);
  CHECK(tables[2].path == exact);
  CHECK(tables[3].path == similar);
  CHECK(tables[3].fit == TableFit::similar_gpu);
  CHECK(tables[4].path == ranked);
}

TEST_CASE("of two tables of this GPU the user's comes first, whatever bandwidth either measured") {
  Folders folders;
  Table shipped = sample_table();
  shipped.device.copy_bandwidth = h100().architecture.copy_bandwidth;
  Table mine = shipped;
  mine.device.copy_bandwidth *= 0.97;
  folders.put("shipped/a.yaml", shipped);
  const std::string user = folders.put("user/z.yaml", mine);
  CHECK(found(folders)[0].path == user);
}

TEST_CASE("of several similar GPUs the one with the closest multiprocessor count and bandwidth comes first") {
  Folders folders;
  Table close = sample_table("NVIDIA H100 NVL", 132);
  Table fewer = sample_table("NVIDIA H20", 78);
  Table slower = sample_table("NVIDIA H100 PCIe", 132);
  slower.device.copy_bandwidth = 1.9e12;
  folders.put("shipped/a.yaml", fewer);
  folders.put("shipped/b.yaml", slower);
  const std::string best = folders.put("shipped/c.yaml", close);
  const std::vector<TableCandidate> tables = found(folders);
  REQUIRE(tables.size() == 3);
  CHECK(tables[0].path == best);
  CHECK(tables[2].table.device.name == "NVIDIA H20");
}

TEST_CASE("the table given goes before GLA_TABLE, and 'none' means the model") {
  Folders folders;
  const std::string given = folders.put("given.yaml", sample_table());
  folders.put("shipped/h100.yaml", sample_table());
  folders.places.environment = folders.put("environment.yaml", sample_table());
  CHECK(found(folders).front().source == "GLA_TABLE");
  folders.places.given = given;
  CHECK(found(folders).front().path == given);
  folders.places.given = "none";
  CHECK(found(folders).empty());
}

TEST_CASE("a table that was asked for and cannot be used is an error that names it") {
  Folders folders;
  folders.places.given = (folders.root.path() / "absent.yaml").string();
  Result<std::vector<TableCandidate>> tables = find_tables(h100(), folders.places);
  CHECK(tables.status().code() == StatusCode::io);
  CHECK(tables.status().message().find("absent.yaml") != std::string::npos);

  folders.places.given.clear();
  folders.places.environment = (folders.root.path() / "bad.yaml").string();
  REQUIRE(write_file(folders.places.environment, "schema: 1\n").ok());
  tables = find_tables(h100(), folders.places);
  CHECK(tables.status().code() == StatusCode::format);
  CHECK(tables.status().message().find("GLA_TABLE") != std::string::npos);
  CHECK(tables.status().message().find("bad.yaml:1: ") != std::string::npos);

  driver::Device other = h100();
  other.compute_capability = 80;
  folders.places.environment = folders.put("h100.yaml", sample_table());
  tables = find_tables(other, folders.places);
  CHECK(tables.status().code() == StatusCode::unsupported);
}

TEST_CASE("a damaged or foreign table in a folder is reported and passed over") {
  Folders folders;
  REQUIRE(write_file(folders.root.path() / "user/bad.yaml", "schema: 1\nwhat: 2\n").ok());
  REQUIRE(write_file(folders.root.path() / "user/notes.txt", "not a table").ok());
  folders.put("shipped/h100.yaml", sample_table());
  const std::vector<TableCandidate> tables = found(folders);
  REQUIRE(tables.size() == 2);
  CHECK(tables[0].fit == TableFit::same_gpu);
  CHECK(tables[1].fit == TableFit::unreadable);
  CHECK_FALSE(is_used(tables[1]));
  CHECK_FALSE(tables[0].doubtful);
  CHECK(tables[1].doubtful);
  CHECK(tables[1].reason.find("bad.yaml:") != std::string::npos);

  driver::Device a100 = h100();
  a100.compute_capability = 80;
  const Result<std::vector<TableCandidate>> foreign = find_tables(a100, folders.places);
  REQUIRE(foreign.ok());
  CHECK(foreign->front().fit == TableFit::foreign);
}

TEST_CASE("a table made from other templates is used and says so") {
  Folders folders;
  Table table = sample_table();
  table.origin.templates[Operation::chunk_forward] = "0123456789abcdef";
  folders.put("shipped/h100.yaml", table);
  const std::vector<TableCandidate> tables = found(folders);
  REQUIRE(tables.size() == 1);
  CHECK(is_used(tables[0]));
  CHECK(tables[0].reason.find(
            "times of chunk_forward may no longer hold: made from other templates (0123456789abcdef") !=
        std::string::npos);
  CHECK(tables[0].reason.find("recurrent_forward") == std::string::npos);
  CHECK(tables[0].doubtful);

  // Behind a better one of today's templates it is worth no warning, but where it alone has a problem.
  folders.put("user/h100.yaml", sample_table());
  const std::vector<TableCandidate> behind = found(folders);
  REQUIRE(behind.size() == 2);
  CHECK(behind[1].source == "shipped");
  CHECK_FALSE(behind[0].doubtful);
  CHECK_FALSE(behind[1].doubtful);
  table.problems.front().problem.head_dim_k = 96;
  folders.put("shipped/h100.yaml", table);
  CHECK(found(folders)[1].doubtful);
}

TEST_CASE(
    "a shipped table of other templates gives way to one of today's of a similar GPU, the user's does not") {
  Folders folders;
  Table old = sample_table();
  old.origin.templates[Operation::chunk_forward] = "0123456789abcdef";
  const std::string shipped = folders.put("shipped/h100.yaml", old);
  const std::string similar = folders.put("shipped/z_h200.yaml", sample_table("NVIDIA H200"));
  Table unmeasured = sample_table();
  unmeasured.origin.measured = false;
  folders.put("shipped/ranked.yaml", unmeasured);
  CHECK(found(folders)[0].path == similar);
  CHECK(found(folders)[1].path == shipped);
  const std::string user = folders.put("user/h100.yaml", old);
  CHECK(found(folders)[0].path == user);
}

TEST_CASE("the tables of an installed libgla, a wheel's too, are in share/gla-tune beside its folder") {
  const TablePlaces places = table_places("");
  REQUIRE_FALSE(own_folder().empty());
  CHECK(places.shipped.front() == own_folder() / "../share/gla-tune/tables");
}

TEST_CASE("the shipped folder of the build tree is among the places") {
  const TablePlaces places = table_places("x.yaml");
  CHECK(places.given == "x.yaml");
  CHECK(places.shipped.back().filename() == "tables");
}
