#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <set>
#include <thread>

#include "call.h"
#include "compiler.h"
#include "dispatch.h"
#include "driver.h"
#include "gla/gla.hpp"
#include "kernel.h"
#include "launch_cache.h"
#include "registry.h"
#include "table_search.h"

namespace gla {
namespace {

constexpr std::uintptr_t kWorkspaceAlignment = 256;

/// A call after its checks.
struct Request {
  Problem problem;
  Workload workload;
  Accuracy accuracy;
};

Result<Request> request_of(Operation operation, const ForwardCall& call) {
  if (Status status = check_shapes(operation, call); !status.ok()) return status;
  return Request{problem_of(operation, call), workload_of(call), call.accuracy};
}

struct Workspace {
  void* data;
  std::size_t size;
};

/// What is left of a call without tokens: one state becomes the other, or zero where `from` is null.
struct StateCopy {
  const void* from;
  void* to;
};

std::size_t state_bytes(const Request& request) {
  return static_cast<std::size_t>(request.workload.sequences * request.workload.heads) *
         static_cast<std::size_t>(request.problem.head_dim_k) *
         static_cast<std::size_t>(request.problem.head_dim_v) * size_of(request.problem.state_dtype);
}

/// What the plan needs, and behind it a copy of the initial state if the call needs one.
std::size_t all_workspace_bytes(const Request& request, const LaunchPlan& plan, bool in_place) {
  return plan.workspace_bytes + (needs_state_copy(plan, in_place) ? state_bytes(request) : 0);
}

/// For an operation that the function's name, `forward` or `backward`, does not go with.
Status wrong_direction(Operation operation, std::string_view function) {
  std::string accepted;
  for (const Operation each : kOperations) {
    if (is_backward(each) != is_backward(operation))
      accepted += fmt::format("{}{}", accepted.empty() ? "" : ", ", to_string(each));
  }
  return invalid_argument(
      fmt::format("operation is {}; {} accepts {}", to_string(operation), function, accepted));
}

Status check_workspace(const Workspace& workspace, std::size_t needed) {
  if (needed == 0) return {};
  if (workspace.data == nullptr)
    return {StatusCode::workspace, fmt::format("workspace is null; this call needs {} bytes", needed)};
  if (workspace.size < needed) {
    return {StatusCode::workspace,
            fmt::format("workspace_size is {} bytes; this call needs {} (workspace_bytes)", workspace.size,
                        needed)};
  }
  if (reinterpret_cast<std::uintptr_t>(workspace.data) % kWorkspaceAlignment != 0) {
    return invalid_argument(
        fmt::format("workspace is {}; it must be {}-byte aligned", workspace.data, kWorkspaceAlignment));
  }
  return {};
}

/// null and the two special handles mean the current context, whatever it is.
bool is_named_stream(CUstream stream) {
  return stream != nullptr && stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD;
}

}  // namespace

std::string_view to_string(Match match) {
  switch (match) {
    case Match::pinned:
      return "pinned";
    case Match::exact:
      return "exact";
    case Match::nearest:
      return "nearest";
    case Match::similar_gpu:
      return "similar GPU";
    case Match::model:
      return "model";
  }
  return "unknown";
}

std::string_view version() {
  return GLA_VERSION;
}

struct Context::Impl {
  Impl(const driver::Api& driver, driver::Device on, driver::PrimaryContext held,
       const ContextOptions& options)
      : api(driver),
        device(std::move(on)),
        primary(std::move(held)),
        log(options.log),
        cache(options.cache_dir.empty() ? CubinCache::default_folder() : options.cache_dir) {
    relaying.multiprocessors = device.architecture.multiprocessors;
    if (options.max_multiprocessors > 0)
      relaying.multiprocessors = std::min(relaying.multiprocessors, options.max_multiprocessors);
  }

  ~Impl() {
    const driver::PrimaryContext::Scope current(primary);
    registry.reset();
  }

  void say(LogLevel level, const std::string& message) const {
    if (log) log(level, message);
  }

  Result<LoadedKernels> load(const Problem& problem, const Variant& variant) {
    std::string note;
    const Source source = render(problem, variant);
    const Result<Cubin> cubin = cache.get(source, device.architecture, &note);
    const bool usual = note == "loaded" || note == "compiled";
    say(usual ? LogLevel::debug : LogLevel::warning, fmt::format("{}: {}", source.name, note));
    if (!cubin.ok()) return cubin.status();
    const driver::PrimaryContext::Scope current(primary);
    return LoadedKernels::load(*cubin, entry_shapes(problem, variant));
  }

  Status check_stream(CUstream stream) const {
    if (!is_named_stream(stream)) return {};
    CUcontext owner = nullptr;
    if (api.cuStreamGetCtx(stream, &owner) != CUDA_SUCCESS || owner == primary.get()) return {};
    return invalid_argument(
        fmt::format("stream belongs to another context; a stream of device {}'s primary context is needed",
                    device.ordinal));
  }

