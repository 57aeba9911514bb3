#include "files.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>

namespace gla {
namespace {

Status io_error(std::string_view what, const std::filesystem::path& path, int error) {
  return {StatusCode::io, fmt::format("{}: {}: {}", path.string(), what, std::strerror(error))};
}

bool write_all(int file, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(file, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace

Result<std::string> read_file(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return io_error("cannot be read", path, EISDIR);
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error("cannot be opened", path, errno);
  std::string content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) return io_error("cannot be read", path, errno);
  return content;
}

Status write_file(const std::filesystem::path& path, std::string_view content) {
  if (path.has_parent_path()) {
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    if (error) return io_error("folder cannot be made", path.parent_path(), error.value());
  }
  std::string temporary = path.string() + ".XXXXXX";
  const int file = ::mkstemp(temporary.data());
  if (file < 0) return io_error("cannot be written", path, errno);
  // mkstemp's 0600 would hide a shared folder's entries from other users.
  const bool written = write_all(file, content) && ::fchmod(file, 0644) == 0 && ::fsync(file) == 0;
  int error = written ? 0 : errno;
  if (::close(file) != 0 && error == 0) error = errno;
  if (error == 0 && std::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return {};
  ::unlink(temporary.c_str());
  return io_error("cannot be written", path, error);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::filesystem::path user_folder(const char* variable, const char* fallback) {
  if (const std::string base = environment(variable); !base.empty())
    return std::filesystem::path(base) / "gla-tune";
  if (const std::string home = environment("HOME"); !home.empty())
    return std::filesystem::path(home) / fallback / "gla-tune";
  return {};
}

std::filesystem::path own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  return std::filesystem::canonical(info.dli_fname, error).parent_path();
}

}  // namespace gla
