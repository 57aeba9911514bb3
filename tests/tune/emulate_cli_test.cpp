// gla-tune verify --emulate and the offline tuner's verification, as a user runs them.
#include <vector>

#include "json.h"
#include "shell.h"
#include "table.h"

using namespace gla;

namespace {

constexpr const char* kDecode =
    "--op recurrent_forward --head-dims 16 --variant 'decode lanes_k=4 rows_v=1 warps=1 stages=1 "
    "min_blocks=1'";

/// A compiler that first applies a sed script to the kernel, and so makes another kernel than was asked for.
std::string faulty_compiler(const Shell& shell, const std::string& script) {
  const std::string path = shell.path("faulty-compiler");
  write_content(path, fmt::format(R"(#!/bin/sh
for argument; do
  case $argument in *.cpp) sed -i '{}' "$argument" ;; esac
done
exec {} "$@"
)",
                                  script, GLA_HOST_COMPILER));
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  return "CXX=" + path;
}

}  // namespace

TEST_CASE("verify --emulate passes a variant that is right, and its JSON holds every case") {
  const Shell shell;
  const Outcome outcome = shell.run(fmt::format("verify --emulate {} --json", kDecode));
  INFO(outcome.errors);
  CHECK(outcome.code == 0);
  const auto json = parse_json(outcome.output);
  REQUIRE(json.ok());
  CHECK((*json)["device"].as_string() == "emulator");
  CHECK((*json)["architecture"].as_string() == "sm_90a");
  CHECK((*json)["seed"].as_int() == 1);
  CHECK((*json)["verified"].as_int() == 6);  // the problem and its five other layouts
  CHECK((*json)["failures"].as_int() == 0);
  const Json& variant = (*json)["problems"].items().at(0)["variants"].items().at(0);
  CHECK(variant["passed"].as_bool());
  CHECK(variant["fault"].as_string().empty());
  CHECK(variant["cases"].items().size() > 12);
  for (const Json& one : variant["cases"].items()) {
    INFO(one["name"].as_string());
    CHECK(one["error_o"].as_double() > 0);
    CHECK(one["default"].as_bool());
  }
}

TEST_CASE(
    "verify --emulate reports a variant that is wrong, or where the emulator stopped it, with exit code 1") {
  struct Fault {
    const char* script;
    std::vector<std::string> told;
  };
  const Fault faults[] = {
      {"s/reverse = false/reverse = true/", {"o is off by"}},
      {"s/head_dim_v = 16/head_dim_v = 160/", {"launch: ", "block 0, thread ", " at channel_group.cuh:"}}};
  for (const Fault& fault : faults) {
    const Shell shell;
    const Outcome outcome =
        shell.run(fmt::format("verify --emulate {}", kDecode), faulty_compiler(shell, fault.script));
    INFO(fault.script << outcome.output << outcome.errors);
    CHECK(outcome.code == 1);
    CHECK(contains(outcome.errors, "FAILED recurrent_forward"));
    CHECK(contains(outcome.output, "0 of 1 verified variants pass"));
    for (const std::string& told : fault.told) CHECK(contains(outcome.errors, told));
  }
}

TEST_CASE("a compiler that does not run is one clear error, and costs an offline table its verification") {
  const Shell shell;
  const std::string missing = "CXX=/no/such/compiler";
  const Outcome verify = shell.run(fmt::format("verify --emulate {}", kDecode), missing);
  CHECK(verify.code == 4);
  CHECK(contains(verify.errors, "the emulator needs GCC"));
  CHECK(contains(verify.errors, "/no/such/compiler"));
  const Outcome old = shell.run(fmt::format("verify --emulate {}", kDecode),
                                fmt::format("CXX='{} -fno-such-option'", GLA_HOST_COMPILER));
  CHECK(old.code == 4);
  CHECK(contains(old.errors, "no-such-option"));

  if (!has_nvrtc()) return;
  const std::string path = shell.path("table.yaml");
  const Outcome tune = shell.run(
      "tune --arch sm_90a --op recurrent_forward --head-dims 16 --compile-top 1 "
      "--workload B8,T1,H4 -q -o " +
          path,
      missing);
  CHECK(tune.code == 0);
  CHECK(contains(tune.errors, "warning: nothing is verified"));
  const auto table = read_table(path);
  REQUIRE(table.ok());
  CHECK(table->problems.at(0).tally.verified == 0);
  CHECK(table->problems.at(0).points.at(0).error_o == 0);
}

TEST_CASE("an offline run refuses what the emulator finds wrong") {
  if (!has_nvrtc()) return;
  const Shell shell;
  const Outcome tune = shell.run(
      "tune --arch sm_90a --op recurrent_forward --head-dims 16 --compile-top 1 "
      "--workload B8,T1,H4 -o " +
          shell.path("table.yaml"),
      faulty_compiler(shell, "s/reverse = false/reverse = true/"));
  CHECK(tune.code == 1);
  CHECK(contains(tune.output, "1 refused (wrong 1)"));
  CHECK(contains(tune.errors, "refused (wrong)"));
}
