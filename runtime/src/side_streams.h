// Streams for launches that may run beside the others of their call.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "driver.h"

namespace gla {

/// A stream beside the one that calls come on. Their kernels have the lowest priority that there is.
class SideStream {
 public:
  /// The context must be current; a capture of another stream is not disturbed.
  static Result<std::unique_ptr<SideStream>> create(const driver::Api& api);
  ~SideStream();
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  CUstream get() const { return stream_; }
  /// What is enqueued here from now on runs behind what `stream` has so far; in its capture, if it has one.
  Status begin_behind(CUstream stream) const;
  /// The reverse.
  Status end_before(CUstream stream) const;

 private:
  explicit SideStream(const driver::Api& api) : api_(api) {}
  const driver::Api& api_;
  CUstream stream_ = nullptr;
  CUevent begun_ = nullptr, done_ = nullptr;
};

/// One for each stream, so that calls which may overlap still do, and a capture finds no other one's in its way.
class SideStreams {
 public:
  explicit SideStreams(const driver::Api& api) : api_(api) {}
  /// Made with the first call on the stream, and good until this object ends.
  Result<const SideStream*> of(CUstream stream);
  /// The value of CU_LAUNCH_ATTRIBUTE_PRIORITY for all that side streams should give way to. The context must be current.
  Result<int> high_priority();

 private:
  const driver::Api& api_;
  std::mutex mutex_;
  // A thread's own default stream has one handle in all threads.
  std::map<std::pair<CUstream, std::thread::id>, std::unique_ptr<SideStream>> streams_;
};

}  // namespace gla
