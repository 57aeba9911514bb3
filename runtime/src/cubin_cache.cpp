// An entry is a few lines of text and the images:
//   gla-cubin 2
//   <SHA-256 of everything after this line>
//   <key>
//   <number of entries>, then one line each: registers, spilled bytes, static shared bytes, name
//   <number of images>, then one line each: its bytes; then the images
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

#include "compile_options.h"
#include "compiler.h"
#include "files.h"
#include "sha256.h"

namespace gla {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "gla-cubin 2\n";
constexpr std::size_t kChecksumDigits = 64;

/// Covers all that decides the entry except NVRTC's version, which the file name adds.
std::string key_of(const Source& source, const Architecture& architecture) {
  return sha256(fmt::format("{}{}\n{}\n{}\n{}\n{}", kMagic, source.name, templates_hash(),
                            fmt::join(compile_options(architecture), " "), fmt::join(source.entries, " "),
                            source.text))
      .substr(0, 32);
}

/// The file name up to NVRTC's version: readable in front, unique behind.
std::string stem_of(const Source& source, const std::string& key) {
  std::string stem = source.name.substr(0, source.name.find('.'));
  for (char& c : stem) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_') c = '-';
  }
  return fmt::format("{}-{}-nvrtc", stem.substr(0, 64), key);
}

std::string encode(const Cubin& cubin, const std::string& key) {
  std::string body = fmt::format("{}\n{}\n", key, cubin.entries.size());
  for (std::size_t i = 0; i < cubin.entries.size(); ++i) {
    const KernelResources& resources = cubin.resources[i];
    body += fmt::format("{} {} {} {}\n", resources.registers, resources.spill_bytes, resources.shared_bytes,
                        cubin.entries[i]);
  }
  body += fmt::format("{}\n", cubin.images.size());
  for (const std::string& image : cubin.images) body += fmt::format("{}\n", image.size());
  for (const std::string& image : cubin.images) body += image;
  return fmt::format("{}{}\n{}", kMagic, sha256(body), body);
}

/// Takes lines and numbers off the front of an entry whose checksum has been found good.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  std::string_view until(char end) {
    const std::string_view taken = text_.substr(0, text_.find(end));
    text_.remove_prefix(std::min(taken.size() + 1, text_.size()));
    return taken;
  }
  template <class Number>
  Number number(char end) {
    const std::string_view digits = until(end);
    Number value{};
    std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return value;
  }
  std::string_view take(std::size_t bytes) {
    const std::string_view taken = text_.substr(0, bytes);
    text_.remove_prefix(taken.size());
    return taken;
  }
  bool is_empty() const { return text_.empty(); }

 private:
  std::string_view text_;
};

Result<Cubin> decode(std::string_view file, const std::string& key, const std::vector<std::string>& entries) {
  const auto damaged = [](const char* why) { return Status{StatusCode::format, why}; };
  if (!file.starts_with(kMagic)) return damaged("not an entry of this version");
  file.remove_prefix(kMagic.size());
  if (file.size() <= kChecksumDigits || file[kChecksumDigits] != '\n') return damaged("cut short");
  const std::string_view checksum = file.substr(0, kChecksumDigits);
  const std::string_view body = file.substr(kChecksumDigits + 1);
  if (sha256(body) != checksum) return damaged("checksum differs");

  Reader reader(body);
  if (reader.until('\n') != key) return damaged("belongs to another key");
  Cubin cubin;
  const std::size_t count = reader.number<std::size_t>('\n');
  if (count != entries.size()) return damaged("has other entries");
  for (std::size_t i = 0; i < count; ++i) {
    KernelResources& resources = cubin.resources.emplace_back();
    resources.registers = reader.number<int>(' ');
    resources.spill_bytes = reader.number<int>(' ');
    resources.shared_bytes = reader.number<std::int64_t>(' ');
    cubin.entries.emplace_back(reader.until('\n'));
  }
  if (cubin.entries != entries) return damaged("has other entries");
  const std::size_t images = reader.number<std::size_t>('\n');
  if (images != 1 && images != count) return damaged("has another number of images");
  std::vector<std::size_t> sizes(images);
  for (std::size_t& bytes : sizes) bytes = reader.number<std::size_t>('\n');
  for (const std::size_t bytes : sizes) {
    cubin.images.emplace_back(reader.take(bytes));
    if (cubin.images.back().size() != bytes) return damaged("an image is cut short");
  }
  if (!reader.is_empty()) return damaged("has more than its images");
  return cubin;
}

/// The entry that NVRTC `version` made or, without a version, those that any NVRTC did, newest first.
std::vector<fs::path> find_entries(const fs::path& folder, const std::string& stem,
                                   const Result<std::string>& version) {
  std::vector<fs::path> found;
  std::error_code error;
  if (version.ok()) {
    fs::path path = folder / fmt::format("{}{}.cubin", stem, *version);
    if (fs::exists(path, error)) found.push_back(std::move(path));
    return found;
  }
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with(stem) && name.ends_with(".cubin")) found.push_back(at->path());
  }
  std::sort(found.begin(), found.end(), std::greater<>());
  return found;
}

}  // namespace

CubinCache::CubinCache(std::string folder) : folder_(std::move(folder)) {}

std::string CubinCache::default_folder() {
  if (std::string given = environment("GLA_CACHE_DIR"); !given.empty()) return given;
  return user_folder("XDG_CACHE_HOME", ".cache").string();
}

Result<Cubin> CubinCache::get(const Source& source, const Architecture& architecture, std::string* note) {
  const std::string key = key_of(source, architecture);
  const std::string stem = stem_of(source, key);
  const Result<std::string> version = nvrtc_version();
  std::string damage;

  if (!folder_.empty()) {
    for (const fs::path& path : find_entries(folder_, stem, version)) {
      const Result<std::string> file = read_file(path);
      Result<Cubin> cubin = file.ok() ? decode(*file, key, source.entries) : Result<Cubin>(file.status());
      if (cubin.ok()) {
        if (note != nullptr) *note = damage.empty() ? "loaded" : damage + "another version's is loaded";
        return cubin;
      }
      damage = fmt::format("damaged cache entry {}: {}; ", path.string(), cubin.status().message());
    }
  }

  Result<Cubin> cubin = compile(source, architecture);
  std::string said = !cubin.ok()      ? damage + "cannot be compiled"
                     : damage.empty() ? "compiled"
                                      : damage + "compiled anew";
  if (cubin.ok() && !folder_.empty()) {
    const fs::path target = fs::path(folder_) / fmt::format("{}{}.cubin", stem, *version);
    const Status written = write_file(target, encode(*cubin, key));
    if (!written.ok() && !write_failure_reported_.exchange(true))
      said = fmt::format("cubin cache is not written: {}; every process compiles anew", written.message());
  }
  if (note != nullptr) *note = said;
  return cubin;
}

}  // namespace gla
