#include "worker.h"

#include <fmt/format.h>

#include <cstdlib>
#include <iostream>
#include <limits>

#include "device_laboratory.h"
#include "problem_json.h"

namespace gla {
namespace {

// The first request of a problem also compiles the tools and draws the inputs.
constexpr double kVerifyTimeout = 60, kMeasureTimeout = 60, kContestTimeout = 60;
constexpr double kFullVerifyTimeout = 600;  // the whole case set, under compute-sanitizer too
constexpr double kHelloTimeout = 60;

Json request_of(const char* what, const Problem& problem) {
  return Json::object({{"do", what}, {"problem", to_json(problem)}});
}

Json request_of(const char* what, const Problem& problem, const Variant& variant) {
  Json request = request_of(what, problem);
  request.set("variant", to_string(variant));
  return request;
}

Json to_json(const CaseOutcome& outcome, const Problem& problem) {
  Json json = Json::object({{"name", outcome.name}});
  set_errors(json, outcome, problem);
  json.set("standard", outcome.standard);
  json.set("fast", outcome.fast);
  json.set("detail", outcome.detail);
  return json;
}

CaseOutcome outcome_from_json(const Json& json, const Problem& problem) {
  CaseOutcome outcome{.name = json["name"].as_string(),
                      .standard = json["standard"].as_bool(),
                      .fast = json["fast"].as_bool(),
                      .detail = json["detail"].as_string()};
  // JSON has no word for an error that is infinite or NaN: it travels as null.
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  for (const Output output : outputs_of(problem)) {
    outcome.errors[output] = json[fmt::format("error_{}", key_of(output))].as_double(kInfinite);
    outcome.worst[output] = json[fmt::format("worst_{}", key_of(output))].as_double(kInfinite);
  }
  return outcome;
}

Json list_of(const std::vector<Timing>& timings) {
  Json list = Json::array();
  for (const Timing& timing : timings) list.push(to_json(timing));
  return list;
}

Answer<std::vector<Timing>> timings_from(const Answer<Json>& reply) {
  Answer<std::vector<Timing>> answer{{}, reply.refusal};
  for (const Json& timing : reply.value.items()) answer.value.push_back(timing_from_json(timing));
  return answer;
}

/// One request, answered. The value is what the asking side's function of the same name reads.
Answer<Json> answer(DeviceLaboratory& laboratory, const Json& request) {
  const std::string what = request["do"].as_string();
  if (what == "bandwidth") {
    const auto bandwidth = laboratory.measure_copy_bandwidth();
    if (!bandwidth.ok()) return {{}, refusal_of(bandwidth.status())};
    return {Json(*bandwidth), {}};
  }
  const auto problem = problem_from_json(request["problem"]);
  if (!problem.ok()) return {{}, {"error", problem.status().message()}};
  std::vector<Variant> variants;
  Json::Array names = request["variants"].items();
  if (names.empty()) names.push_back(request["variant"]);
  for (const Json& name : names) {
    const auto variant = parse_variant(name.as_string());
    if (!variant.ok()) return {{}, {"error", variant.status().message()}};
    variants.push_back(*variant);
  }
  if (what == "verify") {
    const auto verdict = laboratory.verify(*problem, variants.front());
    return {to_json(verdict.value), verdict.refusal};
  }
  if (what == "verify_fully") {
    const auto verification = laboratory.verify_fully(*problem, variants.front());
    Json cases = Json::array();
    for (const CaseOutcome& outcome : verification.value.cases) cases.push(to_json(outcome, *problem));
    return {cases, verification.refusal};
  }
  if (what == "measure") {
    std::vector<MeasureRequest> requests;
    for (const Json& one : request["requests"].items())
      requests.push_back({workload_from_json(one["workload"]), one["hopeless_above_seconds"].as_double()});
    const auto timings = laboratory.measure(*problem, variants.front(), requests);
    return {list_of(timings.value), timings.refusal};
  }
  if (what == "contest") {
    const auto timings = laboratory.contest(*problem, workload_from_json(request["workload"]), variants);
    return {list_of(timings.value), timings.refusal};
  }
  return {{}, {"error", fmt::format("the worker was asked to \"{}\"", what)}};
}

void say(const Json& json) {
  std::cout << json.dump() << std::endl;
}

}  // namespace

int serve_laboratory(int device, const std::string& cache_folder) {
  CubinCache cache(cache_folder);
  const auto laboratory = DeviceLaboratory::create(device, cache);
  if (!laboratory.ok()) {
    say(Json::object({{"refusal", to_json(Refusal{"error", laboratory.status().message()})}}));
    return 1;
  }
  say(Json::object({{"hello", true}}));
  for (std::string line; std::getline(std::cin, line);) {
    const auto request = parse_json(line);
    const Answer<Json> reply =
        request.ok() ? answer(**laboratory, *request) : Answer<Json>{{}, refusal_of(request.status())};
    const bool alive = !reply.refused() || (*laboratory)->alive();
    say(Json::object({{"value", reply.value}, {"refusal", to_json(reply.refusal)}, {"alive", alive}}));
    // Freeing what belongs to a broken context would only fail: leave that to the system.
    if (!alive) std::_Exit(1);
  }
  return 0;
}

Result<std::unique_ptr<WorkerLaboratory>> WorkerLaboratory::start(WorkerOptions options) {
  std::unique_ptr<WorkerLaboratory> laboratory(new WorkerLaboratory(std::move(options)));
  if (Status status = laboratory->launch(); !status.ok()) return status;
  return laboratory;
}

Status WorkerLaboratory::launch() {
  auto child = ChildProcess::start({options_.executable, "worker", "--device",
                                    std::to_string(options_.device), "--cache", options_.cache_folder});
  if (!child.ok()) return child.status();
  child_ = *std::move(child);
  const auto hello = child_.listen(kHelloTimeout);
  if (!hello.line) return {StatusCode::cuda, "the worker process did not start: " + hello.failure};
  const auto json = parse_json(*hello.line);
  if (json.ok() && (*json)["hello"].as_bool()) return {};
  child_ = {};
  return {StatusCode::cuda, json.ok() ? (*json)["refusal"]["detail"].as_string() : *hello.line};
}

Answer<Json> WorkerLaboratory::ask(const Json& request, double timeout_seconds) {
  if (!child_.running()) {
    ++restarts_;
    health_ = launch();
    if (!health_.ok()) return {{}, {"error", health_.message()}};
  }
  const auto reply = child_.ask(request.dump(), timeout_seconds);
  if (!reply.line) return {{}, {reply.timed_out ? "timeout" : "crash", reply.failure}};
  const auto json = parse_json(*reply.line);
  if (!json.ok()) {
    child_ = {};
    return {{}, {"crash", "the worker answered with \"" + *reply.line + "\""}};
  }
  if (!(*json)["alive"].as_bool()) child_ = {};
  return {(*json)["value"], refusal_from_json((*json)["refusal"])};
}

Answer<Verdict> WorkerLaboratory::verify(const Problem& problem, const Variant& variant) {
  const auto reply = ask(request_of("verify", problem, variant), kVerifyTimeout);
  return {verdict_from_json(reply.value), reply.refusal};
}

Answer<Verification> WorkerLaboratory::verify_fully(const Problem& problem, const Variant& variant) {
  const auto reply = ask(request_of("verify_fully", problem, variant), kFullVerifyTimeout);
  Answer<Verification> answer{{}, reply.refusal};
  for (const Json& outcome : reply.value.items())
    answer.value.cases.push_back(outcome_from_json(outcome, problem));
  answer.value.verdict = conclude(answer.value.cases);
  return answer;
}

Answer<std::vector<Timing>> WorkerLaboratory::measure(const Problem& problem, const Variant& variant,
                                                      std::span<const MeasureRequest> requests) {
  Json request = request_of("measure", problem, variant);
  Json list = Json::array();
  for (const MeasureRequest& one : requests)
    list.push(Json::object(
        {{"workload", to_json(one.workload)}, {"hopeless_above_seconds", one.hopeless_above_seconds}}));
  request.set("requests", std::move(list));
  return timings_from(ask(request, kMeasureTimeout));
}

Answer<std::vector<Timing>> WorkerLaboratory::contest(const Problem& problem, const Workload& workload,
                                                      std::span<const Variant> finalists) {
  Json request = request_of("contest", problem);
  request.set("workload", to_json(workload));
  Json names = Json::array();
  for (const Variant& variant : finalists) names.push(to_string(variant));
  request.set("variants", std::move(names));
  return timings_from(ask(request, kContestTimeout));
}

Result<double> WorkerLaboratory::measure_copy_bandwidth() {
  const auto reply = ask(Json::object({{"do", "bandwidth"}}), kMeasureTimeout);
  if (reply.refused()) return Status{StatusCode::cuda, reply.refusal.detail};
  return reply.value.as_double();
}

}  // namespace gla
