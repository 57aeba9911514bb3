// A child that answers, hangs, crashes or is not there.
#include "child_process.h"

#include <chrono>
#include <cmath>
#include <filesystem>

#include "catch.h"
#include "temporary_folder.h"
#include "worker.h"

using namespace gla;

namespace {

ChildProcess shell(const std::string& script) {
  auto child = ChildProcess::start({"/bin/sh", "-c", script});
  REQUIRE(child.ok());
  return *std::move(child);
}

}  // namespace

TEST_CASE("lines are answered with lines, however long") {
  ChildProcess child = shell("exec cat");
  for (const std::string& line : {std::string("hello"), std::string(100000, 'x'), std::string("bye")}) {
    const auto reply = child.ask(line, 10);
    REQUIRE(reply.line);
    CHECK(*reply.line == line);
  }
}

TEST_CASE("a child that hangs is ended after the timeout") {
  ChildProcess child = shell("read line; exec sleep 60");
  const auto start = std::chrono::steady_clock::now();
  const auto reply = child.ask("work", 0.2);
  CHECK_FALSE(reply.line);
  CHECK(reply.timed_out);
  CHECK_FALSE(child.running());
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
}

TEST_CASE("a crash says which signal, an exit says which code") {
  ChildProcess crashes = shell("read line; kill -SEGV $$");
  const auto crash = crashes.ask("work", 10);
  CHECK_FALSE(crash.line);
  CHECK_FALSE(crash.timed_out);
  CHECK(crash.failure.find("signal 11") != std::string::npos);
  ChildProcess exits = shell("read line; exit 3");
  CHECK(exits.ask("work", 10).failure == "ended with code 3");
  CHECK(exits.ask("more", 10).failure == "not running");
}

TEST_CASE("an executable that does not exist is a failure to answer, not a hang") {
  auto child = ChildProcess::start({"/no/such/program"});
  REQUIRE(child.ok());
  CHECK(child->listen(10).failure == "ended with code 127");
}

TEST_CASE("an error that is not a number comes from the worker as infinite, not as none") {
  const TemporaryFolder folder;
  const std::string worker = folder / "worker";
  write_content(
      worker,
      "#!/bin/sh\n"
      "echo '{\"hello\": true}'\n"
      "read request\n"
      "echo '{\"value\": [{\"name\": \"dense\", \"error_o\": null, \"error_state\": 0.5, \"worst_o\": null, "
      "\"worst_state\": 0.5, \"standard\": false, \"fast\": false, \"detail\": \"o\"}], \"alive\": true}'\n");
  std::filesystem::permissions(worker, std::filesystem::perms::owner_all);
  const auto laboratory = WorkerLaboratory::start({worker, 0, folder / "cache"});
  REQUIRE(laboratory.ok());
  const auto answer = (*laboratory)->verify_fully(Problem{}, Variant{});
  REQUIRE(answer.value.cases.size() == 1);
  CHECK(std::isinf(answer.value.cases[0].errors.o));
  CHECK(std::isinf(answer.value.cases[0].worst.o));
  CHECK(answer.value.cases[0].errors.final_state == 0.5);
  CHECK(std::isinf(answer.value.verdict.error_o));
}
