"""From what was measured to the row that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone

from .cases import Case
from .floor import floor_bytes
from .inputs import L2_MULTIPLE
from .machine import Machine
from .measure import Measurement, SideResult
from .row import Columns, Row

METHOD = (
    "medians of time per call, both sides in turns in one process; eager: back-to-back calls with their host time; "
    "graph: calls replayed from a CUDA graph; inputs rotate through more than 4 times the L2; floor: bytes of each "
    "input and output once over the copy bandwidth measured in the same run"
)


def empty_row(case: Case, machine: Machine, commit: str | None) -> Row:
    key = case.key
    return Row(
        op=key.op,
        dtype=key.dtype,
        shape=key.shape,
        mode=key.mode,
        gates=key.gates,
        lengths=key.lengths,
        sequences=len(case.lengths),
        seed=key.seed,
        floor_ms=floor_bytes(case) / machine.copy_bandwidth * 1e3,
        copy_bandwidth=machine.copy_bandwidth,
        device=machine.device,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=commit,
        versions=machine.versions,
        method=METHOD,
    )


@dataclass(frozen=True)
class Circumstances:
    """What else a row says of how it came about."""

    without_fla: str | None
    first_of_its_process: bool
    clock: str
    throttled_rounds: int


def measured_row(empty: Row, machine: Machine, measured: Measurement, circumstances: Circumstances) -> Row:
    columns = [_columns(side, circumstances.first_of_its_process) for side in measured.sides]
    times = [time for side in measured.sides for time in (side.eager, side.host, side.graph) if time]
    notes = [circumstances.without_fla] if circumstances.without_fla else []
    notes += measured.notes
    if measured.rotating_bytes < L2_MULTIPLE * machine.l2_bytes:
        notes.append(f"inputs of {measured.rotating_bytes} bytes do not outgrow the L2 {L2_MULTIPLE} times")
    gla = columns[0]
    return replace(
        empty,
        gla=gla,
        fla=columns[1] if len(columns) > 1 else Columns(),
        variant=measured.sides[0].variant,
        noise=max(time.noise for time in times),
        samples=min(time.samples for time in times),
        rotating_bytes=measured.rotating_bytes,
        clock=circumstances.clock,
        throttled_rounds=circumstances.throttled_rounds,
        note="; ".join(notes) or None,
        failure=f"gla_tune's outputs hold {gla.nonfinite} values that are not finite" if gla.nonfinite else None,
    )


def _columns(side: SideResult, first_of_its_process: bool) -> Columns:
    reports = [report for report in (side.o_error, side.state_error) if report]
    return Columns(
        ms=side.eager.median * 1e3,
        graph_ms=side.graph.median * 1e3 if side.graph else None,
        error=side.o_error.overall,
        worst_error=side.o_error.worst,
        state_error=side.state_error.overall if side.state_error else None,
        worst_state_error=side.state_error.worst if side.state_error else None,
        nonfinite=sum(report.nonfinite for report in reports),
        host_us=side.host.median * 1e6,
        first_call_ms=side.first_call * 1e3 if first_of_its_process else None,
    )
