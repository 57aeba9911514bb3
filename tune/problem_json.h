// Problems, workloads and measurements as JSON, for the journal, the worker and --json.
#pragma once

#include "gla/generator/problem.h"
#include "gla/generator/status.h"
#include "json.h"

namespace gla {

Json to_json(const Problem& problem);
Json to_json(const Workload& workload);
Result<Problem> problem_from_json(const Json& json);
Workload workload_from_json(const Json& json);

}  // namespace gla
