#include "timer.h"

#include <atomic>
#include <utility>

namespace gla {

Result<Timer> Timer::create(const Gpu& gpu) {
  Timer timer(gpu);
  void* gate = nullptr;
  if (gpu.api().cuMemHostAlloc(&gate, sizeof(std::uint32_t), CU_MEMHOSTALLOC_DEVICEMAP) == CUDA_SUCCESS) {
    timer.gate_ = static_cast<std::uint32_t*>(gate);
    *timer.gate_ = 0;
    // Waiting for what is already there tells whether the device can wait at all.
    CUdeviceptr address = 0;
    if (gpu.api().cuMemHostGetDevicePointer(&address, gate, 0) != CUDA_SUCCESS ||
        gpu.api().cuStreamWaitValue32(gpu.stream(), address, 0, CU_STREAM_WAIT_VALUE_GEQ) != CUDA_SUCCESS) {
      (void)gpu.api().cuMemFreeHost(gate);
      timer.gate_ = nullptr;
    }
  }
  return timer;
}

Timer::Timer(Timer&& other) noexcept
    : gpu_(other.gpu_),
      events_(std::move(other.events_)),
      gate_(std::exchange(other.gate_, nullptr)),
      generation_(other.generation_) {
  other.events_.clear();
}

Timer& Timer::operator=(Timer&& other) noexcept {
  std::swap(gpu_, other.gpu_);
  std::swap(events_, other.events_);
  std::swap(gate_, other.gate_);
  std::swap(generation_, other.generation_);
  return *this;
}

Timer::~Timer() {
  for (CUevent event : events_) (void)gpu_->api().cuEventDestroy(event);
  if (gate_ != nullptr) (void)gpu_->api().cuMemFreeHost(gate_);
}

Status Timer::block() {
  ++generation_;
  if (gate_ == nullptr) return {};
  CUdeviceptr address = 0;
  GLA_RETURN_IF_ERROR(
      gpu_->check(gpu_->api().cuMemHostGetDevicePointer(&address, gate_, 0), "cuMemHostGetDevicePointer"));
  return gpu_->check(
      gpu_->api().cuStreamWaitValue32(gpu_->stream(), address, generation_, CU_STREAM_WAIT_VALUE_GEQ),
      "cuStreamWaitValue32");
}

void Timer::release() {
  if (gate_ != nullptr) std::atomic_ref<std::uint32_t>(*gate_).store(generation_, std::memory_order_release);
}

Result<std::vector<double>> Timer::time(int rounds, const Enqueue& enqueue) {
  const auto& api = gpu_->api();
  while (events_.size() < 2 * static_cast<std::size_t>(rounds)) {
    CUevent event = nullptr;
    GLA_RETURN_IF_ERROR(gpu_->check(api.cuEventCreate(&event, CU_EVENT_DEFAULT), "cuEventCreate"));
    events_.push_back(event);
  }
  GLA_RETURN_IF_ERROR(block());
  Status status;
  for (int round = 0; round < rounds && status.ok(); ++round) {
    const auto first = 2 * static_cast<std::size_t>(round);
    status = gpu_->check(api.cuEventRecord(events_[first], gpu_->stream()), "cuEventRecord");
    if (status.ok()) status = enqueue(round);
    if (status.ok())
      status = gpu_->check(api.cuEventRecord(events_[first + 1], gpu_->stream()), "cuEventRecord");
  }
  release();  // also after a failure: a stream that stays blocked would hang whoever synchronizes next
  const Status finished = gpu_->synchronize();
  if (!status.ok()) return status;
  if (!finished.ok()) return finished;
  std::vector<double> seconds;
  for (std::size_t round = 0; round < static_cast<std::size_t>(rounds); ++round) {
    float milliseconds = 0;
    GLA_RETURN_IF_ERROR(
        gpu_->check(api.cuEventElapsedTime(&milliseconds, events_[2 * round], events_[2 * round + 1]),
                    "cuEventElapsedTime"));
    seconds.push_back(static_cast<double>(milliseconds) * 1e-3);
  }
  return seconds;
}

Result<Graph> Graph::record(const Gpu& gpu, const std::function<Status()>& enqueue) {
  const auto& api = gpu.api();
  Graph graph(gpu);
  GLA_RETURN_IF_ERROR(gpu.check(api.cuStreamBeginCapture(gpu.stream(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
                                "cuStreamBeginCapture"));
  const Status enqueued = enqueue();
  CUgraph recorded = nullptr;
  const Status ended = gpu.check(api.cuStreamEndCapture(gpu.stream(), &recorded), "cuStreamEndCapture");
  Status status = enqueued.ok() ? ended : enqueued;
  if (status.ok())
    status =
        gpu.check(api.cuGraphInstantiateWithFlags(&graph.executable_, recorded, 0), "cuGraphInstantiate");
  if (recorded != nullptr) (void)api.cuGraphDestroy(recorded);
  if (!status.ok()) return status;
  GLA_RETURN_IF_ERROR(graph.launch());
  GLA_RETURN_IF_ERROR(gpu.synchronize());
  return graph;
}

Graph::Graph(Graph&& other) noexcept
    : gpu_(other.gpu_), executable_(std::exchange(other.executable_, nullptr)) {}

Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(gpu_, other.gpu_);
  std::swap(executable_, other.executable_);
  return *this;
}

Graph::~Graph() {
  if (executable_ != nullptr) (void)gpu_->api().cuGraphExecDestroy(executable_);
}

Status Graph::launch() const {
  return gpu_->check(gpu_->api().cuGraphLaunch(executable_, gpu_->stream()), "cuGraphLaunch");
}

}  // namespace gla
