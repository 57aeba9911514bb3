// Compiles with NVRTC; needs no GPU.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "catch.h"
#include "compile_options.h"
#include "compiler.h"
#include "files.h"
#include "sample_table.h"
#include "sha256.h"

using namespace gla;
using namespace gla::test;

namespace {

Source small_source(int constant = 1) {
  return {"small kernel.cu",
          fmt::format("#include \"args.h\"\n"
                      "extern \"C\" __global__ void first(gla::FillArgs args) {{\n"
                      "  __shared__ float held[64];\n"
                      "  held[threadIdx.x % 64] = args.scale * {};\n"
                      "  __syncthreads();\n"
                      "  static_cast<float*>(args.data)[threadIdx.x] = held[63 - threadIdx.x % 64];\n"
                      "}}\n"
                      "extern \"C\" __global__ void second(gla::FillArgs args) {{ args.scale = 0; }}\n",
                      constant),
          {"first", "second"}};
}

/// The same kernels, which can be compiled one by one.
Source separable_source() {
  Source source = small_source();
  for (const char* entry : {"extern \"C\" __global__ void first", "extern \"C\" __global__ void second"})
    source.begins.push_back(source.text.find(entry));
  return source;
}

bool is_elf(const std::string& image) {
  return image.substr(0, 4) ==
         "\x7f"
         "ELF";
}

/// True, with a line that CTest shows, where there is no NVRTC.
bool no_nvrtc() {
  const Result<std::string> version = nvrtc_version();
  if (!version.ok()) WARN("SKIPPED: " << version.status().message());
  return !version.ok();
}

std::filesystem::path only_entry(const std::filesystem::path& folder) {
  const std::filesystem::directory_iterator files(folder);
  REQUIRE(std::distance(files, {}) == 1);
  return std::filesystem::directory_iterator(folder)->path();
}

}  // namespace

TEST_CASE("SHA-256 of the standard's examples") {
  CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("registers, spills and static shared memory are read off ptxas's log") {
  const std::string log =
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'second' for 'sm_90a'\n"
      "ptxas info    : Function properties for second\n"
      "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 8 registers, used 0 barriers\n"
      "ptxas info    : Compiling entry function 'first' for 'sm_90a'\n"
      "ptxas info    : Function properties for first\n"
      "ptxas         .     64 bytes stack frame, 24 bytes spill stores, 36 bytes spill loads\n"
      "ptxas info    : Used 255 registers, used 1 barriers, 256 bytes smem, 400 bytes cmem[0]\n";
  const std::vector<KernelResources> resources = parse_resources(log, {"first", "second", "third"});
  REQUIRE(resources.size() == 3);
  CHECK(resources[0].registers == 255);
  CHECK(resources[0].spill_bytes == 60);
  CHECK(resources[0].shared_bytes == 256);
  CHECK(resources[1].registers == 8);
  CHECK(resources[1].spill_bytes == 0);
  CHECK(resources[2].registers == 0);
}

TEST_CASE("a source compiles for every architecture that NVRTC knows, with its resources") {
  if (no_nvrtc()) return;
  for (const char* name : {"sm_80", "sm_90a", "sm_100a"}) {
    const Result<Cubin> cubin = compile(small_source(), *parse_architecture(name));
    INFO(cubin.status().message());
    if (cubin.status().message().find("--gpu-architecture") != std::string::npos) continue;  // an older NVRTC
    REQUIRE(cubin.ok());
    REQUIRE(cubin->images.size() == 1);
    CHECK(is_elf(cubin->images[0]));
    REQUIRE(cubin->resources.size() == 2);
    CHECK(cubin->resources[0].registers > 0);
    CHECK(cubin->resources[0].shared_bytes >= 256);
  }
}

TEST_CASE(
    "entries that share nothing but their head are compiled into images of their own, with the same code") {
  if (no_nvrtc()) return;
  const Result<Cubin> together = compile(small_source(), hopper());
  const Result<Cubin> apart = compile(separable_source(), hopper());
  REQUIRE(together.ok());
  REQUIRE(apart.ok());
  REQUIRE(apart->images.size() == 2);
  CHECK(apart->entries == together->entries);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(is_elf(apart->images[i]));
    CHECK(apart->image_of(i) == i);
    CHECK(together->image_of(i) == 0);
    CHECK(apart->images[i].find(".text." + apart->entries[i]) != std::string::npos);
    CHECK(apart->images[i].find(".text." + apart->entries[1 - i]) == std::string::npos);
    CHECK(apart->resources[i].registers == together->resources[i].registers);
    CHECK(apart->resources[i].shared_bytes == together->resources[i].shared_bytes);
  }

  const TemporaryFolder folder;
  CubinCache cache(folder.path());
  REQUIRE(cache.get(separable_source(), hopper()).ok());
  std::string note;
  const Result<Cubin> loaded = cache.get(separable_source(), hopper(), &note);
  REQUIRE(loaded.ok());
  CHECK(note == "loaded");
  CHECK(loaded->images == apart->images);
}

