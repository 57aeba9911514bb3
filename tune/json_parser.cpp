#include <fmt/format.h>

#include <charconv>

#include "json.h"

namespace gla {
namespace {

constexpr int kMaxDepth = 64;

/// Recursive descent over RFC 8259. A function returns false at the first fault and leaves the position on
/// it.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<Json> document() {
    Json json;
    if (!value(json, 0)) return fault();
    skip_space();
    if (at_ != text_.size()) return fault();
    return json;
  }

 private:
  Status fault() const {
    return {StatusCode::format, fmt::format("not JSON at byte {} of {}", at_, text_.size())};
  }

  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos)
      ++at_;
  }
  bool take(std::string_view token) {
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  bool value(Json& json, int depth) {
    if (depth > kMaxDepth) return false;
    skip_space();
    if (take("null")) return true;
    if (take("true")) return json = Json(true), true;
    if (take("false")) return json = Json(false), true;
    if (at_ == text_.size()) return false;
    if (text_[at_] == '"') {
      std::string text;
      if (!string(text)) return false;
      json = Json(std::move(text));
      return true;
    }
    if (text_[at_] == '[') return array(json, depth);
    if (text_[at_] == '{') return object(json, depth);
    return number(json);
  }

  bool array(Json& json, int depth) {
    json = Json::array();
    ++at_;
    skip_space();
    if (take("]")) return true;
    while (true) {
      Json item;
      if (!value(item, depth + 1)) return false;
      json.push(std::move(item));
      skip_space();
      if (take("]")) return true;
      if (!take(",")) return false;
    }
  }

  bool object(Json& json, int depth) {
    json = Json::object();
    ++at_;
    skip_space();
    if (take("}")) return true;
    while (true) {
      std::string name;
      skip_space();
      if (!string(name)) return false;
      skip_space();
      if (!take(":")) return false;
      Json item;
      if (!value(item, depth + 1)) return false;
      json.set(std::move(name), std::move(item));
      skip_space();
      if (take("}")) return true;
      if (!take(",")) return false;
    }
  }

  bool string(std::string& out) {
    if (!take("\"")) return false;
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') return true;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ == text_.size() || !escape(text_[at_++], out)) return false;
    }
    return false;
  }

  /// Our own writer escapes control characters only, so \u is read up to U+007F.
  bool escape(char c, std::string& out) {
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    if (const auto i = kNames.find(c); i != std::string_view::npos) return out += kValues[i], true;
    unsigned code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (c != 'u' || digits.size() != 4 || parsed.ptr != digits.data() + 4 || code > 0x7f) return false;
    at_ += 4;
    out += static_cast<char>(code);
    return true;
  }

  bool number(Json& json) {
    const char* first = text_.data() + at_;
    const char* last = text_.data() + text_.size();
    std::int64_t integer = 0;
    const auto whole = std::from_chars(first, last, integer);
    double real = 0;
    const auto parsed = std::from_chars(first, last, real);
    if (parsed.ec != std::errc{}) return false;
    at_ += static_cast<std::size_t>(parsed.ptr - first);
    json = whole.ec == std::errc{} && whole.ptr == parsed.ptr ? Json(integer) : Json(real);
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

Result<Json> parse_json(std::string_view text) {
  return Parser(text).document();
}

}  // namespace gla
