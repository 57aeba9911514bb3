#include "program.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <utility>

#include "command.h"

namespace gla::emulator {
namespace {

namespace fs = std::filesystem;

// -fno-gnu-unique: two programs may give different values to a variable of one name. Aliasing: as lax as
// NVCC. Undefined behaviour, unaligned vectors included, traps; an access through null does by itself. psabi: GCC tells that
// 64-byte aligned parameters are newer than GCC 4.6. -Og: a program takes longer to compile than to run; what is inlined all the
// same is what source_line() names the kernel's line of.
constexpr const char* kCompileOptions =
    " -c -std=c++20 -Og -finline-small-functions -finline-functions-called-once -g1 -fPIC "
    "-fno-strict-aliasing -fno-gnu-unique -Wno-psabi "
    "-DGLA_EMULATOR"
    " -fsanitize=undefined -fno-sanitize=vptr,float-divide-by-zero,null,pointer-overflow"
    " -fsanitize-undefined-trap-on-error";
constexpr const char* kLinkOptions = " -shared";
// Accesses to memory call instrumentation.cpp: linked without the sanitizer's runtime.
constexpr const char* kTellAccesses = " -fsanitize=thread --param tsan-instrument-func-entry-exit=0";
// Warnings cost an eighth of a compilation: where few programs are compiled, of each kernel one.
constexpr const char* kCheckAddresses = " -fsanitize=address -Wall -Wextra";

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// A name beside `path` that no other thread or process uses.
fs::path temporary_beside(const fs::path& path) {
  static std::atomic<int> counter{0};
  return path.string() + "." + std::to_string(getpid()) + "." + std::to_string(counter++);
}

void write(const fs::path& path, std::string_view text) {
  const fs::path made = temporary_beside(path);
  std::ofstream file(made, std::ios::binary);
  file << text;
  if (!file.flush()) throw std::runtime_error("cannot write " + made.string());
  fs::rename(made, path);
}

std::string quoted(const fs::path& path) {
  return std::string("'").append(path.string()).append("'");
}

/// FNV-1a, 64 bits.
std::uint64_t hash(std::string_view text, std::uint64_t seed) {
  for (const char c : text) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return seed;
}

std::string hex(std::uint64_t number) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(number));
  return digits;
}

/// Every header that a program may include, in an order that does not depend on the file system.
std::vector<fs::path> headers_of(const std::vector<fs::path>& folders) {
  std::vector<fs::path> files;
  for (const fs::path& folder : folders) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const fs::path extension = entry.path().extension();
      if (extension == ".h" || extension == ".cuh") files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

void run_compiler(const std::string& command) {
  const CommandResult result = run_command(command + " 2>&1");
  if (result.status != 0) throw std::runtime_error(command + "\n" + result.output);
  if (!result.output.empty()) std::fprintf(stderr, "%s", result.output.c_str());
}

void compile(const Toolchain& toolchain, const fs::path& source, const fs::path& library) {
  const fs::path made = temporary_beside(library);
  const fs::path object = made.string() + ".o";
  run_compiler(toolchain.compile_command() + " " + quoted(source) + " -o " + quoted(object));
  run_compiler(toolchain.link_command() + " " + quoted(object) + " -o " + quoted(made));
  fs::remove(object);
  fs::rename(made, library);
}

}  // namespace

Toolchain::Toolchain(const std::string& compiler, const std::vector<fs::path>& includes, fs::path cache,
                     Checks checks)
    : compile_command_(compiler + kCompileOptions),
      link_command_(compiler + kLinkOptions),
      includes_(includes),
      cache_(std::move(cache)),
      accesses_(checks == Checks::accesses ? Accesses::told : Accesses::unseen) {
  compile_command_ += checks == Checks::accesses ? kTellAccesses : kCheckAddresses;
  if (checks == Checks::addresses) link_command_ += kCheckAddresses;
  const CommandResult version = run_command(compiler + " --version 2>&1");
  if (version.status != 0)
    throw std::runtime_error("the C++ compiler `" + compiler + "` does not run: " + version.output);
  for (const fs::path& folder : includes) compile_command_ += " -I " + quoted(folder);
  fingerprint_ = hash(version.output, hash(compile_command_, 0xcbf29ce484222325u));
  for (const fs::path& file : headers_of(includes))
    fingerprint_ = hash(read(file), hash(file.string(), fingerprint_));
}

void Toolchain::precompile_headers() {
  const fs::path header = cache_ / ("headers." + hex(fingerprint_) + ".h"), made = header.string() + ".gch";
  if (!fs::exists(made)) {
    std::string text;
    for (const fs::path& folder : includes_)
      for (const fs::path& file : headers_of({folder}))
        if (file.extension() == ".cuh") text += "#include \"" + fs::relative(file, folder).string() + "\"\n";
    fs::create_directories(cache_);
    write(header, text);
    const fs::path fresh = temporary_beside(made);
    run_compiler(compile_command_ + " -x c++-header " + quoted(header) + " -o " + quoted(fresh));
    fs::rename(fresh, made);
  }
  compile_command_ += " -Winvalid-pch -include " + quoted(header);
}

Program Program::build(const std::string& name, std::string_view text, const Toolchain& toolchain) {
  const std::string key = hex(hash(text, toolchain.fingerprint()));
  const fs::path object = toolchain.cache() / (name + "." + key + ".so");
  if (!fs::exists(object)) {
    fs::create_directories(toolchain.cache());
    const fs::path source = toolchain.cache() / (name + "." + key + ".cpp");
    write(source, text);
    compile(toolchain, source, object);
  }
  void* handle = dlopen(object.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(dlerror());
  return {std::shared_ptr<void>(handle, dlclose), toolchain.accesses()};
}

void* Program::find(const std::string& entry) const {
  void* symbol = dlsym(object_.get(), entry.c_str());
  if (symbol == nullptr) throw std::runtime_error(dlerror());
  return symbol;
}

}  // namespace gla::emulator
