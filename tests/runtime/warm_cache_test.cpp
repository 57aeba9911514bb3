#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "catch.h"
#include "compiler.h"
#include "files.h"
#include "sample_table.h"

using namespace gla;
using namespace gla::test;

namespace {

/// NVRTC is opened once per process, so each step gets a process of its own.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

constexpr int kNoNvrtc = 7;

}  // namespace

TEST_CASE("a machine with a warm cache needs no NVRTC, one without says what it tried") {
  const TemporaryFolder folder;
  const Source source{"warm.cu", "extern \"C\" __global__ void kernel() {}\n", {"kernel"}};
  const auto get = [&](std::string* note) { return CubinCache(folder.path()).get(source, hopper(), note); };

  const auto without_nvrtc = [&](auto body) {
    return in_child([&] {
      ::setenv("GLA_NVRTC", "/nonexistent/libnvrtc.so", 1);
      return body();
    });
  };
  CHECK(without_nvrtc([&] {
          const Result<Cubin> cubin = get(nullptr);
          return cubin.status().code() == StatusCode::compile &&
                         cubin.status().message().find("/nonexistent/libnvrtc.so") != std::string::npos
                     ? 0
                     : 1;
        }) == 0);

  const int compiled =
      in_child([&] { return nvrtc_version().ok() ? (get(nullptr).ok() ? 0 : 1) : kNoNvrtc; });
  if (compiled == kNoNvrtc) {
    WARN("SKIPPED: no NVRTC");
    return;
  }
  REQUIRE(compiled == 0);
  CHECK(without_nvrtc([&] {
          std::string note;
          return get(&note).ok() && note == "loaded" ? 0 : 1;
        }) == 0);

  // Of several versions' entries, any that is whole serves.
  const std::filesystem::path entry = std::filesystem::directory_iterator(folder.path())->path();
  const std::string name = entry.filename().string();
  const std::filesystem::path newer =
      folder.path() / (name.substr(0, name.rfind("-nvrtc")) + "-nvrtc99.9.cubin");
  REQUIRE(write_file(newer, "damaged").ok());
  CHECK(without_nvrtc([&] {
          std::string note;
          return get(&note).ok() && note.find("damaged cache entry " + newer.string()) == 0 ? 0 : 1;
        }) == 0);
  REQUIRE(write_file(entry, "damaged").ok());
  CHECK(without_nvrtc([&] {
          std::string note;
          return !get(&note).ok() && note.find("damaged cache entry ") == 0 &&
                         note.find("compiled anew") == std::string::npos
                     ? 0
                     : 1;
        }) == 0);
}
