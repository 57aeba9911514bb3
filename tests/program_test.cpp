// Programs of the emulator: compiled from text, kept, run, and blamed by source line.
#include "program.h"

#include <filesystem>
#include <string>
#include <vector>

#include "catch.h"
#include "source_toolchain.h"

using namespace gla;

TEST_CASE("a program is compiled from text, run, and blamed by source line") {
  struct Args {
    float* data;
    int fault;
  };
  const auto program = emulator::Program::build("scale", R"(
    #include "device/thread.cuh"
    struct Args { float* data; int fault; };
    GLA_KERNEL void scale(Args args) {
      args.data[gla::block_index() * 32 + gla::thread_index()] *= 2.0f;
      if (args.fault == 1 && gla::thread_index() == 3) return;
      gla::block_sync();
    })",
                                                source_toolchain());
  std::vector<float> data(64, 1.0f);
  program.run("scale", {2, 32, 0}, Args{data.data(), 0});
  CHECK(data == std::vector<float>(64, 2.0f));
  CHECK_THROWS_WITH(program.run("scale", {1, 32, 0}, Args{data.data(), 1}),
                    contains_text("block_sync at scale."));
  CHECK_THROWS_WITH(program.run("scale", {1, 32, 0}, Args{nullptr, 0}), contains_text("at scale."));
  CHECK_THROWS_WITH(program.run("other", {1, 32, 0}, Args{}), contains_text("other"));
}

TEST_CASE("a program that does not compile is reported with the compiler's message") {
  CHECK_THROWS_WITH(emulator::Program::build("broken", "GLA_KERNEL nonsense;", source_toolchain()),
                    contains_text("nonsense"));
}

TEST_CASE("programs take the templates from one precompiled header, whose text compiles by itself") {
  const std::string& command = source_toolchain().compile_command();
  const std::string option = " -include '";
  REQUIRE(command.find(option) != std::string::npos);
  const std::string header = command.substr(command.find(option) + option.size());
  CHECK(std::filesystem::exists(header.substr(0, header.find('\'')) + ".gch"));
  CHECK(command.find(" -Winvalid-pch") !=
        std::string::npos);  // or the compiler would read the text, and not tell
}

TEST_CASE("a compiler that does not run is named") {
  CHECK_THROWS_WITH(emulator::Toolchain("no-such-compiler", {}, "unused"), contains_text("no-such-compiler"));
}
