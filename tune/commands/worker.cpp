// gla-tune worker: the hidden command behind worker.h.
#include "worker.h"

#include "commands/commands.h"
#include "compiler.h"

namespace gla {
namespace {

struct WorkerArguments {
  int device = 0;
  std::string cache;

  void add_to(CLI::App& command) {
    command.group("");  // not listed in the help
    command.add_option("--device", device, "CUDA ordinal");
    command.add_option("--cache", cache, "folder of compiled kernels")->required();
  }
};

int run_worker(const WorkerArguments& arguments) {
  return serve_laboratory(arguments.device, arguments.cache);
}

}  // namespace

void add_worker_command(CLI::App& app, int& exit_code) {
  add_command<WorkerArguments>(app, exit_code, "worker", "Answers requests on standard input", run_worker);
}

}  // namespace gla
