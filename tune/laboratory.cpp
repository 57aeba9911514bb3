#include "laboratory.h"

namespace gla {

Json to_json(const Verdict& verdict) {
  return Json::object({{"standard", verdict.standard},
                       {"fast", verdict.fast},
                       {"error_o", verdict.error_o},
                       {"error_state", verdict.error_state},
                       {"detail", verdict.detail}});
}

Json to_json(const Timing& timing) {
  return Json::object({{"seconds", timing.seconds},
                       {"noise", timing.noise},
                       {"fallback_share", timing.fallback_share},
                       {"samples", timing.samples}});
}

Json to_json(const Refusal& refusal) {
  return Json::object({{"reason", refusal.reason}, {"detail", refusal.detail}});
}

Verdict verdict_from_json(const Json& json) {
  return {.standard = json["standard"].as_bool(),
          .fast = json["fast"].as_bool(),
          .error_o = json["error_o"].as_double(),
          .error_state = json["error_state"].as_double(),
          .detail = json["detail"].as_string()};
}

Timing timing_from_json(const Json& json) {
  return {.seconds = json["seconds"].as_double(),
          .noise = json["noise"].as_double(),
          .fallback_share = json["fallback_share"].as_double(),
          .samples = static_cast<int>(json["samples"].as_int())};
}

Refusal refusal_from_json(const Json& json) {
  return {.reason = json["reason"].as_string(), .detail = json["detail"].as_string()};
}

}  // namespace gla
