#include "side_streams.h"

#include "relaxed_capture.h"

namespace gla {

Result<std::unique_ptr<SideStream>> SideStream::create(const driver::Api& api) {
  const driver::RelaxedCapture relaxed(api);
  std::unique_ptr<SideStream> side(new SideStream(api));
  Status status =
      driver::check(api, api.cuStreamCreate(&side->stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  for (CUevent* event : {&side->begun_, &side->done_}) {
    if (!status.ok()) break;
    status = driver::check(api, api.cuEventCreate(event, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  }
  if (!status.ok()) return status;
  return side;
}

SideStream::~SideStream() {
  if (done_ != nullptr) (void)api_.cuEventDestroy(done_);
  if (begun_ != nullptr) (void)api_.cuEventDestroy(begun_);
  if (stream_ != nullptr) (void)api_.cuStreamDestroy(stream_);
}

Status SideStream::begin_behind(CUstream stream) const {
  if (const CUresult result = api_.cuEventRecord(begun_, stream); result != CUDA_SUCCESS)
    return driver::check(api_, result, "cuEventRecord");
  return driver::check(api_, api_.cuStreamWaitEvent(stream_, begun_, 0), "cuStreamWaitEvent");
}

Status SideStream::end_before(CUstream stream) const {
  if (const CUresult result = api_.cuEventRecord(done_, stream_); result != CUDA_SUCCESS)
    return driver::check(api_, result, "cuEventRecord");
  return driver::check(api_, api_.cuStreamWaitEvent(stream, done_, 0), "cuStreamWaitEvent");
}

Result<const SideStream*> SideStreams::of(CUstream stream) {
  const std::thread::id owner =
      stream == CU_STREAM_PER_THREAD ? std::this_thread::get_id() : std::thread::id{};
  const std::lock_guard lock(mutex_);
  std::unique_ptr<SideStream>& side = streams_[{stream, owner}];
  if (side == nullptr) {
    Result<std::unique_ptr<SideStream>> made = SideStream::create(api_);
    if (!made.ok()) return made.status();
    side = *std::move(made);
  }
  return side.get();
}

Result<int> SideStreams::high_priority() {
  int least = 0, greatest = 0;
  if (Status status = driver::check(api_, api_.cuCtxGetStreamPriorityRange(&least, &greatest),
                                    "cuCtxGetStreamPriorityRange");
      !status.ok())
    return status;
  return greatest;
}

}  // namespace gla
