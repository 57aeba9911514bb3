#include "verifier.h"

#include "gla/generator/render.h"

namespace gla {

Refusal refusal_of(const Status& status) {
  const bool compile = status.code() == StatusCode::compile;
  const bool launch = status.code() == StatusCode::cuda || status.code() == StatusCode::unsupported;
  return {compile ? "compile" : launch ? "launch" : "error", status.message()};
}

Status Verifier::make_inputs() {
  auto tools = Tools::load(*gpu_, *cache_, specs_.front().problem);
  if (!tools.ok()) return tools.status();
  tools_ = *std::move(tools);
  for (const VerificationCase& spec : specs_) {
    auto inputs = CaseInputs::make(*gpu_, *tools_, spec);
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
  const auto kernels = load_variant(*cache_, gpu_->architecture(), specs_.front().problem, variant);
  if (!kernels.ok()) return {{}, refusal_of(kernels.status())};
  Verification verification;
  for (CaseInputs& inputs : inputs_) {
    if (const Status status = run(*kernels, variant, inputs); !status.ok()) {
      Refusal refusal = refusal_of(status);
      refusal.detail = inputs.spec().name + ": " + refusal.detail;
      return {{}, refusal};
    }
    const auto errors = inputs.errors(*tools_);
    if (!errors.ok()) return {{}, refusal_of(errors.status())};
    verification.cases.push_back(judge(inputs.spec(), *errors));
  }
  verification.verdict = conclude(verification.cases);
  return {std::move(verification), {}};
}

Status Verifier::run(const LoadedKernels& kernels, const Variant& variant, CaseInputs& inputs) {
  const VerificationCase& spec = inputs.spec();
  const LaunchPlan launches = plan(spec.problem, variant, spec.workload(), {.legs = spec.legs});
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
  }
  place_workspace(*args, launches, workspace_.data());
  GLA_RETURN_IF_ERROR(launch(kernels, spec.problem, launches, *args, gpu_->stream()));
  return gpu_->synchronize();
}

}  // namespace gla
