// What a test that needs a GPU asks first.
#pragma once

#include "catch.h"
#include "driver.h"

namespace gla::test {

/// True, with a line that CTest shows, where there is no GPU.
inline bool no_gpu() {
  const Result<driver::Device> device = driver::device(0);
  if (!device.ok()) WARN("SKIPPED: " << device.status().message());
  return !device.ok();
}

}  // namespace gla::test
