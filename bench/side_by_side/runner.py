"""Through the cases, in child processes, so that no row can take the others down: one for each shape, or for all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Callable, Iterator, Sequence

from .cases import Case
from .child_process import ChildDied, Work, messages_of
from .machine import Machine
from .make_row import empty_row
from .row import Row
from .work import Failed, Job, Stage, Task, measure_job


@dataclass(frozen=True)
class Run:
    machine: Machine
    commit: str | None
    seconds: float  # of measuring, per row
    time_limit: float  # seconds that one stage of a row may take, such as a first call that compiles
    progress: Callable[[str], None]
    work: Work = measure_job
    one_process: bool = False  # rows of other shapes share a process too, until it is lost


def rows_of(cases: Sequence[Case], run: Run) -> Iterator[Row]:
    """The rows as they are measured; one that fails has its reason in it."""
    for _, group in groupby(cases, key=lambda case: run.one_process or (case.operation.name, case.shape)):
        pending = deque(Task(case, run.machine.without_fla) for case in group)
        while pending:
            yield from _rows_of_child(pending, run)


def _rows_of_child(pending: deque[Task], run: Run) -> Iterator[Row]:
    """Takes the tasks that it finishes, or gives up on, from `pending`."""
    stage = Stage("start of the process", None)
    reason = "ended early"
    try:
        for message in messages_of(run.work, Job(list(pending), run.machine, run.commit, run.seconds), run.time_limit):
            if isinstance(message, Row):
                pending.popleft()
                yield message
            elif isinstance(message, Failed):
                reason = message.reason
            else:
                stage = message
                run.progress(f"{pending[0].case}: {stage.name}")
    except ChildDied as death:
        reason = str(death)
    if not pending:
        return
    task = pending.popleft()
    reason = f"{stage.name}: {reason}"
    if stage.library == "fla":
        run.progress(f"{task.case}: again without FLA, because of {reason}")
        pending.appendleft(replace(task, without_fla=f"FLA failed in {reason}"))
    else:
        yield replace(empty_row(task.case, run.machine, run.commit), failure=reason)