TEST_CASE("what NVRTC refuses comes back with its log, entries compiled together or one by one") {
  if (no_nvrtc()) return;
  for (Source source : {small_source(), separable_source()}) {
    source.text += "int broken = missing_name;\n";
    const Result<Cubin> cubin = compile(source, hopper());
    CHECK(cubin.status().code() == StatusCode::compile);
    CHECK(cubin.status().message().find("missing_name") != std::string::npos);
    CHECK(cubin.status().message().find("small kernel.cu") != std::string::npos);
  }
}

TEST_CASE("a cubin is compiled once and loaded after that, equal in every part") {
  if (no_nvrtc()) return;
  const TemporaryFolder folder;
  CubinCache cache(folder.path() / "deeper");
  std::string note;
  const Result<Cubin> compiled = cache.get(small_source(), hopper(), &note);
  REQUIRE(compiled.ok());
  CHECK(note == "compiled");
  CubinCache again(folder.path() / "deeper");
  const Result<Cubin> loaded = again.get(small_source(), hopper(), &note);
  REQUIRE(loaded.ok());
  CHECK(note == "loaded");
  CHECK(loaded->images == compiled->images);
  CHECK(loaded->entries == compiled->entries);
  REQUIRE(loaded->resources.size() == 2);
  CHECK(loaded->resources[0].registers == compiled->resources[0].registers);
  CHECK(loaded->resources[0].shared_bytes == compiled->resources[0].shared_bytes);
}

TEST_CASE("another text or architecture is another entry") {
  if (no_nvrtc()) return;
  const TemporaryFolder folder;
  CubinCache cache(folder.path());
  std::string note;
  REQUIRE(cache.get(small_source(1), hopper()).ok());
  REQUIRE(cache.get(small_source(2), hopper(), &note).ok());
  CHECK(note == "compiled");
  REQUIRE(cache.get(small_source(1), *parse_architecture("sm_80"), &note).ok());
  CHECK(note == "compiled");
}

TEST_CASE("a damaged cubin is rebuilt and reported") {
  if (no_nvrtc()) return;
  const TemporaryFolder folder;
  CubinCache cache(folder.path());
  const Result<Cubin> first = cache.get(small_source(), hopper());
  REQUIRE(first.ok());
  const std::filesystem::path entry = only_entry(folder.path());
  const std::string whole = *read_file(entry);

  std::string flipped = whole;
  flipped[flipped.size() / 2] ^= 1;
  std::string other_version = whole;
  other_version[10] = '9';
  std::string other_resources = whole;
  other_resources[12 + 65 + 40] ^= 1;
  for (const std::string& damage :
       {flipped, other_version, other_resources, whole.substr(0, whole.size() - 1), whole.substr(0, 20),
        std::string(), whole + "more"}) {
    REQUIRE(write_file(entry, damage).ok());
    std::string note;
    const Result<Cubin> rebuilt = cache.get(small_source(), hopper(), &note);
    REQUIRE(rebuilt.ok());
    CHECK(rebuilt->images == first->images);
    CHECK(note.find("damaged cache entry " + entry.string()) == 0);
    REQUIRE(cache.get(small_source(), hopper(), &note).ok());
    CHECK(note == "loaded");
  }
}

TEST_CASE("a folder that cannot be written is reported once and done without") {
  if (no_nvrtc()) return;
  const TemporaryFolder folder;
  REQUIRE(write_file(folder.path() / "file", "in the way").ok());
  CubinCache cache(folder.path() / "file" / "cache");
  std::string note;
  REQUIRE(cache.get(small_source(), hopper(), &note).ok());
  CHECK(note.find("cubin cache is not written") == 0);
  REQUIRE(cache.get(small_source(), hopper(), &note).ok());
  CHECK(note == "compiled");
}

TEST_CASE("threads and processes may share a folder") {
  if (no_nvrtc()) return;
  const TemporaryFolder folder;
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      CubinCache cache(folder.path());
      ::_exit(cache.get(small_source(), hopper()).ok() ? 0 : 1);
    }
    children.push_back(child);
  }
  CubinCache cache(folder.path());
  std::atomic<int> failures = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([&] { failures += cache.get(small_source(), hopper()).ok() ? 0 : 1; });
  }
  CHECK(failures == 0);
  for (const pid_t child : children) {
    int status = 1;
    ::waitpid(child, &status, 0);
    CHECK(status == 0);
  }
  std::string note;
  REQUIRE(cache.get(small_source(), hopper(), &note).ok());
  CHECK(note == "loaded");
  CHECK(only_entry(folder.path()).extension() == ".cubin");
}

TEST_CASE("the default folder follows GLA_CACHE_DIR, XDG_CACHE_HOME and HOME") {
  ::setenv("GLA_CACHE_DIR", "/somewhere", 1);
  CHECK(CubinCache::default_folder() == "/somewhere");
  ::unsetenv("GLA_CACHE_DIR");
  ::setenv("XDG_CACHE_HOME", "/caches", 1);
  CHECK(CubinCache::default_folder() == "/caches/gla-tune");
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/home/someone", 1);
  CHECK(CubinCache::default_folder() == "/home/someone/.cache/gla-tune");
}
