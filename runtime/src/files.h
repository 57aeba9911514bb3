// Whole files: read at once, written under a temporary name and renamed, so that a reader never sees half of
// one.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "gla/generator/status.h"

namespace gla {

/// The content, or an `io` status that names the file and the reason.
Result<std::string> read_file(const std::filesystem::path& path);

/// Creates missing folders. Several processes may write the same path: the last rename wins, each file is
/// whole.
Status write_file(const std::filesystem::path& path, std::string_view content);

/// The environment variable, empty if unset.
std::string environment(const char* name);

/// $variable/gla-tune, else $HOME/fallback/gla-tune, else empty: the folders of the XDG base directory
/// specification.
std::filesystem::path user_folder(const char* variable, const char* fallback);

/// The folder of the library (or program) that holds this code, empty if the loader cannot tell.
std::filesystem::path own_folder();

}  // namespace gla
