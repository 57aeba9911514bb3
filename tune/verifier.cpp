#include "verifier.h"

#include <fmt/format.h>

#include <algorithm>

#include "gla/generator/render.h"
#include "gla/generator/space.h"

namespace gla {
namespace {

std::string describe(const char* output, const ErrorReport& report, double bar) {
  if (report.nan_mismatches > 0)
    return fmt::format("{} has {} NaN or inf elements where the reference has none, or none where it has",
                       output, report.nan_mismatches);
  if (!(report.overall <= bar))
    return fmt::format("{} is off by {:.2g}, more than {:.2g}", output, report.overall, bar);
  if (!(report.worst <= kSingleHeadAllowance * bar))
    return fmt::format("{} of sequence {}, head {} is off by {:.2g}, more than {:.2g}", output,
                       report.worst_sequence, report.worst_head, report.worst, kSingleHeadAllowance * bar);
  return {};
}

std::string describe(const VerificationCase& spec, const CaseInputs::Errors& errors, Accuracy accuracy) {
  const Bar bar = accuracy_bar(spec.problem, spec.gates, accuracy);
  std::string fault = describe("o", errors.o, bar.o);
  if (fault.empty()) fault = describe("final_state", errors.final_state, bar.final_state);
  if (fault.empty()) fault = errors.stray;
  return fault;
}

}  // namespace

Refusal refusal_of(const Status& status) {
  const bool compile = status.code() == StatusCode::compile;
  const bool launch = status.code() == StatusCode::cuda || status.code() == StatusCode::unsupported;
  return {compile ? "compile" : launch ? "launch" : "error", status.message()};
}

CaseOutcome judge(const VerificationCase& spec, const CaseInputs::Errors& errors) {
  CaseOutcome outcome{.name = spec.name,
                      .error_o = errors.o.overall,
                      .error_state = errors.final_state.overall,
                      .worst_o = errors.o.worst,
                      .worst_state = errors.final_state.worst};
  const std::string not_standard = describe(spec, errors, Accuracy::standard);
  const std::string not_fast = describe(spec, errors, Accuracy::fast);
  outcome.standard = not_standard.empty();
  outcome.fast = not_fast.empty();
  outcome.detail = outcome.fast ? not_standard : not_fast;
  return outcome;
}

Verdict conclude(const std::vector<CaseOutcome>& cases) {
  Verdict verdict{.standard = true, .fast = true};
  for (const CaseOutcome& outcome : cases) {
    verdict.standard = verdict.standard && outcome.standard;
    // The detail worth keeping is the worse fault: one that keeps out of both classes.
    if (!outcome.detail.empty() && (verdict.detail.empty() || (verdict.fast && !outcome.fast)))
      verdict.detail = outcome.name + ": " + outcome.detail;
    verdict.fast = verdict.fast && outcome.fast;
    verdict.error_o = std::max(verdict.error_o, outcome.error_o);
    verdict.error_state = std::max(verdict.error_state, outcome.error_state);
  }
  return verdict;
}

Status Verifier::make_inputs() {
  for (const VerificationCase& spec : specs_) {
    auto tools = tools_.find(spec.problem);
    if (tools == tools_.end()) {
      auto loaded = Tools::load(*gpu_, *cache_, spec.problem);
      if (!loaded.ok()) return loaded.status();
      tools = tools_.emplace(spec.problem, *std::move(loaded)).first;
    }
    auto inputs = CaseInputs::make(*gpu_, tools->second, spec);
    if (!inputs.ok()) return inputs.status();
    inputs_.push_back(*std::move(inputs));
  }
  return {};
}

Answer<Verification> Verifier::verify(const Variant& variant) {
  if (inputs_.empty()) {
    if (const Status status = make_inputs(); !status.ok()) {
      inputs_.clear();
      return {{}, {"error", "the verification's inputs: " + status.message()}};
    }
  }
  Verification verification;
  std::map<Problem, LoadedKernels> kernels;
  for (CaseInputs& inputs : inputs_) {
    const VerificationCase& spec = inputs.spec();
    if (!check(spec.problem, gpu_->architecture(), variant).ok())
      continue;  // a layout that this variant does not serve
    auto loaded = kernels.find(spec.problem);
    if (loaded == kernels.end()) {
      auto fresh = load_variant(*cache_, gpu_->architecture(), spec.problem, variant);
      if (!fresh.ok()) return {{}, refusal_of(fresh.status())};
      loaded = kernels.emplace(spec.problem, *std::move(fresh)).first;
    }
    if (const Status status = run(loaded->second, variant, inputs); !status.ok()) {
      Refusal refusal = refusal_of(status);
      refusal.detail = spec.name + ": " + refusal.detail;
      return {{}, refusal};
    }
    const auto errors = inputs.errors(tools_.at(spec.problem));
    if (!errors.ok()) return {{}, refusal_of(errors.status())};
    verification.cases.push_back(judge(spec, *errors));
  }
  verification.verdict = conclude(verification.cases);
  return {std::move(verification), {}};
}

Status Verifier::run(const LoadedKernels& kernels, const Variant& variant, CaseInputs& inputs) {
  const VerificationCase& spec = inputs.spec();
  const LaunchPlan launches = plan(spec.problem, variant, spec.workload());
  if (launches.workspace_bytes > workspace_.size()) {
    workspace_ = {};
    auto grown = DeviceBuffer::allocate(*gpu_, launches.workspace_bytes);
    if (!grown.ok()) return grown.status();
    workspace_ = *std::move(grown);
  }
  auto args = inputs.poisoned_arguments();
  if (!args.ok()) return args.status();
  if (workspace_) {
    GLA_RETURN_IF_ERROR(gpu_->check(
        gpu_->api().cuMemsetD8Async(workspace_.address(), 0xff, workspace_.size(), gpu_->stream()),
        "poisoning"));
    place_workspace(*args, launches, workspace_.data());
  }
  GLA_RETURN_IF_ERROR(kernels.launch(launches, *args, gpu_->stream()));
  return gpu_->synchronize();
}

}  // namespace gla
