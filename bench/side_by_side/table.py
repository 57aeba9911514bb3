"""Rows as text."""

from __future__ import annotations

from typing import Sequence

from .row import Row

_HEADINGS = (
    "op",
    "shape",
    "mode",
    "dtype",
    "gates",
    "gla ms",
    "FLA ms",
    "eager x",
    "gla graph",
    "FLA graph",
    "graph x",
    "of floor",
    "host us",
    "FLA host",
    "error o",
    "FLA",
    "error S",
    "FLA",
)
_TEXT_COLUMNS = 5  # the others are numbers, to the right


def format_table(rows: Sequence[Row]) -> str:
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    lines = ["  ".join(_padded(text, width, i) for i, (text, width) in enumerate(zip(line, widths))) for line in cells]
    remarks = [
        f"{row.op} {row.shape} {row.mode} {row.dtype} {row.gates}: {text}"
        for row in rows
        for text in (row.failure and f"FAILED: {row.failure}", row.note)
        if text
    ]
    return "\n".join([*(line.rstrip() for line in lines), *([""] if remarks else []), *remarks]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    gla, fla = row.gla, row.fla
    return (
        row.op,
        row.shape,
        row.mode,
        row.dtype,
        row.gates,
        _number(gla.ms, ".4f"),
        _number(fla.ms, ".4f"),
        _number(row.eager_speedup, ".2f"),
        _number(gla.graph_ms, ".4f"),
        _number(fla.graph_ms, ".4f"),
        _number(row.speedup, ".2f"),
        _number(row.floor_share(gla), ".0%"),
        _number(gla.host_us, ".1f"),
        _number(fla.host_us, ".1f"),
        _number(gla.error, ".5f"),
        _number(fla.error, ".5f"),
        _number(gla.state_error, ".5f"),
        _number(fla.state_error, ".5f"),
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _padded(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < _TEXT_COLUMNS else text.rjust(width)
