#include "nvrtc_library.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "files.h"

namespace gla::nvrtc {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 2> kNames = {"libnvrtc.so.13", "libnvrtc.so.12"};

void add_names(std::vector<std::string>& tried, const fs::path& folder) {
  for (const std::string_view name : kNames) tried.push_back((folder / name).string());
}

/// The wheels nvidia-cuda-nvrtc (nvidia/cu13/lib) and nvidia-cuda-nvrtc-cu12 (nvidia/cuda_nvrtc/lib) below
/// `root`.
void add_wheels(std::vector<std::string>& tried, const fs::path& root) {
  for (const char* package : {"cu13", "cuda_nvrtc"}) add_names(tried, root / "nvidia" / package / "lib");
}

std::string path_of(const void* symbol, const std::string& opened_as) {
  Dl_info info{};
  return dladdr(symbol, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : opened_as;
}

Result<const Api*> use(void* library, const std::string& name) {
  static Api api;
  std::string missing;
#define GLA_RESOLVE(name)                                                 \
  api.name = reinterpret_cast<decltype(api.name)>(dlsym(library, #name)); \
  if (api.name == nullptr) missing += " " #name;
  GLA_NVRTC_FUNCTIONS(GLA_RESOLVE)
#undef GLA_RESOLVE
  if (!missing.empty()) return Status{StatusCode::compile, fmt::format("{} lacks{}", name, missing)};
  int major = 0;
  int minor = 0;
  if (api.nvrtcVersion(&major, &minor) != NVRTC_SUCCESS)
    return Status{StatusCode::compile, fmt::format("{}: nvrtcVersion failed", name)};
  api.path = path_of(reinterpret_cast<const void*>(api.nvrtcVersion), name);
  api.version = fmt::format("{}.{}", major, minor);
  // NVRTC opens this by name when it first compiles. In a wheel's folder the loader would not find it, unless
  // it is loaded already; where it is on the loader's path, this one is not needed.
  const fs::path builtins =
      fs::path(api.path).parent_path() / fmt::format("libnvrtc-builtins.so.{}", api.version);
  (void)dlopen(builtins.c_str(), RTLD_LAZY | RTLD_GLOBAL);
  return &api;
}

Result<const Api*> open() {
  const std::vector<std::string> names = candidates(own_folder());
  for (const std::string& name : names) {
    if (void* library = dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL)) return use(library, name);
  }
  return Status{StatusCode::compile,
                fmt::format("NVRTC not found; tried {}. Install the CUDA toolkit or the Python package "
                            "nvidia-cuda-nvrtc, or set GLA_NVRTC to the path of libnvrtc.so",
                            fmt::join(names, ", "))};
}

}  // namespace

std::vector<std::string> candidates(const fs::path& own_folder) {
  if (const std::string given = environment("GLA_NVRTC"); !given.empty()) return {given};
  std::vector<std::string> tried(kNames.begin(), kNames.end());
  for (const char* variable : {"CUDA_PATH", "CUDA_HOME"}) {
    if (const std::string root = environment(variable); !root.empty())
      add_names(tried, fs::path(root) / "lib64");
  }
  // In a wheel libgla is site-packages/gla_tune/lib/libgla.so.1, and NVIDIA's wheels are beside gla_tune.
  if (!own_folder.empty()) add_wheels(tried, own_folder.parent_path().parent_path());
  if (const std::string root = environment("VIRTUAL_ENV"); !root.empty()) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(fs::path(root) / "lib", error))
      add_wheels(tried, entry.path() / "site-packages");
  }
  add_names(tried, "/usr/local/cuda/lib64");
#ifdef GLA_BUILD_WHEELS
  add_wheels(tried, GLA_BUILD_WHEELS);
#endif
  return tried;
}

Result<const Api*> api() {
  static const Result<const Api*> opened = open();
  return opened;
}

}  // namespace gla::nvrtc
