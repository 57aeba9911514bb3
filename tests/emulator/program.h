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

/// What an emulated program reports, besides what the emulator sees by itself.
enum class Checks {
  accesses,   ///< races and reads of what nobody wrote in shared memory (shadow.h); undefined behaviour
  addresses,  ///< what AddressSanitizer finds; undefined behaviour. For an executable that is built with it.
};

/// What programs are compiled with, and where they are kept.
class Toolchain {
 public:
  /// `compiler`: a command, such as "g++" or "ccache c++". `includes`: the folders of templates/ and of emulator.h.
  /// `cache`: the folder for sources and objects; made when needed. Throws std::runtime_error if the compiler does not run.
  Toolchain(const std::string& compiler, const std::vector<std::filesystem::path>& includes,
            std::filesystem::path cache, Checks checks = Checks::accesses);

  /// Programs read the templates as one precompiled header from here on, which is made unless the cache has it: to read the
  /// text takes up to three quarters of a small program's time. Throws as Program::build() does.
  void precompile_headers();

  const std::string& compile_command() const { return compile_command_; }  ///< without source and output
  const std::string& link_command() const { return link_command_; }        ///< likewise
  Accesses accesses() const { return accesses_; }
  const std::filesystem::path& cache() const { return cache_; }
  /// Of the compiler, its options and every header of the include folders.
  std::uint64_t fingerprint() const { return fingerprint_; }

 private:
  std::string compile_command_, link_command_;
  std::vector<std::filesystem::path> includes_;
  std::filesystem::path cache_;
  Accesses accesses_;
  std::uint64_t fingerprint_;
};

/// A translation unit like those of gla::render(): its #includes name files of templates/, its kernels are
/// `GLA_KERNEL void name(Args args)`. Copies share one loaded object.
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
        shape, options, [&] { kernel(args); }, accesses_);
  }

 private:
  Program(std::shared_ptr<void> object, Accesses accesses)
      : object_(std::move(object)), accesses_(accesses) {}
  void* find(const std::string& entry) const;

  std::shared_ptr<void> object_;
  Accesses accesses_;
};

}  // namespace gla::emulator
