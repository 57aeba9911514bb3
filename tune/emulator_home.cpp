#include "emulator_home.h"

#include <fmt/format.h>

#include "check.h"
#include "files.h"

namespace gla {
namespace {

namespace fs = std::filesystem;

Status write_where_missing(const fs::path& folder, std::span<const EmbeddedFile> files) {
  for (const EmbeddedFile& file : files) {
    const auto there = read_file(folder / file.name);
    if (there.ok() && *there == file.text) continue;
    GLA_RETURN_IF_ERROR(write_file(folder / file.name, file.text));
  }
  return {};
}

}  // namespace

std::string host_compiler() {
  if (std::string chosen = environment("CXX"); !chosen.empty()) return chosen;
  std::error_code ignored;
  return fs::exists(GLA_HOST_COMPILER, ignored) ? GLA_HOST_COMPILER : "c++";
}

Result<emulator::Toolchain> emulator_toolchain(const fs::path& folder) {
  const fs::path headers = folder / fmt::format("headers-{}-{}", templates_hash(), emulator_hash());
  GLA_RETURN_IF_ERROR(write_where_missing(headers, embedded_templates()));
  GLA_RETURN_IF_ERROR(write_where_missing(headers, embedded_emulator()));
  try {
    emulator::Toolchain toolchain(host_compiler(), {headers}, folder / "programs");
    emulator::Program::build("probe", "#include \"device/thread.cuh\"\n", toolchain);
    toolchain.precompile_headers();
    return toolchain;
  } catch (const std::exception& error) {
    return Status{StatusCode::compile,
                  fmt::format("the emulator needs GCC as its C++ compiler, 12 or later: {}\nInstall it, or "
                              "name it in the environment variable CXX.",
                              error.what())};
  }
}

}  // namespace gla
