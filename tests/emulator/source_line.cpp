#include "source_line.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <sstream>

#include "command.h"

namespace gla::emulator {
namespace {

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

std::string source_line(const void* return_address) {
  Dl_info info{};
  link_map* object = nullptr;
  if (return_address == nullptr ||
      dladdr1(return_address, &info, reinterpret_cast<void**>(&object), RTLD_DL_LINKMAP) == 0) {
    return {};
  }
  const auto offset = reinterpret_cast<std::uintptr_t>(return_address) - object->l_addr - 1;
  char command[4096];
  std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%zx 2>/dev/null", info.dli_fname, offset);
  std::istringstream frames(run_command(command).output);
  std::string innermost;
  for (std::string frame; std::getline(frames, frame);) {
    if (frame.find('?') != std::string::npos) continue;
    const std::string line = " at " + base_name(frame.substr(0, frame.find(' ')));
    if (frame.find("/device/") == std::string::npos) return line;
    if (innermost.empty()) innermost = line;
  }
  return innermost.empty() ? " in " + base_name(info.dli_fname) : innermost;
}

}  // namespace gla::emulator
