// One line about a long run, on stderr: redrawn on a terminal, otherwise a new line every ten seconds.
#pragma once

#include <chrono>
#include <string>

namespace gla {

/// "1:05", "12:00:03"
std::string format_duration(double seconds);

class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Progress(bool quiet = false);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows `text` behind the time spent and, unless negative, the estimated seconds left.
  void update(const std::string& text, double seconds_left);
  /// Takes a line that stays, above the progress line.
  void note(const std::string& line);
  double elapsed() const;

 private:
  void clear();

  bool quiet_, terminal_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_{};
};

}  // namespace gla