  /// Compiling and loading would break a capture. The primary context must be current.
  Status check_not_captured(const Request& request, CUstream stream) const {
    CUstreamCaptureStatus capture = CU_STREAM_CAPTURE_STATUS_NONE;
    const CUresult result = api.cuStreamIsCapturing(stream, &capture);
    if (result == CUDA_SUCCESS && capture == CU_STREAM_CAPTURE_STATUS_NONE) return {};
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_STREAM_CAPTURE_IMPLICIT)
      return driver::check(api, result, "cuStreamIsCapturing");
    return {
        StatusCode::not_prepared,
        fmt::format("{}, {} is not loaded and the stream is being captured; call prepare() or make one call "
                    "before the capture",
                    to_string(request.problem), to_string(request.workload))};
  }

  /// The primary context must be current.
  Status copy_state(const Request& request, const StateCopy& copy, CUstream stream) const {
    if (copy.to == nullptr || copy.to == copy.from) return {};
    const auto target = reinterpret_cast<CUdeviceptr>(copy.to);
    const std::size_t bytes = state_bytes(request);
    if (copy.from == nullptr)
      return driver::check(api, api.cuMemsetD8Async(target, 0, bytes, stream), "cuMemsetD8Async");
    return driver::check(
        api, api.cuMemcpyDtoDAsync(target, reinterpret_cast<CUdeviceptr>(copy.from), bytes, stream),
        "cuMemcpyDtoDAsync");
  }

  /// Enqueues a checked call. `without_tokens` is all there is to do where there are no tokens.
  template <class Args>
  Status run(const Request& request, Args args, const StateCopy& without_tokens, const Workspace& workspace,
             CUstream stream) const {
    const driver::PrimaryContext::Scope current(primary);  // null and the special streams are its own
    if (Status status = check_stream(stream); !status.ok()) return status;
    const auto& [problem, workload, accuracy] = request;
    if (workload.sequences == 0) return {};
    if (workload.tokens == 0) return copy_state(request, without_tokens, stream);

    const Prepared* prepared = registry->find(problem, workload, accuracy);
    if (prepared == nullptr) {
      if (Status status = check_not_captured(request, stream); !status.ok()) return status;
      const Result<const Prepared*> made = registry->prepare(problem, workload, accuracy);
      if (!made.ok()) return made.status();
      prepared = *made;
    }
    const LaunchPlan& plan = recent_plan(prepared->id, problem, prepared->variant, workload, relaying);
    const bool in_place = is_in_place(args.initial_state, args.final_state);
    if (Status status = check_workspace(workspace, all_workspace_bytes(request, plan, in_place));
        !status.ok())
      return status;
    if (needs_state_copy(plan, in_place)) {
      void* const copy = static_cast<char*>(workspace.data) + plan.workspace_bytes;
      if (Status status = copy_state(request, {args.initial_state, copy}, stream); !status.ok())
        return status;
      args.initial_state = copy;
    }
    place_workspace(args, plan, workspace.data);
    return prepared->kernels.launch(plan, args, stream);
  }

  const driver::Api& api;
  driver::Device device;
  driver::PrimaryContext primary;
  LogCallback log;
  CubinCache cache;
  Relaying relaying;
  std::unique_ptr<Registry> registry;
};

