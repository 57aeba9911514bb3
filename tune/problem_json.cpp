#include "problem_json.h"

namespace gla {

Json to_json(const Problem& problem) {
  return Json::object({{"operation", to_string(problem.operation)},
                       {"dtype", to_string(problem.dtype)},
                       {"gate_dtype", to_string(problem.gate_dtype)},
                       {"state_dtype", to_string(problem.state_dtype)},
                       {"head_dim_k", static_cast<int>(problem.head_dim_k)},
                       {"head_dim_v", static_cast<int>(problem.head_dim_v)},
                       {"group", static_cast<int>(problem.group)},
                       {"gate_k", problem.gate_k},
                       {"gate_v", problem.gate_v},
                       {"reverse", problem.reverse},
                       {"state_v_first", problem.state_v_first},
                       {"fp32_gate_gradients", problem.fp32_gate_gradients}});
}

Json to_json(const Workload& workload) {
  return Json::object({{"sequences", workload.sequences},
                       {"heads", workload.heads},
                       {"tokens", workload.tokens},
                       {"packed", workload.packed}});
}

Result<Problem> problem_from_json(const Json& json) {
  Problem problem;
  const auto operation = parse_operation(json["operation"].as_string());
  if (!operation.ok()) return operation.status();
  problem.operation = *operation;
  for (const auto& [name, field] : {std::pair{"dtype", &problem.dtype},
                                    {"gate_dtype", &problem.gate_dtype},
                                    {"state_dtype", &problem.state_dtype}}) {
    const auto dtype = parse_dtype(json[name].as_string());
    if (!dtype.ok()) return dtype.status();
    *field = *dtype;
  }
  problem.head_dim_k = static_cast<std::int16_t>(json["head_dim_k"].as_int());
  problem.head_dim_v = static_cast<std::int16_t>(json["head_dim_v"].as_int());
  problem.group = static_cast<std::int16_t>(json["group"].as_int());
  problem.gate_k = json["gate_k"].as_bool();
  problem.gate_v = json["gate_v"].as_bool();
  problem.reverse = json["reverse"].as_bool();
  problem.state_v_first = json["state_v_first"].as_bool();
  problem.fp32_gate_gradients = json["fp32_gate_gradients"].as_bool();
  return problem;
}

Workload workload_from_json(const Json& json) {
  return {.sequences = json["sequences"].as_int(1),
          .heads = json["heads"].as_int(1),
          .tokens = json["tokens"].as_int(1),
          .packed = json["packed"].as_bool()};
}

}  // namespace gla
