// Kernel source text -> functions that run on the CPU, by way of the host compiler.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "machine.h"

namespace gla::emulator {

/// A translation unit like those of gla::render(): its #includes name files of templates/, its kernels are
/// `GLA_KERNEL void name(Args args)`. It is compiled to tell of its accesses to memory, and so that undefined behaviour
/// traps. Copies share one loaded object.
class Program {
 public:
  /// Compiles `text`, or takes the object of an earlier run: the cache key covers the text, the templates,
  /// the emulator, the compiler and its options. Throws std::runtime_error with the compiler's messages.
  /// `name` names the files in the cache.
  static Program build(const std::string& name, std::string_view text);

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
