// Architectures by name and by device, and how many blocks fit on a multiprocessor.
#include "gla/generator/architecture.h"

#include "catch.h"
#include "problems.h"

using namespace gla;
using namespace gla::test;

TEST_CASE("every architecture reads back from its name") {
  CHECK(architecture_names().size() >= 6);
  for (const std::string& name : architecture_names()) CHECK("sm_" + architecture(name).name == name);
}

TEST_CASE("an unknown architecture is refused with the names that exist") {
  for (const char* text : {"sm_75", "90a", "sm_90b", "sm_", "compute_80", ""}) {
    const Status status = parse_architecture(text).status();
    CHECK(status.code() == StatusCode::invalid_argument);
    CHECK(status.message().find("architecture is '" + std::string(text) + "'; accepted: sm_80, ") == 0);
    CHECK(status.message().find("sm_90a") != std::string::npos);
  }
}

TEST_CASE("a device is served by the architecture with its own instructions") {
  CHECK(architecture_of(80)->name == "80");
  CHECK(architecture_of(86)->name == "86");
  CHECK(architecture_of(90)->name == "90a");
  CHECK(architecture_of(100)->name == "100a");
}

TEST_CASE("a device that nothing is compiled for is unsupported, and its compute capability is named") {
  const Status status = architecture_of(75).status();
  CHECK(status.code() == StatusCode::unsupported);
  CHECK(status.message().find("compute capability is 7.5; accepted: ") == 0);
}

TEST_CASE("registers, threads, shared memory and blocks each limit how many blocks are resident") {
  const Architecture hopper = architecture("sm_90a");
  CHECK(occupancy(hopper, 256, 128, 0) == 2);         // 65536 registers
  CHECK(occupancy(hopper, 256, 129, 0) == 1);         // given out in units of 8 per thread
  CHECK(occupancy(hopper, 256, 32, 0) == 8);          // 2048 threads
  CHECK(occupancy(hopper, 256, 32, 48 * 1024) == 4);  // 228 KiB, of which each block takes one more
  CHECK(occupancy(hopper, 32, 16, 0) == 32);          // 32 blocks
  CHECK(occupancy(hopper, 33, 32, 0) == 32);          // two warps
  CHECK(occupancy(hopper, 1024, 64, 0) == 1);
  CHECK(occupancy(hopper, 1024, 65, 0) == 0);
  CHECK(occupancy(architecture("sm_86"), 256, 32, 0) == 6);  // 1536 threads
  CHECK(occupancy(architecture("sm_86"), 32, 16, 0) == 16);  // 16 blocks
}

TEST_CASE("a block may take all the shared memory that the architecture offers it, and then runs alone") {
  for (const std::string& name : architecture_names()) {
    const Architecture gpu = architecture(name);
    INFO(name);
    CHECK(occupancy(gpu, 128, 64, gpu.shared_memory_per_block) == 1);
    CHECK(occupancy(gpu, 128, 64, gpu.shared_memory_per_multiprocessor) == 0);
  }
}

TEST_CASE("more threads, registers or shared memory never let more blocks fit") {
  const Architecture gpu = architecture("sm_80");
  for (int threads = 32; threads <= 1024; threads += 32)
    for (int registers = 16; registers < 255; registers += 24)
      for (std::size_t shared = 0; shared < 150000; shared += 20000) {
        const int blocks = occupancy(gpu, threads, registers, shared);
        if (occupancy(gpu, threads + 32, registers, shared) > blocks ||
            occupancy(gpu, threads, registers + 8, shared) > blocks ||
            occupancy(gpu, threads, registers, shared + 1024) > blocks)
          FAIL_CHECK(threads << " threads, " << registers << " registers, " << shared << " bytes");
      }
}
