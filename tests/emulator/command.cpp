#include "command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace gla::emulator {

CommandResult run_command(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error(std::string("cannot start a shell: ") + std::strerror(errno));
  CommandResult result;
  char buffer[4096];
  for (std::size_t count = 0; (count = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    result.output.append(buffer, count);
  result.status = pclose(pipe);
  return result;
}

}  // namespace gla::emulator
