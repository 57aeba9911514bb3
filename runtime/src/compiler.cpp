#include "compiler.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <thread>
#include <utility>

#include "compile_options.h"
#include "nvrtc_library.h"

namespace gla {
namespace {

struct Header {
  std::string name;
  std::string text;
};

/// NVRTC finds a header in memory by its literal name only: in the headers of a folder, names relative to
/// that folder become names from the root, as a compiler that reads files would resolve them.
std::string with_names_from_root(const EmbeddedFile& file) {
  const std::size_t slash = file.name.rfind('/');
  std::string text(file.text);
  if (slash == std::string_view::npos) return text;
  const std::string_view folder = file.name.substr(0, slash + 1);
  constexpr std::string_view kInclude = "#include \"";
  for (std::size_t at = text.find(kInclude); at != std::string::npos; at = text.find(kInclude, at)) {
    at += kInclude.size();
    const std::string beside = std::string(folder) + text.substr(at, text.find('"', at) - at);
    const auto is_beside = [&](const EmbeddedFile& other) { return other.name == beside; };
    if (std::any_of(embedded_templates().begin(), embedded_templates().end(), is_beside))
      text.insert(at, folder);
  }
  return text;
}

const std::vector<Header>& headers() {
  static const std::vector<Header> all = [] {
    std::vector<Header> made;
    for (const EmbeddedFile& file : embedded_templates())
      made.push_back({std::string(file.name), with_names_from_root(file)});
    return made;
  }();
  return all;
}

class Program {
 public:
  Program(const nvrtc::Api& api, const std::string& name, const std::string& text) : api_(api) {
    std::vector<const char*> name_pointers, text_pointers;
    for (const Header& header : headers()) {
      name_pointers.push_back(header.name.c_str());
      text_pointers.push_back(header.text.c_str());
    }
    result_ =
        api.nvrtcCreateProgram(&program_, text.c_str(), name.c_str(), static_cast<int>(name_pointers.size()),
                               text_pointers.data(), name_pointers.data());
  }
  ~Program() {
    if (program_ != nullptr) (void)api_.nvrtcDestroyProgram(&program_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  nvrtcResult compile(const std::vector<std::string>& options) {
    if (result_ != NVRTC_SUCCESS) return result_;
    std::vector<const char*> pointers;
    for (const std::string& option : options) pointers.push_back(option.c_str());
    return result_ = api_.nvrtcCompileProgram(program_, static_cast<int>(pointers.size()), pointers.data());
  }

  std::string log() const {
    std::string content = text(api_.nvrtcGetProgramLogSize, api_.nvrtcGetProgramLog);
    while (!content.empty() && (content.back() == '\0' || content.back() == '\n')) content.pop_back();
    return content;
  }
  std::string image() const { return text(api_.nvrtcGetCUBINSize, api_.nvrtcGetCUBIN); }

 private:
  template <class Size, class Get>
  std::string text(Size size, Get get) const {
    std::size_t bytes = 0;
    if (program_ == nullptr || size(program_, &bytes) != NVRTC_SUCCESS) return {};
    std::string content(bytes, '\0');
    if (get(program_, content.data()) != NVRTC_SUCCESS) return {};
    return content;
  }

  const nvrtc::Api& api_;
  nvrtcProgram program_ = nullptr;
  nvrtcResult result_ = NVRTC_SUCCESS;
};

/// What is compiled into one image each.
std::vector<std::string> units_of(const Source& source) {
  const std::vector<std::size_t>& begins = source.begins;
  if (begins.size() < 2) return {source.text};
  std::vector<std::string> units;
  for (std::size_t i = 0; i < begins.size(); ++i) {
    const std::size_t end = i + 1 < begins.size() ? begins[i + 1] : source.text.size();
    units.push_back(source.text.substr(0, begins[0]) + source.text.substr(begins[i], end - begins[i]));
  }
  return units;
}

struct Compiled {
  Status status;
  std::string image, log;
};

Compiled compile_unit(const nvrtc::Api& api, const Source& source, const std::string& text,
                      const Architecture& architecture) {
  const auto failure = [&](std::string_view reason) {
    return Status{StatusCode::compile,
                  fmt::format("{} for sm_{}: {}", source.name, architecture.name, reason)};
  };
  Program program(api, source.name, text);
  Compiled compiled;
  const nvrtcResult result = program.compile(compile_options(architecture));
  compiled.log = program.log();
  if (result != NVRTC_SUCCESS) {
    compiled.status =
        failure(fmt::format("{} (NVRTC {})\n{}", api.nvrtcGetErrorString(result), api.version, compiled.log));
    return compiled;
  }
  compiled.image = program.image();
  if (compiled.image.empty())
    compiled.status = failure(fmt::format("NVRTC {} made no machine code", api.version));
  return compiled;
}

/// The number right before `unit` in `line`: 32 in "Used 32 registers" for " registers".
int number_before(std::string_view line, std::string_view unit) {
  const std::size_t end = line.find(unit);
  if (end == std::string_view::npos) return 0;
  std::size_t begin = end;
  while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
  int value = 0;
  std::from_chars(line.data() + begin, line.data() + end, value);
  return value;
}

std::string_view between(std::string_view line, std::string_view before, char after) {
  const std::size_t begin = line.find(before);
  if (begin == std::string_view::npos) return {};
  line.remove_prefix(begin + before.size());
  return line.substr(0, line.find(after));
}

}  // namespace

std::vector<KernelResources> parse_resources(std::string_view log, const std::vector<std::string>& entries) {
  std::vector<KernelResources> resources(entries.size());
  KernelResources* current = nullptr;
  while (!log.empty()) {
    const std::string_view line = log.substr(0, log.find('\n'));
    log.remove_prefix(std::min(line.size() + 1, log.size()));
    if (const std::string_view name = between(line, "Compiling entry function '", '\''); !name.empty()) {
      const auto found = std::find(entries.begin(), entries.end(), name);
      current =
          found == entries.end() ? nullptr : &resources[static_cast<std::size_t>(found - entries.begin())];
    } else if (current != nullptr) {
      // Functions that were not inlined report their own spills: they are the entry's too.
      current->spill_bytes +=
          number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
      if (const int registers = number_before(line, " registers"); registers > 0) {
        current->registers = registers;
        current->shared_bytes = number_before(line, " bytes smem");
      }
    }
  }
  return resources;
}

std::vector<std::string> compile_options(const Architecture& architecture) {
  return {"--gpu-architecture=sm_" + architecture.name, "--std=c++20", "--ptxas-options=-v"};
}

Result<std::string> nvrtc_version() {
  const Result<const nvrtc::Api*> api = nvrtc::api();
  if (!api.ok()) return api.status();
  return (*api)->version;
}

Result<Cubin> compile(const Source& source, const Architecture& architecture) {
  const Result<const nvrtc::Api*> api = nvrtc::api();
  if (!api.ok()) return api.status();
  const std::vector<std::string> units = units_of(source);
  std::vector<Compiled> compiled(units.size());
  const auto work = [&](std::size_t i) { compiled[i] = compile_unit(**api, source, units[i], architecture); };
  {
    std::vector<std::jthread> helpers;
    for (std::size_t i = 1; i < units.size(); ++i) helpers.emplace_back(work, i);
    work(0);
  }
  Cubin cubin;
  std::string log;
  for (Compiled& one : compiled) {
    if (!one.status.ok()) return one.status;
    cubin.images.push_back(std::move(one.image));
    log += one.log + '\n';
  }
  cubin.entries = source.entries;
  cubin.resources = parse_resources(log, source.entries);
  return cubin;
}

}  // namespace gla
