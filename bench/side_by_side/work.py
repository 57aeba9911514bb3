"""What a child process does: the rows of one shape."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Sequence

from .cases import Case
from .child_process import Send
from .clock_guard import ClockGuard, read_sm_clock
from .libraries import load_fla, load_gla_tune
from .machine import Machine
from .make_row import Circumstances, empty_row, measured_row
from .measure import Workbench, measure
from .row import Row
from .stopwatch import CudaStopwatch


@dataclass(frozen=True)
class Task:
    case: Case
    without_fla: str | None  # why gla_tune is measured alone


@dataclass(frozen=True)
class Job:
    tasks: Sequence[Task]
    machine: Machine
    commit: str | None
    seconds: float  # of measuring, per row


@dataclass(frozen=True)
class Stage:
    """Sent before each step."""

    name: str
    library: str | None  # the only one that it depends on


@dataclass(frozen=True)
class Failed:
    """Sent last: what went wrong in the stage before it."""

    reason: str


def measure_job(job: Job, send: Send) -> None:
    """Sends Stages, and the Row of each task; stops at a failure, after which CUDA cannot be trusted."""

    def report(stage: str, library: str | None) -> None:
        send(Stage(stage, library))

    try:
        for index, task in enumerate(job.tasks):
            send(_row(job, task, index == 0, report))
    except Exception as error:  # of either library: the parent decides what that costs
        traceback.print_exc()
        send(Failed(f"{type(error).__name__}: {error}"))


def _row(job: Job, task: Task, first_of_its_process: bool, report) -> Row:
    libraries = [load_gla_tune()]
    if not task.without_fla:
        report("import of fla", "fla")
        libraries.append(load_fla())
    guard = ClockGuard(read_sm_clock)
    bench = Workbench(CudaStopwatch(), guard, "cuda", job.machine.l2_bytes, job.seconds, report)
    measured = measure(task.case, libraries, bench)
    circumstances = Circumstances(task.without_fla, first_of_its_process, guard.describe(), guard.throttled_rounds)
    return measured_row(empty_row(task.case, job.machine, job.commit), job.machine, measured, circumstances)
