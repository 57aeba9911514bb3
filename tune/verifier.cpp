#include "verifier.h"

#include "gla/generator/render.h"
#include "gla/generator/space.h"

namespace gla {

Refusal refusal_of(const Status& status) {
  const bool compile = status.code() == StatusCode::compile;
  const bool launch = status.code() == StatusCode::cuda || status.code() == StatusCode::unsupported;
  return {compile ? "compile" : launch ? "launch" : "error", status.message()};
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
