#include "journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace gla {
namespace {

constexpr int kJournalSchema = 1;

Json header(const JournalIdentity& identity) {
  return Json::object({{"kind", "journal"},
                       {"schema", kJournalSchema},
                       {"device", identity.device},
                       {"templates_hash", identity.templates_hash},
                       {"nvrtc", identity.nvrtc}});
}

Json line_of(const char* kind, const Problem& problem, const Variant& variant) {
  return Json::object({{"kind", kind}, {"problem", to_string(problem)}, {"variant", to_string(variant)}});
}

Status io_error(const std::string& path, const char* what) {
  return {StatusCode::io, fmt::format("journal {}: {}: {}", path, what, std::strerror(errno))};
}

template <class Map, class Key>
auto find_in(const Map& map, const Key& key) {
  const auto found = map.find(key);
  return found == map.end() ? nullptr : &found->second;
}

}  // namespace

Result<Journal> Journal::open(const std::string& path, const JournalIdentity& identity) {
  Journal journal;
  journal.path_ = path;
  std::error_code ignored;
  if (const auto folder = std::filesystem::path(path).parent_path(); !folder.empty())
    std::filesystem::create_directories(folder, ignored);

  // Before it is read: another run may be appending to it.
  if (Status status = journal.open_file(); !status.ok()) return status;
  std::string text;
  if (std::ifstream file(path, std::ios::binary); file) {
    std::ostringstream content;
    content << file.rdbuf();
    text = content.str();
  }
  // What stands behind the last newline was being written when the run ended.
  text.resize(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1);
  const std::string expected = header(identity).dump() + "\n";
  if (!text.empty() && text.compare(0, expected.size(), expected) != 0) {
    if (::rename(path.c_str(), (path + ".old").c_str()) != 0) return io_error(path, "cannot be set aside");
    if (Status status = journal.open_file(); !status.ok()) return status;
    journal.note_ =
        fmt::format("the journal {} is of another device, compiler or version; kept as {}.old", path, path);
    text.clear();
  }
  journal.read(text);

  if (::ftruncate(journal.file_, static_cast<off_t>(text.size())) != 0)
    return io_error(path, "cannot be cut");
  if (::lseek(journal.file_, 0, SEEK_END) < 0) return io_error(path, "cannot be extended");
  if (text.empty()) {
    const Json first = header(identity);
    if (Status status = journal.append({&first, 1}); !status.ok()) return status;
  }
  return journal;
}

Status Journal::open_file() {
  if (file_ >= 0) ::close(file_);
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (file_ < 0) return io_error(path_, "cannot be opened");
  // Held until the file is closed, also by a kill. A file system without locks does without.
  if (::flock(file_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    return {StatusCode::io,
            fmt::format("journal {}: another gla-tune is writing it; wait for it, or give another --output",
                        path_)};
  return {};
}

Journal::Journal(Journal&& other) noexcept
    : path_(std::move(other.path_)),
      note_(std::move(other.note_)),
      file_(std::exchange(other.file_, -1)),
      finished_(std::move(other.finished_)),
      verdicts_(std::move(other.verdicts_)),
      refusals_(std::move(other.refusals_)),
      timings_(std::move(other.timings_)) {}

Journal& Journal::operator=(Journal&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(note_, other.note_);
  std::swap(file_, other.file_);
  std::swap(finished_, other.finished_);
  std::swap(verdicts_, other.verdicts_);
  std::swap(refusals_, other.refusals_);
  std::swap(timings_, other.timings_);
  return *this;
}

Journal::~Journal() {
  if (file_ >= 0) ::close(file_);
}

void Journal::read(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (const auto json = parse_json(line); json.ok()) remember(*json);
}

void Journal::remember(const Json& line) {
  const std::string kind = line["kind"].as_string();
  const VariantKey key{line["problem"].as_string(), line["variant"].as_string()};
  if (kind == "verified") {
    verdicts_[key] = verdict_from_json(line["verdict"]);
  } else if (kind == "refused") {
    refusals_[key] = refusal_from_json(line["refusal"]);
  } else if (kind == "finished") {
    finished_.insert(key.first);
  } else if (kind == "measured") {
    timings_[{key.first, key.second, line["workload"].as_string()}] = timing_from_json(line["timing"]);
  }
}

std::vector<Variant> Journal::variants(const Problem& problem) const {
  const std::string name = to_string(problem);
  std::set<std::string> texts;
  const auto collect = [&](const auto& map) {
    for (auto entry = map.lower_bound({name, {}}); entry != map.end() && entry->first.first == name; ++entry)
      texts.insert(entry->first.second);
  };
  collect(verdicts_);
  collect(refusals_);
  std::vector<Variant> found;
  for (const std::string& text : texts)
    if (const auto variant = parse_variant(text); variant.ok()) found.push_back(*variant);
  return found;
}

const Verdict* Journal::verdict(const Problem& problem, const Variant& variant) const {
  return find_in(verdicts_, VariantKey{to_string(problem), to_string(variant)});
}

const Refusal* Journal::refusal(const Problem& problem, const Variant& variant) const {
  return find_in(refusals_, VariantKey{to_string(problem), to_string(variant)});
}

const Timing* Journal::timing(const Problem& problem, const Variant& variant,
                              const Workload& workload) const {
  return find_in(timings_, TimingKey{to_string(problem), to_string(variant), to_string(workload)});
}

Status Journal::add(const Problem& problem, const Variant& variant, const Verdict& verdict) {
  Json line = line_of("verified", problem, variant);
  line.set("verdict", to_json(verdict));
  return append({&line, 1});
}

Status Journal::add(const Problem& problem, const Variant& variant, const Refusal& refusal) {
  Json line = line_of("refused", problem, variant);
  line.set("refusal", to_json(refusal));
  return append({&line, 1});
}

Status Journal::add(const Problem& problem, const Variant& variant, std::span<const WorkloadTiming> timings) {
  std::vector<Json> lines;
  for (const WorkloadTiming& timed : timings) {
    lines.push_back(line_of("measured", problem, variant));
    lines.back().set("workload", to_string(timed.workload));
    lines.back().set("timing", to_json(timed.timing));
  }
  return append(lines);
}

Status Journal::finish(const Problem& problem) {
  const Json line = Json::object({{"kind", "finished"}, {"problem", to_string(problem)}});
  return append({&line, 1});
}

bool Journal::finished(const Problem& problem) const {
  return finished_.contains(to_string(problem));
}

Status Journal::append(std::span<const Json> lines) {
  std::string text;
  for (const Json& line : lines) {
    remember(line);
    text += line.dump() + "\n";
  }
  for (std::size_t written = 0; written < text.size();) {
    const ssize_t count = ::write(file_, text.data() + written, text.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error(path_, "cannot be written");
    written += static_cast<std::size_t>(count);
  }
  return ::fdatasync(file_) == 0 ? Status{} : io_error(path_, "cannot be flushed");
}

}  // namespace gla
