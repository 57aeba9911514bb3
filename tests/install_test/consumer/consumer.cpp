// Uses the installed C++ API as far as a machine without a GPU can.
#include <cstdio>

#include "gla/gla.hpp"

int main() {
  gla::Problem problem;
  problem.head_dim_k = 0;
  const gla::Status refused = gla::check(problem);
  if (refused.ok() || refused.message().empty()) return 1;

  // Without a GPU this is a status with a message, not a crash.
  const auto context = gla::Context::create({});
  if (!context.ok() && context.status().message().empty()) return 2;

  std::printf("libgla %.*s; context: %s\n", static_cast<int>(gla::version().size()), gla::version().data(),
              context.ok() ? "ok" : context.status().message().c_str());
  return 0;
}
