// The one error type of the project: a code and a message that names the argument, what it was and what is
// accepted.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace gla {

/// What went wrong. The numeric values are part of the C ABI (gla.h) and never change.
enum class StatusCode : int {
  ok = 0,
  invalid_argument = 1,  ///< a value the caller passed is outside what is documented
  unsupported = 2,       ///< legal, but not offered for this device, dtype or shape
  not_prepared = 3,      ///< needs compilation or loading while the stream is being captured
  workspace = 4,         ///< the workspace is missing or too small
  cuda = 5,              ///< the CUDA driver reported an error
  compile = 6,           ///< NVRTC refused a kernel
  io = 7,                ///< a file could not be read or written
  format = 8,            ///< a file's content is not what it must be
  internal = 9,          ///< a broken promise inside gla-tune
};

/// Success, or a code with a message. Success holds no message and allocates nothing.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const noexcept { return code_ == StatusCode::ok; }
  StatusCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }

 private:
  StatusCode code_ = StatusCode::ok;
  std::string message_;
};

/// A value, or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : held_(std::in_place_index<0>, std::move(value)) {}  // NOLINT(google-explicit-constructor)
  // NOLINTNEXTLINE(google-explicit-constructor)
  Result(Status status) : held_(std::in_place_index<1>, std::move(status)) {}

  bool ok() const noexcept { return held_.index() == 0; }
  /// The status: ok when there is a value.
  Status status() const { return ok() ? Status{} : std::get<1>(held_); }

  T& operator*() & { return std::get<0>(held_); }
  const T& operator*() const& { return std::get<0>(held_); }
  T&& operator*() && { return std::get<0>(std::move(held_)); }
  T* operator->() { return &std::get<0>(held_); }
  const T* operator->() const { return &std::get<0>(held_); }

 private:
  std::variant<T, Status> held_;
};

inline Status invalid_argument(std::string message) {
  return {StatusCode::invalid_argument, std::move(message)};
}

}  // namespace gla
