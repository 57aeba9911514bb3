// The one JSON reader and writer.
#include "json.h"

#include <limits>

#include "catch.h"
#include "problem_json.h"

using namespace gla;

TEST_CASE("what is written reads back the same") {
  Json json = Json::object(
      {{"text", "a \"quoted\"\nline\\ \x01"}, {"int", 42}, {"real", 0.1}, {"yes", true}, {"none", Json()}});
  Json list = Json::array();
  list.push(1);
  list.push("two");
  json.set("list", list);
  json.set("empty", Json::object());
  for (const int indent : {0, 2}) {
    const auto back = parse_json(json.dump(indent));
    REQUIRE(back.ok());
    CHECK(back->dump() == json.dump());
  }
  CHECK((*parse_json(json.dump()))["text"].as_string() == "a \"quoted\"\nline\\ \x01");
}

TEST_CASE("one line without an indent: the journal depends on it") {
  CHECK(Json::object({{"a", "x\ny"}}).dump().find('\n') == std::string::npos);
}

TEST_CASE("numbers keep their type and their value") {
  CHECK(parse_json("12")->as_int() == 12);
  CHECK(parse_json("12")->as_double() == 12.0);
  CHECK(parse_json("1.5e-3")->as_double() == 1.5e-3);
  CHECK(parse_json("1.5")->as_int(-1) == -1);
  CHECK(parse_json(Json(0.1 + 0.2).dump())->as_double() == 0.1 + 0.2);
  CHECK(Json(std::numeric_limits<double>::infinity()).dump() == "null");
}

TEST_CASE("a missing member is null and a wrong type gives the fallback") {
  const Json json = Json::object({{"a", "text"}});
  CHECK(json["b"].is_null());
  CHECK(json["a"]["b"].is_null());
  CHECK(json["a"].as_int(7) == 7);
  CHECK(json["a"].items().empty());
}

TEST_CASE("what is not JSON is refused with the byte") {
  for (const char* text : {"", "{", "{\"a\"", "{\"a\":1", "{\"a\":1,}", "[1,", "\"open", "tru", "1 2",
                           "{\"a\" 1}", "\"\\x\"", "\"\\u12\"", "nulls", "{1:2}"}) {
    const auto json = parse_json(text);
    CHECK_FALSE(json.ok());
    CHECK(json.status().code() == StatusCode::format);
  }
  CHECK_FALSE(parse_json(std::string(100000, '[')).ok());
}

TEST_CASE("problems and workloads survive JSON") {
  Problem problem;
  problem.operation = Operation::recurrent_forward;
  problem.dtype = DType::fp16;
  problem.gate_dtype = DType::fp32;
  problem.state_dtype = DType::bf16;
  problem.head_dim_k = 60;
  problem.head_dim_v = 512;
  problem.group = 4;
  problem.gate_k = false;
  problem.gate_v = problem.reverse = problem.state_v_first = problem.fp32_gate_gradients = true;
  const auto json = parse_json(to_json(problem).dump());
  REQUIRE(json.ok());
  const auto back = problem_from_json(*json);
  REQUIRE(back.ok());
  CHECK(*back == problem);
  const Workload workload{.sequences = 3, .heads = 5, .tokens = 1ll << 40, .packed = true};
  CHECK(workload_from_json(*parse_json(to_json(workload).dump())) == workload);
  CHECK_FALSE(problem_from_json(*parse_json("{\"operation\": \"nonsense\"}")).ok());
}