Context::Context(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Context::~Context() = default;

Result<std::unique_ptr<Context>> Context::create(const ContextOptions& options) {
  if (options.max_multiprocessors < 0) {
    return invalid_argument(
        fmt::format("max_multiprocessors is {}; accepted: 0 (all) and up", options.max_multiprocessors));
  }
  const Result<const driver::Api*> api = driver::api();
  if (!api.ok()) return api.status();
  Result<driver::Device> device = driver::device(options.device);
  if (!device.ok()) return device.status();
  Result<std::vector<TableCandidate>> tables = find_tables(*device, table_places(options.table));
  if (!tables.ok()) return tables.status();
  Result<driver::PrimaryContext> primary = driver::PrimaryContext::retain(options.device);
  if (!primary.ok()) return primary.status();

  auto impl = std::make_unique<Impl>(**api, *device, *std::move(primary), options);
  for (const TableCandidate& table : *tables) {
    impl->say(table.doubtful ? LogLevel::warning : LogLevel::info,
              fmt::format("table {} ({}): {}{}", table.path, table.source,
                          is_used(table) ? "" : "not used: ", table.reason));
  }
  impl->registry = std::make_unique<Registry>(
      Dispatcher(*device, *std::move(tables), options.max_multiprocessors),
      [state = impl.get()](const Problem& problem, const Variant& variant) {
        return state->load(problem, variant);
      },
      options.log);
  return std::unique_ptr<Context>(new Context(std::move(impl)));
}

Result<std::size_t> Context::workspace_bytes(Operation operation, const ForwardCall& call) {
  const Result<Request> request = request_of(operation, call);
  if (!request.ok()) return request.status();
  const auto& [problem, workload, accuracy] = *request;
  if (workload.sequences == 0 || workload.tokens == 0) return std::size_t{0};
  const bool in_place = is_in_place(call.initial_state, call.final_state);
  if (const Prepared* prepared = impl_->registry->find(problem, workload, accuracy)) {
    return all_workspace_bytes(
        *request, recent_plan(prepared->id, problem, prepared->variant, workload, impl_->relaying), in_place);
  }
  const Result<Choice> choice = choose(problem, workload, accuracy);
  if (!choice.ok()) return choice.status();
  return all_workspace_bytes(*request, plan(problem, choice->variant, workload, impl_->relaying), in_place);
}

Status Context::forward(Operation operation, const ForwardCall& call, void* workspace,
                        std::size_t workspace_size, Stream stream) {
  const Result<Request> request = request_of(operation, call);
  if (!request.ok()) return request.status();
  if (is_backward(operation)) return wrong_direction(operation, "forward");
  if (Status status = check_tensors(call); !status.ok()) return status;
  return impl_->run(*request, kernel_args(call), {call.initial_state, call.final_state},
                    {workspace, workspace_size}, static_cast<CUstream>(stream));
}

Status Context::chunk_forward(const ForwardCall& call, void* workspace, std::size_t workspace_size,
                              Stream stream) {
  return forward(Operation::chunk_forward, call, workspace, workspace_size, stream);
}

Status Context::recurrent_forward(const ForwardCall& call, void* workspace, std::size_t workspace_size,
                                  Stream stream) {
  return forward(Operation::recurrent_forward, call, workspace, workspace_size, stream);
}

Status Context::backward(Operation operation, const BackwardCall& call, void* workspace,
                         std::size_t workspace_size, Stream stream) {
  const Result<Request> request = request_of(operation, call.forward);
  if (!request.ok()) return request.status();
  if (!is_backward(operation)) return wrong_direction(operation, "backward");
  if (Status status = check_tensors(operation, call); !status.ok()) return status;
  const BackwardArgs args = backward_args(call);
  if (wanted_gradients(args) == 0) return {};
  return impl_->run(*request, args, {call.d_final_state, call.d_initial_state}, {workspace, workspace_size},
                    static_cast<CUstream>(stream));
}

Status Context::chunk_backward(const BackwardCall& call, void* workspace, std::size_t workspace_size,
                               Stream stream) {
  return backward(Operation::chunk_backward, call, workspace, workspace_size, stream);
}

Status Context::recurrent_backward(const BackwardCall& call, void* workspace, std::size_t workspace_size,
                                   Stream stream) {
  return backward(Operation::recurrent_backward, call, workspace, workspace_size, stream);
}

Status Context::prepare(std::span<const Problem> problems, std::span<const Workload> workloads,
                        Accuracy accuracy) {
  std::set<std::pair<Problem, Variant>> wanted;
  for (const Problem& problem : problems) {
    for (const Workload& workload : workloads) {
      const Result<Choice> choice = choose(problem, workload, accuracy);
      if (!choice.ok()) return choice.status();
      wanted.emplace(problem, choice->variant);
    }
  }
  // Every variant once, on all cores; then each workload's entry is published, which compiles nothing more.
  const std::vector<std::pair<Problem, Variant>> jobs(wanted.begin(), wanted.end());
  std::vector<Status> results(jobs.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < jobs.size(); i = next++) {
      // What the log callback or the standard library throws must not leave a helper.
      try {
        results[i] = impl_->registry->load(jobs[i].first, jobs[i].second).status();
      } catch (const std::exception& error) {
        results[i] = {StatusCode::internal, error.what()};
      } catch (...) {
        results[i] = {StatusCode::internal, "an exception that is no std::exception"};
      }
    }
  };
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::jthread> helpers;
  for (std::size_t i = 1; i < std::min(cores, jobs.size()); ++i) helpers.emplace_back(work);
  work();
  helpers.clear();
  for (const Status& result : results) {
    if (!result.ok()) return result;
  }
  for (const Problem& problem : problems) {
    for (const Workload& workload : workloads) {
      const Result<const Prepared*> prepared = impl_->registry->prepare(problem, workload, accuracy);
      if (!prepared.ok()) return prepared.status();
    }
  }
  return {};
}

Result<Choice> Context::choose(const Problem& problem, const Workload& workload, Accuracy accuracy) const {
  return impl_->registry->choose(problem, workload, accuracy);
}

Status Context::pin(const Problem& problem, const Variant& variant) {
  return impl_->registry->pin(problem, variant);
}

void Context::unpin(const Problem& problem) {
  impl_->registry->unpin(problem);
}

}  // namespace gla
