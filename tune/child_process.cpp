#include "child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

namespace gla {
namespace {

constexpr int kGraceMilliseconds = 2000;  // for a child whose input was closed to end by itself

void close_fd(int& fd) {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("ended with code {}", WEXITSTATUS(status));
}

}  // namespace

Result<ChildProcess> ChildProcess::start(const std::vector<std::string>& arguments) {
  ::signal(SIGPIPE, SIG_IGN);  // a dead child shows as a failed write
  int input[2], output[2];
  if (::pipe2(input, O_CLOEXEC) != 0)
    return Status{StatusCode::io, fmt::format("pipe: {}", std::strerror(errno))};
  if (::pipe2(output, O_CLOEXEC) != 0) {
    ::close(input[0]);
    ::close(input[1]);
    return Status{StatusCode::io, fmt::format("pipe: {}", std::strerror(errno))};
  }
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t process = ::fork();
  if (process == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    ::dup2(input[0], STDIN_FILENO);
    ::dup2(output[1], STDOUT_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(input[0]);
  ::close(output[1]);
  ChildProcess child;
  child.to_child_ = input[1];
  child.from_child_ = output[0];
  if (process < 0) return Status{StatusCode::io, fmt::format("fork: {}", std::strerror(errno))};
  child.process_ = process;
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : process_(std::exchange(other.process_, -1)),
      to_child_(std::exchange(other.to_child_, -1)),
      from_child_(std::exchange(other.from_child_, -1)),
      received_(std::move(other.received_)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(process_, other.process_);
  std::swap(to_child_, other.to_child_);
  std::swap(from_child_, other.from_child_);
  std::swap(received_, other.received_);
  return *this;
}

ChildProcess::~ChildProcess() {
  close_fd(to_child_);
  if (process_ > 0 && from_child_ >= 0) {
    pollfd ended{.fd = from_child_, .events = POLLIN, .revents = 0};
    (void)::poll(&ended, 1, kGraceMilliseconds);
  }
  (void)end();
}

std::string ChildProcess::end() {
  close_fd(to_child_);
  close_fd(from_child_);
  received_.clear();
  if (process_ <= 0) return "not running";
  // A child that has ended already keeps its own status; one that has not takes this one.
  ::kill(process_, SIGKILL);
  int status = 0;
  while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
  return describe_end(status);
}

std::optional<std::string> ChildProcess::take_line() {
  const std::size_t newline = received_.find('\n');
  if (newline == std::string::npos) return std::nullopt;
  std::string line = received_.substr(0, newline);
  received_.erase(0, newline + 1);
  return line;
}

ChildProcess::Reply ChildProcess::ask(const std::string& line, double timeout_seconds) {
  if (!running()) return {{}, false, "not running"};
  const std::string text = line + "\n";
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t count = ::write(to_child_, text.data() + sent, text.size() - sent);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return {{}, false, end()};
    sent += static_cast<std::size_t>(count);
  }
  return listen(timeout_seconds);
}

ChildProcess::Reply ChildProcess::listen(double timeout_seconds) {
  if (!running()) return {{}, false, "not running"};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_seconds);
  while (true) {
    if (auto reply = take_line()) return {std::move(reply), false, {}};
    const auto left = std::chrono::duration<double>(deadline - std::chrono::steady_clock::now()).count();
    if (left <= 0) {
      (void)end();
      return {{}, true, fmt::format("no answer within {:.0f} s", timeout_seconds)};
    }
    pollfd ready{.fd = from_child_, .events = POLLIN, .revents = 0};
    const int polled = ::poll(&ready, 1, static_cast<int>(left * 1000) + 1);
    if (polled < 0 && errno != EINTR) return {{}, false, end()};
    if (polled <= 0) continue;
    char buffer[4096];
    const ssize_t count = ::read(from_child_, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return {{}, false, end()};
    received_.append(buffer, static_cast<std::size_t>(count));
  }
}

}  // namespace gla
