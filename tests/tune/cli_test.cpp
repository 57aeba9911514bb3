// The command as a user runs it, on a machine without a GPU.
#include <array>

#include "catch.h"
#include "driver.h"
#include "json.h"
#include "shell.h"
#include "table.h"

using namespace gla;

namespace {

bool has_gpu() {
  return driver::device(0).ok();
}

}  // namespace

TEST_CASE("help names every command and the exit codes; a command's help has an example") {
  const Shell shell;
  const Outcome help = shell.run("--help");
  CHECK(help.code == 0);
  for (const char* command :
       {"info", "list", "generate", "compile", "verify", "tune", "bench", "show", "validate", "completion"}) {
    CHECK(contains(help.output, command));
    const Outcome own = shell.run(std::string(command) + " --help");
    CHECK(own.code == 0);
    CHECK(contains(own.output, std::string("gla-tune ") + command));
  }
  CHECK(contains(help.output, "Exit codes"));
  CHECK_FALSE(contains(help.output, "worker"));
  CHECK(contains(shell.run("--version").output, "gla-tune "));
}

TEST_CASE("a wrong command line is exit code 2 and says what was wrong") {
  const Shell shell;
  for (const char* arguments :
       {"", "frobnicate", "list --frobnicate", "list --dtype fp8", "list --head-dims 1000", "list --op chunk",
        "tune --budget soon", "tune --share 3/2", "tune --renew a.yaml --head-dims 64",
        "tune --workload B4,X1", "generate", "list --arch sm_12", "verify --arch sm_90a",
        "verify --emulate --arch sm_12", "verify --emulate --device 0", "bench --shape B1,T1",
        "bench --seconds -1", "bench --seconds 0"}) {
    const Outcome outcome = shell.run(arguments);
    INFO(arguments);
    CHECK(outcome.code == 2);
    CHECK_FALSE(outcome.errors.empty());
  }
}

TEST_CASE("what is wrong with an argument is said with its name and what is accepted") {
  const Shell shell;
  const Outcome gates = shell.run("bench --gates steep");
  CHECK(gates.code == 2);
  for (const char* words : {"--gates", "steep", "logsigmoid/16", "10*logsigmoid", "resets"})
    CHECK(contains(gates.errors, words));
  const std::string sources = shell.path("sources");
  const std::vector<std::array<std::string, 2>> cases{
      {"list --head-dims 0", "head dims \"0\": \"0\" is not a whole number from 1 to 512"},
      {"tune --budget -5", "--budget: \"-5\" is not a duration such as 90s"},
      {"verify --budget soon", "--budget: \"soon\""},
      {"tune --share 3/2", "--share: \"3/2\" is not a share such as 2/4"},
      {"tune --op recurrent_forward --workload B1,T1 --workload B1,T65",
       "--workload N1 H1 T65 suits no operation that --op asks for: recurrent operations take T from 1 to "
       "64"},
      {"tune --op chunk_forward --gv", "--gv is for recurrent operations"},
      {"bench --fp32-gate-gradients",
       "fp32_gate_gradients is true; accepted of backward operations with gates of 16 bits only"},
      {"tune --arch sm_80 --op recurrent_forward --head-dims 64 --share 2/2", "--share 2/2 is empty"},
      {"generate --head-dims 64 --variant 'decode lanes_k=4 rows_v=4 warps=4 stages=9 min_blocks=1' -o " +
           sources,
       "--variant \"decode lanes_k=4"}};
  for (const auto& [arguments, message] : cases) {
    const Outcome outcome = shell.run(arguments);
    INFO(arguments << ": " << outcome.errors);
    CHECK(outcome.code == 2);
    CHECK(contains(outcome.errors, message));
  }
  CHECK_FALSE(std::filesystem::exists(sources));
}

TEST_CASE("info and list print JSON that parses") {
  const Shell shell;
  const Outcome info = shell.run("info --json");
  CHECK(info.code == 0);
  const auto json = parse_json(info.output);
  REQUIRE(json.ok());
  CHECK_FALSE((*json)["templates_hash"].as_string().empty());
  CHECK((*json)["devices"].items().empty() == !has_gpu());
  const auto list = parse_json(
      shell.run("list --head-dims 64 --op recurrent_forward --variants --json --arch sm_80").output);
  REQUIRE(list.ok());
  const Json& problem = (*list)["problems"].items().at(0);
  CHECK(problem["variants"].as_int() == static_cast<std::int64_t>(problem["list"].items().size()));
  CHECK(problem["variants"].as_int() > 100);
}

TEST_CASE("generate writes sources whose includes are all beside them") {
  const Shell shell;
  const std::string folder = shell.path("sources");
  CHECK(shell.run("generate --head-dims 60x100 --group 4 --tools -o " + folder).code == 0);
  std::size_t sources = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    if (entry.path().extension() == ".cu") ++sources;
    std::istringstream lines(content_of(entry.path().string()));
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind("#include \"", 0) != 0) continue;
      const std::string name = line.substr(10, line.find('"', 10) - 10);
      if (name == "emulator.h") continue;  // for the emulator's build only
      INFO(entry.path() << " includes " << name);
      const bool found = std::filesystem::exists(std::filesystem::path(folder) / name) ||
                         std::filesystem::exists(entry.path().parent_path() / name);
      CHECK(found);
    }
  }
  CHECK(sources == 6);  // of each operation a variant and the tools
}

