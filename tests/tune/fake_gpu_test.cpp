// gla-tune tune, verify and bench from end to end on a GPU that is not there (fake_driver.cpp): the worker process, its
// crashes, the journal, and a run that is killed and resumed.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>

#include "catch.h"
#include "compiler.h"
#include "json.h"
#include "table.h"
#include "temporary_folder.h"

using namespace gla;

namespace {

// One kernel that compiles quickly, with a few hundred variants. How many of them are tried is a number, so that a
// machine's speed does not matter.
constexpr const char* kProblem =
    "--op recurrent_forward --head-dims 16 --workload B1,T1,H2 --workload B4,T1,H2 --budget 20m";

class FakeMachine {
 public:
  explicit FakeMachine(bool faults) : faults_(faults) {}

  std::string command(const std::string& arguments) const {
    return fmt::format(
        "env -u GLA_TABLE -u GLA_CACHE_DIR XDG_CONFIG_HOME={0} XDG_CACHE_HOME={1} "
        "LD_LIBRARY_PATH={2}:$LD_LIBRARY_PATH {3} {4} {5} >{6} 2>{7}",
        folder_ / "config", compiled(), FAKE_DRIVER_FOLDER, faults_ ? "FAKE_DRIVER_FAULTS=1" : "", GLA_TUNE,
        arguments, folder_ / "output", folder_ / "errors");
  }
  int run(const std::string& arguments) const { return WEXITSTATUS(std::system(command(arguments).c_str())); }
  std::string output() const { return content_of(folder_ / "output"); }
  std::string errors() const { return content_of(folder_ / "errors"); }
  std::string path(const char* name) const { return folder_ / name; }

 private:
  /// Where kernels are that some machine has compiled.
  static std::string compiled() {
    static const TemporaryFolder folder;
    return folder / "cache";
  }

  TemporaryFolder folder_;
  bool faults_;
};

bool has_nvrtc() {
  if (nvrtc_version().ok()) return true;
  fmt::print("SKIPPED: no NVRTC\n");
  return false;
}

}  // namespace

TEST_CASE("tune writes a measured table, removes its journal, and the runtime finds the table") {
  if (!has_nvrtc()) return;
  const FakeMachine machine(false);
  REQUIRE(machine.run(fmt::format("tune {} --compile-top 8", kProblem)) == 0);
  INFO(machine.errors());
  const std::string path = machine.path("config/gla-tune/tables/fake-gpu.yaml");
  const auto table = read_table(path);
  REQUIRE(table.ok());
  CHECK(table->origin.measured);
  CHECK(table->device.name == "Fake GPU");
  REQUIRE(table->problems.size() == 1);
  CHECK(table->problems[0].points.size() == 4);
  CHECK(table->problems[0].tally.measured == 8);
  CHECK_FALSE(std::filesystem::exists(path + ".journal"));
  const std::string renewed_path = machine.path("renewed.yaml");
  REQUIRE(machine.run(fmt::format("tune --renew {} --budget 20m -o {}", path, renewed_path)) == 0);
  const auto renewed = read_table(renewed_path);
  REQUIRE(renewed.ok());
  REQUIRE(renewed->problems.size() == 1);
  CHECK(renewed->problems[0].points.size() == 4);
  CHECK(renewed->problems[0].tally.measured <= 4);
  REQUIRE(machine.run("info") == 0);
  CHECK(machine.output().find("in use: " + path) != std::string::npos);
  REQUIRE(machine.run("bench --shape B4,T1,H2,D16 --check --seconds 0.01 --json") == 0);
  const auto bench = parse_json(machine.output());
  REQUIRE(bench.ok());
  const Json& result = (*bench)["results"].items().at(0);
  CHECK(result["match"].as_string() == "exact");
  CHECK(result["seconds"].as_double() > 0);
  CHECK_FALSE(result["error_state"].is_null());
  REQUIRE(machine.run("bench --shape B1,T128,H1,D16 --gates resets --check --seconds 0.01 --json") == 0);
  const auto without_states = parse_json(machine.output());
  REQUIRE(without_states.ok());
  CHECK((*without_states)["gates"].as_string() == "resets");
  CHECK_FALSE((*without_states)["results"].items().at(0)["error_o"].is_null());
  CHECK((*without_states)["results"].items().at(0)["error_state"].is_null());  // there was none to compare
  REQUIRE(
      machine.run(
          "bench --op recurrent_backward --fp32-gate-gradients --shape B1,T8,H1,D16 --seconds 0.01 --json") ==
      0);
  const auto gradients = parse_json(machine.output());
  REQUIRE(gradients.ok());
  CHECK((*gradients)["results"].items().at(0)["problem"]["fp32_gate_gradients"].as_bool());
}

