"""The three ways to time calls. measure.py knows the protocol only, so that tests can drive it without a GPU."""

from __future__ import annotations

import time
from typing import Any, Callable, Protocol

import torch

from .stopping import Sample

HEAD_START_CYCLES = 1_000_000  # half a millisecond for the host to queue its replays


class Stopwatch(Protocol):
    def synchronize(self) -> None:
        """Returns when the device has finished everything."""

    def eager(self, call: Callable[[], Any], calls: int) -> Sample:
        """Back-to-back calls as a user makes them, from an idle device to the last one's end."""

    def host(self, call: Callable[[], Any], calls: int) -> Sample:
        """The host's time to enqueue calls on an idle device; few enough that the driver's queue never fills."""

    def record(self, call: Callable[[], Any], calls: int) -> Any:
        """Calls captured once, for replay(). The call must have been made before, so that it has nothing to compile."""

    def replay(self, recording: Any, calls: int, replays: int) -> Sample:
        """Device time of a recording of `calls` calls, replayed back to back with the host out of the way."""


class CudaStopwatch:
    def __init__(self):
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def eager(self, call: Callable[[], Any], calls: int) -> Sample:
        torch.cuda.synchronize()
        self._begin.record()
        for _ in range(calls):
            call()
        return self._sample(calls)

    def host(self, call: Callable[[], Any], calls: int) -> Sample:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        enqueued = time.perf_counter() - start
        torch.cuda.synchronize()
        return Sample(enqueued / calls, time.perf_counter() - start)

    def record(self, call: Callable[[], Any], calls: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                call()
        graph.replay()  # the first one uploads it
        torch.cuda.synchronize()
        return graph

    def replay(self, recording: torch.cuda.CUDAGraph, calls: int, replays: int) -> Sample:
        torch.cuda.synchronize()
        torch.cuda._sleep(HEAD_START_CYCLES)
        self._begin.record()
        for _ in range(replays):
            recording.replay()
        return self._sample(calls * replays)

    def _sample(self, calls: int) -> Sample:
        self._end.record()
        self._end.synchronize()
        seconds = self._begin.elapsed_time(self._end) * 1e-3
        return Sample(seconds / calls, seconds)
