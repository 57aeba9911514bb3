#include "json.h"

#include <fmt/format.h>

#include <cmath>

namespace gla {
namespace {

void write_string(std::string& out, const std::string& text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<int>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void new_line(std::string& out, int indent, int depth) {
  if (indent > 0) out += '\n' + std::string(static_cast<std::size_t>(indent * depth), ' ');
}

}  // namespace

Json Json::object(std::initializer_list<Member> members) {
  Json json;
  json.held_ = Object(members);
  return json;
}

void Json::set(std::string name, Json value) {
  if (is_null()) held_ = Object{};
  auto& object = std::get<Object>(held_);
  for (Member& member : object) {
    if (member.first == name) {
      member.second = std::move(value);
      return;
    }
  }
  object.emplace_back(std::move(name), std::move(value));
}

void Json::push(Json value) {
  if (is_null()) held_ = Array{};
  std::get<Array>(held_).push_back(std::move(value));
}

const Json& Json::operator[](std::string_view name) const {
  static const Json null;
  for (const Member& member : members())
    if (member.first == name) return member.second;
  return null;
}

const Json::Array& Json::items() const {
  static const Array empty;
  const auto* array = std::get_if<Array>(&held_);
  return array != nullptr ? *array : empty;
}

const std::vector<Json::Member>& Json::members() const {
  static const Object empty;
  const auto* object = std::get_if<Object>(&held_);
  return object != nullptr ? *object : empty;
}

bool Json::as_bool(bool otherwise) const {
  const auto* value = std::get_if<bool>(&held_);
  return value != nullptr ? *value : otherwise;
}

std::int64_t Json::as_int(std::int64_t otherwise) const {
  const auto* value = std::get_if<std::int64_t>(&held_);
  return value != nullptr ? *value : otherwise;
}

double Json::as_double(double otherwise) const {
  if (const auto* integer = std::get_if<std::int64_t>(&held_)) return static_cast<double>(*integer);
  const auto* value = std::get_if<double>(&held_);
  return value != nullptr ? *value : otherwise;
}

std::string Json::as_string(const std::string& otherwise) const {
  const auto* value = std::get_if<std::string>(&held_);
  return value != nullptr ? *value : otherwise;
}

std::string Json::dump(int indent) const {
  std::string out;
  write(out, indent, 0);
  return out;
}

void Json::write(std::string& out, int indent, int depth) const {
  if (const auto* flag = std::get_if<bool>(&held_)) {
    out += *flag ? "true" : "false";
  } else if (const auto* integer = std::get_if<std::int64_t>(&held_)) {
    out += std::to_string(*integer);
  } else if (const auto* number = std::get_if<double>(&held_)) {
    out += std::isfinite(*number) ? fmt::format("{}", *number) : "null";
  } else if (const auto* text = std::get_if<std::string>(&held_)) {
    write_string(out, *text);
  } else if (const auto* array = std::get_if<Array>(&held_)) {
    out += '[';
    for (std::size_t i = 0; i < array->size(); ++i) {
      if (i != 0) out += indent > 0 ? "," : ", ";
      new_line(out, indent, depth + 1);
      (*array)[i].write(out, indent, depth + 1);
    }
    if (!array->empty()) new_line(out, indent, depth);
    out += ']';
  } else if (const auto* object = std::get_if<Object>(&held_)) {
    out += '{';
    for (std::size_t i = 0; i < object->size(); ++i) {
      if (i != 0) out += indent > 0 ? "," : ", ";
      new_line(out, indent, depth + 1);
      write_string(out, (*object)[i].first);
      out += ": ";
      (*object)[i].second.write(out, indent, depth + 1);
    }
    if (!object->empty()) new_line(out, indent, depth);
    out += '}';
  } else {
    out += "null";
  }
}

}  // namespace gla
