// The project's one JSON reader and writer: what --json prints, what the journal keeps, what the worker is
// told.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "gla/generator/status.h"

namespace gla {

/// A JSON value. Objects keep the order in which their members were set.
class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;

  Json() = default;  ///< null
  Json(bool value) : held_(value) {}
  Json(int value) : held_(static_cast<std::int64_t>(value)) {}
  Json(std::int64_t value) : held_(value) {}
  Json(std::size_t value) : held_(static_cast<std::int64_t>(value)) {}
  Json(double value) : held_(value) {}  ///< NaN and infinities, which JSON lacks, are written as null
  Json(const char* value) : held_(std::string(value)) {}
  Json(std::string value) : held_(std::move(value)) {}
  Json(std::string_view value) : held_(std::string(value)) {}
  Json(Array value) : held_(std::move(value)) {}
  static Json object(std::initializer_list<Member> members = {});
  static Json array() { return Json(Array{}); }

  /// Sets a member; the value becomes an object if it was null.
  void set(std::string name, Json value);
  void push(Json value);

  /// The member, or null if there is none or this is no object.
  const Json& operator[](std::string_view name) const;
  const Array& items() const;  ///< empty if this is no array
  const std::vector<Member>& members() const;

  bool is_null() const { return held_.index() == 0; }
  /// The value, or `otherwise` if it is of another type.
  bool as_bool(bool otherwise = false) const;
  std::int64_t as_int(std::int64_t otherwise = 0) const;
  double as_double(double otherwise = 0) const;
  std::string as_string(const std::string& otherwise = {}) const;

  /// On one line; or, with an indent, one member or item to a line.
  std::string dump(int indent = 0) const;

 private:
  using Object = std::vector<Member>;
  void write(std::string& out, int indent, int depth) const;
  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object> held_ = nullptr;
};

/// Parses one value and nothing behind it. A `format` status says at which byte it went wrong.
Result<Json> parse_json(std::string_view text);

}  // namespace gla
