// NVRTC, opened at run time, and the cubin cache in front of it.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "gla/generator/architecture.h"
#include "gla/generator/model.h"
#include "gla/generator/render.h"
#include "gla/generator/status.h"

namespace gla {

/// A compiled source: machine code for one architecture and what the compiler said of each entry.
struct Cubin {
  std::vector<std::string> images;  ///< one for each entry, or a single one for all
  std::vector<std::string> entries;
  std::vector<KernelResources> resources;  ///< per entry; threads and dynamic shared memory are the launch's

  std::size_t image_of(std::size_t entry) const { return images.size() == 1 ? 0 : entry; }
};

/// NVRTC's version ("13.0"), or why it cannot be had. Libraries tried: GLA_NVRTC, then libnvrtc.so.{13,12} by
/// name, then next to the CUDA wheels of the running Python environment's site-packages if CUDA_PATH /
/// VIRTUAL_ENV name them.
Result<std::string> nvrtc_version();

/// Compiles for `architecture` (sm_<name>); entries that can be compiled one by one, at the same time. Thread-safe; NVRTC
/// compiles concurrently. A failure carries NVRTC's log.
Result<Cubin> compile(const Source& source, const Architecture& architecture);

/// A folder of cubins. Keys cover the source text, the templates, options, architecture and NVRTC version;
/// entries are checksummed, written to a temporary name and renamed. A damaged entry is rebuilt and reported.
class CubinCache {
 public:
  explicit CubinCache(std::string folder);

  /// GLA_CACHE_DIR, else XDG_CACHE_HOME/gla-tune, else HOME/.cache/gla-tune.
  static std::string default_folder();

  /// The cubin, from the folder or compiled and stored. A folder that cannot be written is reported once and
  /// does without. `note` (may be null) receives "loaded", "compiled" or what was wrong with the entry.
  Result<Cubin> get(const Source& source, const Architecture& architecture, std::string* note = nullptr);

  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  std::atomic<bool> write_failure_reported_ = false;
};

}  // namespace gla
