#include "nvrtc_library.h"

#include <algorithm>
#include <cstdlib>

#include "catch.h"
#include "sample_table.h"

using namespace gla;
using namespace gla::test;

namespace {

/// An environment variable for the length of a test.
class Setting {
  std::string name_, before_;
  bool was_set_;

 public:
  Setting(const char* name, const std::string& value) : name_(name), was_set_(std::getenv(name) != nullptr) {
    if (was_set_) before_ = std::getenv(name);
    ::setenv(name, value.c_str(), 1);
  }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;
  ~Setting() { was_set_ ? ::setenv(name_.c_str(), before_.c_str(), 1) : ::unsetenv(name_.c_str()); }
};

/// Where `path` stands in `tried`; it must be there.
std::ptrdiff_t rank(const std::vector<std::string>& tried, const std::string& path) {
  const auto found = std::find(tried.begin(), tried.end(), path);
  INFO(path);
  REQUIRE(found != tried.end());
  return found - tried.begin();
}

}  // namespace

TEST_CASE("GLA_NVRTC is the only one tried") {
  const Setting given("GLA_NVRTC", "/mine/libnvrtc.so");
  CHECK(nvrtc::candidates("/site-packages/gla_tune/lib") == std::vector<std::string>{"/mine/libnvrtc.so"});
}

TEST_CASE("NVRTC is looked for by the loader, in CUDA_PATH, beside the package, in the virtual environment") {
  const TemporaryFolder venv;
  const std::string packages = venv.path() / "lib/python3.11/site-packages";
  std::filesystem::create_directories(packages);
  const Setting given("GLA_NVRTC", "");
  const Setting cuda("CUDA_PATH", "/cuda");
  const Setting no_other_cuda("CUDA_HOME", "");
  const Setting active("VIRTUAL_ENV", venv.path());

  const std::vector<std::string> tried = nvrtc::candidates("/elsewhere/site-packages/gla_tune/lib");
  const std::vector<std::ptrdiff_t> ranks = {
      rank(tried, "libnvrtc.so.13"),
      rank(tried, "libnvrtc.so.12"),
      rank(tried, "/cuda/lib64/libnvrtc.so.13"),
      rank(tried, "/elsewhere/site-packages/nvidia/cu13/lib/libnvrtc.so.13"),
      rank(tried, "/elsewhere/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
      rank(tried, packages + "/nvidia/cu13/lib/libnvrtc.so.13"),
      rank(tried, packages + "/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"),
      rank(tried, "/usr/local/cuda/lib64/libnvrtc.so.13"),
  };
  CHECK(std::is_sorted(ranks.begin(), ranks.end()));
}

TEST_CASE("a library whose folder is unknown looks for no NVRTC in the working directory") {
  const Setting given("GLA_NVRTC", "");
  for (const std::string& path : nvrtc::candidates({})) CHECK(path.find("nvidia/") != 0);
}
