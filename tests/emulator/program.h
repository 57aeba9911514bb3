// Kernel source text -> functions that run on the CPU, by way of the host compiler.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "machine.h"

namespace gla::emulator {

/// What programs are compiled with, and where they are kept.
class Toolchain {
 public:
  /// `compiler`: a command, such as "g++" or "ccache c++". `includes`: the folders of templates/ and of emulator.h.
  /// `cache`: the folder for sources and objects; made when needed. Throws std::runtime_error if the compiler does not run.
  Toolchain(const std::string& compiler, const std::vector<std::filesystem::path>& includes,
            std::filesystem::path cache);

  const std::string& compile_command() const { return compile_command_; }  ///< without source and output
  const std::string& link_command() const { return link_command_; }        ///< likewise
  const std::filesystem::path& cache() const { return cache_; }
  /// Of the compiler, its options and every header of the include folders.
  std::uint64_t fingerprint() const { return fingerprint_; }

 private:
  std::string compile_command_, link_command_;
  std::filesystem::path cache_;
  std::uint64_t fingerprint_;
};

/// A translation unit like those of gla::render(): its #includes name files of templates/, its kernels are
/// `GLA_KERNEL void name(Args args)`. It is compiled to tell of its accesses to memory, and so that undefined behaviour
/// traps. Copies share one loaded object.
class Program {
 public:
  /// Compiles `text`, or takes the object of an earlier run: the cache key covers the text and the toolchain.
  /// Throws std::runtime_error with the compiler's messages. `name` names the files in the cache. Threads and processes
  /// may build at once.
  static Program build(const std::string& name, std::string_view text, const Toolchain& toolchain);

  /// Launches kernel `entry`. `Args` must be the kernel's parameter type. Throws Fault, or std::runtime_error
  /// when there is no such kernel.
  template <class Args>
  void run(const std::string& entry, const Shape& shape, const Args& args,
           const Options& options = {}) const {
    const auto kernel = reinterpret_cast<void (*)(Args)>(find(entry));
    launch(
        shape, options, [&] { kernel(args); }, Accesses::told);
  }

 private:
  explicit Program(std::shared_ptr<void> object) : object_(std::move(object)) {}
  void* find(const std::string& entry) const;

  std::shared_ptr<void> object_;
};

}  // namespace gla::emulator
