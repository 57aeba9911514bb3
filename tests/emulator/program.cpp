#include "program.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace gla::emulator {
namespace {

namespace fs = std::filesystem;

// -fno-gnu-unique: two programs may give different values to a variable of one name. Aliasing: as lax as
// NVCC. Accesses to memory call instrumentation.cpp; undefined behaviour, unaligned vectors included, traps.
constexpr const char* kCompile = GLA_EMULATOR_COMPILER
    " -c -std=c++20 -O1 -g1 -fPIC -fno-strict-aliasing -fno-gnu-unique -Wall -Wextra -DGLA_EMULATOR"
    " -fsanitize=thread --param tsan-instrument-func-entry-exit=0"
    " -fsanitize=undefined -fno-sanitize=vptr,float-divide-by-zero -fsanitize-undefined-trap-on-error"
    " -I " GLA_TEMPLATES_FOLDER " -I " GLA_EMULATOR_FOLDER;
// Linked without the sanitizer's runtime.
constexpr const char* kLink = GLA_EMULATOR_COMPILER " -shared";

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write(const fs::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw std::runtime_error("cannot write " + path.string());
}

/// FNV-1a, 64 bits.
std::uint64_t hash(std::string_view text, std::uint64_t seed) {
  for (const char c : text) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return seed;
}

/// The compiler, its options and every file that a program may include.
std::uint64_t environment_hash() {
  std::vector<fs::path> files{fs::path(GLA_EMULATOR_FOLDER) / "emulator.h"};
  for (const auto& entry : fs::recursive_directory_iterator(GLA_TEMPLATES_FOLDER)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::uint64_t result = hash(GLA_EMULATOR_COMPILER_VERSION, hash(kCompile, 0xcbf29ce484222325u));
  for (const fs::path& file : files) result = hash(read(file), hash(file.string(), result));
  return result;
}

/// Runs a compiler command; throws with its messages if it fails.
void run_compiler(const std::string& command, const fs::path& log) {
  const int status = std::system((command + " 2> '" + log.string() + "'").c_str());
  const std::string messages = read(log);
  fs::remove(log);
  if (status != 0) throw std::runtime_error(command + "\n" + messages);
  if (!messages.empty()) std::fprintf(stderr, "%s", messages.c_str());
}

void compile(const fs::path& source, const fs::path& library) {
  const std::string unique = library.string() + "." + std::to_string(getpid());
  const fs::path object = unique + ".o";
  run_compiler(std::string(kCompile) + " '" + source.string() + "' -o '" + object.string() + "'",
               unique + ".log");
  run_compiler(std::string(kLink) + " '" + object.string() + "' -o '" + unique + "'", unique + ".log");
  fs::remove(object);
  fs::rename(unique, library);
}

}  // namespace

Program Program::build(const std::string& name, std::string_view text) {
  static const std::uint64_t environment = environment_hash();
  char key[17];
  std::snprintf(key, sizeof key, "%016llx", static_cast<unsigned long long>(hash(text, environment)));
  const fs::path folder = GLA_EMULATOR_CACHE;
  const fs::path object = folder / (name + "." + key + ".so");
  if (!fs::exists(object)) {
    fs::create_directories(folder);
    const fs::path source = folder / (name + "." + key + ".cpp");
    write(source, text);
    compile(source, object);
  }
  void* handle = dlopen(object.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  return Program(std::shared_ptr<void>(handle, dlclose));
}

void* Program::find(const std::string& entry) const {
  void* symbol = dlsym(object_.get(), entry.c_str());
  if (symbol == nullptr) throw std::runtime_error(dlerror());
  return symbol;
}

}  // namespace gla::emulator
