"""One row of a result: what --json writes, the journal keeps and the table and the chart show."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .cases import CaseKey
from .machine import Versions


@dataclass(frozen=True)
class Columns:
    """What is measured of each side. None: not measured, or the call has no such thing."""

    ms: float | None = None  # eager
    graph_ms: float | None = None
    error: float | None = None  # of o, relative, against fp64
    worst_error: float | None = None  # in the worst single (sequence, head)
    state_error: float | None = None
    worst_state_error: float | None = None
    nonfinite: int | None = None  # values of o and the final state that are NaN or infinite
    host_us: float | None = None
    first_call_ms: float | None = None  # of a new process, compilation included; None in rows that share its process


@dataclass(frozen=True)
class Row:
    op: str
    dtype: str
    shape: str
    mode: str
    gates: str
    lengths: str
    sequences: int
    seed: int
    floor_ms: float
    copy_bandwidth: float  # bytes per second, read and written
    device: str
    date: str  # UTC
    commit: str | None
    versions: Versions
    method: str
    gla: Columns = Columns()
    fla: Columns = Columns()
    variant: str | None = None  # the kernel that gla_tune ran, and why that one
    noise: float | None = None  # median absolute deviation / median, of the noisiest time
    samples: int | None = None  # of the time with the fewest
    rotating_bytes: int | None = None
    clock: str | None = None
    throttled_rounds: int | None = None
    note: str | None = None  # what is missing or odd, and why
    failure: str | None = None  # why the row does not count

    @property
    def key(self) -> CaseKey:
        return CaseKey(self.op, self.shape, self.mode, self.dtype, self.gates, self.lengths, self.seed)

    @property
    def speedup(self) -> float | None:
        """Over FLA, of device time."""
        return _ratio(self.fla.graph_ms, self.gla.graph_ms)

    @property
    def eager_speedup(self) -> float | None:
        return _ratio(self.fla.ms, self.gla.ms)

    def floor_share(self, columns: Columns) -> float | None:
        return _ratio(self.floor_ms, columns.graph_ms)

    def to_json(self) -> dict[str, Any]:
        """Flat: the columns of each side under names of their own."""
        values = asdict(self)
        gla, fla = values.pop("gla"), values.pop("fla")
        for column in fields(Columns):
            values[_gla_name(column.name)] = gla[column.name]
            values[_fla_name(column.name)] = fla[column.name]
        return values


def row_from_json(values: dict[str, Any]) -> Row:
    values = dict(values)
    names = [column.name for column in fields(Columns)]
    gla = Columns(**{name: values.pop(_gla_name(name)) for name in names})
    fla = Columns(**{name: values.pop(_fla_name(name)) for name in names})
    return Row(**{**values, "gla": gla, "fla": fla, "versions": Versions(**values["versions"])})


def _gla_name(column: str) -> str:
    return f"gla_{column}" if column in ("ms", "graph_ms") else column


def _fla_name(column: str) -> str:
    return f"fla_{column}"


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or denominator is None else numerator / denominator