TEST_CASE("commands that need a GPU say so with exit code 3") {
  if (has_gpu()) return;
  const Shell shell;
  for (const char* arguments : {"verify", "bench", "show"}) {
    const Outcome outcome = shell.run(arguments);
    INFO(arguments);
    CHECK(outcome.code == 3);
    CHECK(contains(outcome.errors, "libcuda"));
  }
}

TEST_CASE("an offline run writes a valid table that says it was not measured") {
  if (!has_nvrtc()) return;
  const Shell shell;
  const std::string path = shell.path("table.yaml");
  const Outcome tune = shell.run(
      "tune --arch sm_90a --op recurrent_forward --head-dims 64 --compile-top 1 --workload B8,T1,H4 -q -o " +
      path);
  INFO(tune.errors);
  REQUIRE(tune.code == 0);
  CHECK(contains(tune.output, "NOT MEASURED"));
  CHECK(contains(tune.output, "Verified on the emulator"));
  const auto table = read_table(path);
  REQUIRE(table.ok());
  CHECK_FALSE(table->origin.measured);
  REQUIRE(table->problems.size() == 1);
  CHECK(table->problems[0].tally.verified > 0);
  REQUIRE_FALSE(table->problems[0].points.empty());
  CHECK(table->problems[0].points[0].error_o > 0);
  CHECK(contains(table->origin.command, "--compile-top 1"));

  CHECK(shell.run("validate " + path).code == 0);
  CHECK(contains(shell.run("show " + path).output, "NOT MEASURED"));
  CHECK(parse_json(shell.run("show --json " + path).output).ok());
  CHECK(shell.run(fmt::format("tune --merge {0} {0} -o {1}", path, shell.path("merged.yaml"))).code == 0);
  CHECK(read_table(shell.path("merged.yaml")).ok());
  if (has_gpu()) return;
  const Outcome renewal = shell.run(fmt::format("tune --renew {} -o {}", path, shell.path("renewed.yaml")));
  CHECK(renewal.code == 3);
  CHECK(contains(renewal.errors, "--renew measures, which takes a GPU"));
  CHECK_FALSE(std::filesystem::exists(shell.path("renewed.yaml")));
}

TEST_CASE(
    "problems and workloads that are given twice make one table entry, and a bad run leaves a good table") {
  if (!has_nvrtc()) return;
  const Shell shell;
  const std::string path = shell.path("table.yaml");
  const std::string tune =
      "tune --arch sm_90a --op recurrent_forward --compile-top 1 --no-verify -q -o " + path;
  const Outcome twice = shell.run(tune + " --head-dims 64,64x64 --workload B8,T1,H4 --workload N8,H4");
  REQUIRE(twice.code == 0);
  CHECK(contains(twice.output, "NOT VERIFIED"));
  const std::string good = content_of(path);
  CHECK(shell.run("validate " + path).code == 0);
  CHECK(shell.run(tune + " --head-dims 64 --share 2/2").code == 2);
  CHECK(shell.run(tune + " --head-dims 64 --workload B99999999999,T1").code == 2);
  CHECK(content_of(path) == good);
}

TEST_CASE("validate refuses a damaged table with exit code 1, and a missing one") {
  const Shell shell;
  const std::string path = shell.path("bad.yaml");
  write_content(path, "schema: 1\nnonsense: true\n");
  const Outcome bad = shell.run("validate " + path);
  CHECK(bad.code == 1);
  CHECK(contains(bad.errors, "bad.yaml:"));
  CHECK(shell.run("validate " + shell.path("missing.yaml")).code != 0);
}

TEST_CASE("compile reports registers for an architecture that is not here") {
  if (!has_nvrtc()) return;
  const Shell shell;
  const Outcome outcome =
      shell.run("compile --arch sm_80 --op recurrent_forward --head-dims 64 --top 1 --json");
  CHECK(outcome.code == 0);
  const auto json = parse_json(outcome.output);
  REQUIRE(json.ok());
  CHECK((*json)["kernels"].items().at(0)["registers"].as_int() > 0);
}

TEST_CASE("the completion scripts are what their shells accept") {
  const Shell shell;
  const Outcome bash = shell.run("completion bash");
  CHECK(bash.code == 0);
  CHECK(contains(bash.output, "--compile-top"));
  write_content(shell.path("bash"), bash.output);
  CHECK(std::system(("bash -n " + shell.path("bash")).c_str()) == 0);
  CHECK(contains(shell.run("completion zsh").output, "#compdef gla-tune"));
  CHECK(shell.run("completion fish").code == 2);
}