TEST_CASE("variants that crash, break the context or are wrong cost themselves and not the run", "[wide]") {
  if (!has_nvrtc()) return;
  const FakeMachine machine(true);
  // Of five variants three misbehave, each in another way.
  REQUIRE(machine.run(fmt::format("tune {} --compile-top 30 -o {}", kProblem, machine.path("table.yaml"))) ==
          0);
  const auto table = read_table(machine.path("table.yaml"));
  REQUIRE(table.ok());
  const Tally& tally = table->problems.at(0).tally;
  for (const char* reason : {"crash", "launch", "wrong"}) CHECK(tally.refused.count(reason) > 0);
  CHECK(tally.measured > 0);
  CHECK(machine.errors().find("restarted") != std::string::npos);
}

TEST_CASE("a run that is killed leaves no table, and the next one resumes from its journal") {
  if (!has_nvrtc()) return;
  const FakeMachine machine(false);
  const std::string table = machine.path("table.yaml"), journal = table + ".journal";
  const std::string command = "exec " + machine.command(fmt::format("tune {} -o {}", kProblem, table));
  const pid_t process = fork();
  if (process == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  // Killed once it has learned something.
  for (int i = 0; i < 600 && content_of(journal).find("measured") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  kill(process, SIGKILL);
  waitpid(process, nullptr, 0);
  CHECK_FALSE(std::filesystem::exists(table));
  REQUIRE(content_of(journal).find("measured") != std::string::npos);
  REQUIRE(machine.run(fmt::format("tune {} --compile-top 8 -o {}", kProblem, table)) == 0);
  CHECK(machine.errors().find("resuming") != std::string::npos);
  CHECK(read_table(table).ok());
  CHECK_FALSE(std::filesystem::exists(journal));
}

TEST_CASE("verify reports faults with exit code 1 and sound variants with 0") {
  if (!has_nvrtc()) return;
  const FakeMachine sound(false);
  CHECK(sound.run("verify --op recurrent_forward --head-dims 16 --sample 2 -v") == 0);
  INFO(sound.output() << sound.errors());
  CHECK(sound.output().find("2 of 2 verified variants pass") != std::string::npos);
  const FakeMachine faulty(true);
  CHECK(faulty.run("verify --op recurrent_forward --head-dims 16 --sample 4 --json") == 1);
  const auto json = parse_json(faulty.output());
  REQUIRE(json.ok());
  CHECK((*json)["failures"].as_int() > 0);
}

TEST_CASE("a backward problem is verified and timed by its gradients", "[wide]") {
  if (!has_nvrtc()) return;
  const FakeMachine machine(false);
  CHECK(machine.run("verify --op chunk_backward --head-dims 16 --sample 1 --json") == 0);
  INFO(machine.errors());
  const auto verified = parse_json(machine.output());
  REQUIRE(verified.ok());
  const Json& one = (*verified)["problems"].items().at(0)["variants"].items().at(0)["cases"].items().at(0);
  for (const char* key : {"error_dq", "error_dk", "error_dv", "error_dgk", "error_d_initial_state"})
    CHECK(one[key].as_double() > 0);
  CHECK(one["error_o"].is_null());
  const char* const bench = "bench --op chunk_backward --shape B1,T128,H1,D16 --check --seconds 0.01 --json";
  REQUIRE(machine.run(bench) == 0);
  const auto training = parse_json(machine.output());
  REQUIRE(training.ok());
  const Json& result = (*training)["results"].items().at(0);
  CHECK(result["error_dgk"].as_double() > 0);
  CHECK(result["error_d_initial_state"].is_null());  // there was none to compare
  REQUIRE(machine.run(fmt::format("{} --states", bench)) == 0);
  const auto with_states = parse_json(machine.output());
  REQUIRE(with_states.ok());
  CHECK((*with_states)["results"].items().at(0)["error_d_initial_state"].as_double() > 0);
}

TEST_CASE("recurrent gradients are timed when they are asked for") {
  if (!has_nvrtc()) return;
  const FakeMachine machine(false);
  const char* const bench =
      "bench --op recurrent_backward --shape B1,T16,H1,D16 --check --seconds 0.01 --json";
  CHECK(machine.run(bench) == 0);
  INFO(machine.errors());
  const auto measured = parse_json(machine.output());
  REQUIRE(measured.ok());
  CHECK((*measured)["results"].items().at(0)["error_dgk"].as_double() > 0);
}

TEST_CASE("a verification whose budget ends before the first variant has not passed") {
  if (!has_nvrtc()) return;
  const FakeMachine machine(false);
  // This one takes seconds to compile, and its other layout gets half of the second.
  CHECK(machine.run(
            "verify --op chunk_forward --head-dims 128 --budget 1s --variant 'segmented segments=2 chunk=64 "
            "tile_v=64 warps_v=4 warps_k=2 group_tile=1 stages=1 score_parts=2 state_parts=1 async_copy=1 "
            "producers=0 cluster=1 min_blocks=1'") == 1);
  CHECK(machine.errors().find("nothing was verified") != std::string::npos);
}
