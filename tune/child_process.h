// A child process that answers lines with lines.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "gla/generator/status.h"

namespace gla {

class ChildProcess {
 public:
  ChildProcess() = default;
  /// Starts `arguments[0]` with pipes for its standard input and output; its errors go where ours go. The child dies
  /// with us.
  static Result<ChildProcess> start(const std::vector<std::string>& arguments);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  ///< closes the pipes and kills the child if it does not end at once

  bool running() const { return process_ > 0; }

  struct Reply {
    std::optional<std::string> line;  ///< none: `failure` says why
    bool timed_out = false;
    /// "no answer within 60 s", "killed by signal 11 (Segmentation fault)", "ended with code 1"
    std::string failure;
  };
  /// Sends a line and waits for one. After a failure the child has been ended.
  Reply ask(const std::string& line, double timeout_seconds);
  /// Waits for a line without sending one.
  Reply listen(double timeout_seconds);

 private:
  std::string end();  ///< kills, reaps and says how the child ended
  std::optional<std::string> take_line();

  pid_t process_ = -1;
  int to_child_ = -1, from_child_ = -1;
  std::string received_;
};

}  // namespace gla
