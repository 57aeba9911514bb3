"""One case, both sides: errors, first calls, and times taken in turns."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Sequence

import torch

from .accuracy import ErrorReport, output_error, state_error
from .cases import Case
from .clock_guard import ClockGuard
from .inputs import CallInputs, rotating_inputs
from .libraries import Library
from .operations import Outputs
from .reference import Reference, reference
from .rotating_call import RotatingCall
from .rounds import alternate
from .stopping import StoppingLimits
from .stopwatch import Stopwatch
from .summary import Summary

SAMPLE_SECONDS = 0.005  # long against the resolution of events, half a microsecond
WARM_UP_SECONDS = 0.2  # an idle GPU raises its clock within some 50 ms of work
WARM_UP_CALLS = 5
LEAST_CALLS, MOST_CALLS = 5, 100  # in an eager sample
LEAST_CALLS_IN_GRAPH = 8  # what lies between two replays is then no part of the time per call
MOST_REPLAYS = 50
HOST_CALLS = 20  # of about 25 launches each at most: the driver's queue holds a thousand
HOST_LEAST_SAMPLES, HOST_MOST_SAMPLES, HOST_UNCERTAINTY = 7, 25, 0.02

# What is about to happen, and the name of the library that it depends on if it is only one.
Report = Callable[[str, "str | None"], None]


@dataclass
class Workbench:
    """What cases are measured with; the same for all of a process."""

    stopwatch: Stopwatch
    guard: ClockGuard
    device: str
    l2_bytes: int
    seconds: float  # to spend on a case, about
    report: Report


@dataclass
class SideResult:
    """Of one library; filled in as it is measured."""

    first_call: float | None = None  # seconds, until the device was done
    variant: str | None = None  # which kernel the library says it ran
    o_error: ErrorReport | None = None
    state_error: ErrorReport | None = None  # stays None without a final state
    eager: Summary | None = None
    host: Summary | None = None
    graph: Summary | None = None  # stays None if the calls cannot be captured


@dataclass
class Measurement:
    sides: list[SideResult]  # in the order of the libraries
    rotating_bytes: int  # of the inputs of all sets
    notes: list[str]


@dataclass
class _Recording:
    handle: Any
    calls: int
    replays: int


@dataclass
class _Side:
    library: Library
    inputs: CallInputs  # of the first call
    call: RotatingCall
    calls: int = LEAST_CALLS  # in an eager sample
    recording: _Recording | None = None
    result: SideResult = field(default_factory=SideResult)


def measure(case: Case, libraries: Sequence[Library], bench: Workbench) -> Measurement:
    bench.report("inputs and reference", None)
    sets = rotating_inputs(case, bench.device, bench.l2_bytes)
    sides = []
    for library in libraries:
        group = case.shape.group if library.repeats_heads else 1
        repeated = [inputs.with_repeated_heads(group) for inputs in sets]
        sides.append(_Side(library, repeated[0], RotatingCall(case.operation, library, repeated)))
    truth = reference(sets[0], case.lengths)
    _make_autograd_ready(bench.device)
    for side in sides:
        _first_call(side, case, truth, bench)
    del truth  # gigabytes
    for side in sides:
        _warm_up(side, bench)
    _time_eager(sides, bench)
    notes = _time_graphs(sides, bench)
    rotating_bytes = sum(inputs.rotating_bytes for inputs in sets)
    return Measurement([side.result for side in sides], rotating_bytes, notes)


def _make_autograd_ready(device: str) -> None:
    """PyTorch imports sympy in a process's first pass from a given gradient: 2 to 3 s that are neither side's."""
    x = torch.ones(1, device=device, requires_grad=True)
    torch.autograd.grad(2 * x, x, torch.ones_like(x))


def _first_call(side: _Side, case: Case, truth: Reference, bench: Workbench) -> None:
    bench.report(f"first call of {side.library.name}", side.library.name)
    bench.stopwatch.synchronize()
    start = time.perf_counter()
    outputs = Outputs(*side.call())
    bench.stopwatch.synchronize()
    side.result.first_call = time.perf_counter() - start
    side.result.variant = side.library.variant_of(case.operation.forward(side.library, side.inputs))
    side.result.o_error = output_error(outputs.o, truth.o, case.lengths)
    if case.states:
        side.result.state_error = state_error(outputs.final_state, _for_heads_of(outputs, truth))


def _for_heads_of(outputs: Outputs, truth: Reference) -> torch.Tensor:
    """The states of the reference as often as a library without grouped queries has them."""
    copies = outputs.final_state.shape[1] // truth.final_state.shape[1]
    return truth.final_state if copies == 1 else truth.final_state.repeat_interleave(copies, 1)


def _warm_up(side: _Side, bench: Workbench) -> None:
    bench.report(f"warm-up of {side.library.name}", side.library.name)
    bench.stopwatch.eager(side.call, side.call.sets)
    spent = 0.0
    while spent < WARM_UP_SECONDS:
        sample = bench.stopwatch.eager(side.call, WARM_UP_CALLS)
        spent += sample.cost
    side.calls = _clamped(SAMPLE_SECONDS / sample.seconds, LEAST_CALLS, MOST_CALLS)


def _time_eager(sides: Sequence[_Side], bench: Workbench) -> None:
    bench.report("eager and host time", None)
    watch, limits = bench.stopwatch, _limits(sides, bench)
    summaries = alternate([partial(watch.eager, side.call, side.calls) for side in sides], limits, bench.guard)
    for side, summary in zip(sides, summaries):
        side.result.eager = summary
    limits = StoppingLimits(limits.budget, HOST_LEAST_SAMPLES, HOST_MOST_SAMPLES, HOST_UNCERTAINTY)
    summaries = alternate([partial(watch.host, side.call, HOST_CALLS) for side in sides], limits, bench.guard)
    for side, summary in zip(sides, summaries):
        side.result.host = summary


def _time_graphs(sides: Sequence[_Side], bench: Workbench) -> list[str]:
    """Notes on libraries whose calls cannot be captured."""
    notes = [note for note in [_record(side, bench) for side in sides] if note]
    bench.report("graph time", None)
    recorded = [side for side in sides if side.recording]
    samplers = [
        partial(bench.stopwatch.replay, side.recording.handle, side.recording.calls, side.recording.replays)
        for side in recorded
    ]
    for side, summary in zip(recorded, alternate(samplers, _limits(sides, bench), bench.guard)):
        side.result.graph = summary
    return notes


def _limits(sides: Sequence[_Side], bench: Workbench) -> StoppingLimits:
    return StoppingLimits(budget=bench.seconds / 2 / len(sides))  # half eager, half graph


def _record(side: _Side, bench: Workbench) -> str | None:
    """A note if the library's calls cannot be captured; that column stays empty then."""
    bench.report(f"graph of {side.library.name}", side.library.name)
    side.call.forget_outputs()
    calls = side.call.sets * math.ceil(LEAST_CALLS_IN_GRAPH / side.call.sets)
    try:
        handle = bench.stopwatch.record(side.call, calls)
    except Exception as error:  # whatever a library raises when it must not allocate, compile or synchronize
        return f"{side.library.name} cannot be captured into a CUDA graph: {error}"
    once = bench.stopwatch.replay(handle, calls, 1)
    side.recording = _Recording(handle, calls, _clamped(SAMPLE_SECONDS / once.cost, 1, MOST_REPLAYS))
    return None


def _clamped(value: float, least: int, most: int) -> int:
    return max(least, min(most, math.ceil(value)))
