"""The chart of a result: how much faster than FLA, and how close to the floor. Needs matplotlib, and no GPU."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from .errors import UsageError
from .row import Row

DARK, LIGHT, GREY = "#3a7d44", "#a9cfae", "#b9bfc4"
BAR = 0.38  # of the height that a row has
ROW_INCHES, HEAD_INCHES, FOOT_INCHES, WIDTH_INCHES = 0.42, 1.4, 1.3, 13.0
CAPTION_WIDTH = 190  # characters


def plot(rows: Sequence[Row], source: Path) -> list[Path]:
    """Writes a PNG and an SVG beside the result that the rows come from."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib (pip install matplotlib): {error}") from error
    placed = _placed([row for row in rows if row.gla.graph_ms is not None])
    if not placed.rows:
        raise UsageError(f"{source} holds no row with a graph time of gla-tune, there is nothing to draw")

    height = HEAD_INCHES + FOOT_INCHES + ROW_INCHES * placed.height
    figure = Figure(figsize=(WIDTH_INCHES, height))
    speedups, shares = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(
        left=0.24, right=0.97, wspace=0.06, top=1 - HEAD_INCHES / height, bottom=FOOT_INCHES / height
    )
    _draw_speedups(speedups, placed.rows)
    _draw_shares(shares, placed.rows)
    speedups.set_ylim(placed.height - 0.5, -0.8)
    usual = placed.rows[0].row
    speedups.set_yticks([item.y for item in placed.rows], [_label(item.row, usual) for item in placed.rows])
    for title in placed.titles:
        place = {"transform": speedups.get_yaxis_transform(), "ha": "right", "va": "center"}
        speedups.text(-0.02, title.y, title.text, weight="bold", **place)
    title = f"gla-tune beside flash-linear-attention on {usual.device}"
    figure.text(0.5, 1 - 0.3 / height, title, weight="bold", ha="center", va="top", fontsize=12)
    caption = _caption([item.row for item in placed.rows], source)
    figure.text(0.02, 0.1 / height, caption, fontsize=8, va="bottom")
    targets = [source.with_suffix(suffix) for suffix in (".png", ".svg")]
    for target in targets:
        figure.savefig(target, dpi=150)
    return targets


@dataclass(frozen=True)
class _PlacedRow:
    y: float
    row: Row


@dataclass(frozen=True)
class _Title:
    y: float
    text: str


@dataclass(frozen=True)
class _Placed:
    rows: list[_PlacedRow]
    titles: list[_Title]
    height: float


def _placed(rows: Sequence[Row]) -> _Placed:
    """One line per row, and one for the name of each operation above its rows."""
    placed = _Placed([], [], 0)
    y, op = 0, None
    operations = list(dict.fromkeys(row.op for row in rows))
    for row in sorted(rows, key=lambda row: operations.index(row.op)):
        if row.op != op:
            placed.titles.append(_Title(y, row.op))
            y, op = y + 1, row.op
        placed.rows.append(_PlacedRow(y, row))
        y += 1
    return _Placed(placed.rows, placed.titles, y)


def _draw_speedups(axes, rows: Sequence[_PlacedRow]) -> None:
    """Bars from 1, where both take the same time, on a logarithmic axis: half as fast looks as far as twice as fast."""
    values = [1.0]
    for item in rows:
        for offset, value, colour in ((-0.5, item.row.speedup, DARK), (0.5, item.row.eager_speedup, LIGHT)):
            y = item.y + offset * BAR
            if value is None:
                axes.text(1, y, " not measured", va="center", fontsize=7, color="#777")
                continue
            values.append(value)
            axes.barh(y, value - 1, BAR, left=1, color=colour)
            axes.text(max(value, 1), y, f" {value:.2f}x", va="center", fontsize=7)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.9 * min(values), 1.5 * max(values))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.axvline(1, color="#222", linewidth=0.8)
    axes.set_title("times faster than FLA", fontsize=10, pad=22)
    _legend(axes, [(DARK, "device time (graph)"), (LIGHT, "call as a user makes it (eager)")])


def _draw_shares(axes, rows: Sequence[_PlacedRow]) -> None:
    for item in rows:
        for offset, columns, colour in ((-0.5, item.row.gla, DARK), (0.5, item.row.fla, GREY)):
            share = item.row.floor_share(columns)
            if share is None:
                continue
            y = item.y + offset * BAR
            axes.barh(y, share, BAR, color=colour)
            axes.text(share, y, f" {share:.0%} ({columns.graph_ms:.4g} ms)", va="center", fontsize=7)
    axes.set_xlim(0, 1.3)  # the numbers stand to the right of the bars
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.axvline(1, color="#aaa", linewidth=0.8, linestyle=":")
    axes.set_title("share of the floor that the device time reaches", fontsize=10, pad=22)
    _legend(axes, [(DARK, "gla-tune"), (GREY, "FLA")])


def _legend(axes, entries) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=label) for colour, label in entries]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2, fontsize=8, frameon=False)


def _label(row: Row, usual: Row) -> str:
    """What the caption does not say of the row."""
    unusual = [
        value
        for value, common in ((row.dtype, usual.dtype), (row.gates, usual.gates), (row.lengths, usual.lengths))
        if value != common
    ]
    return ", ".join([row.shape.replace("_", " "), row.mode, *unusual])


def _caption(rows: Sequence[Row], source: Path) -> str:
    first = rows[0]
    dates = sorted({row.date[:10] for row in rows})
    versions = ", ".join(
        f"{name} {version}"
        for name, version in (
            ("gla-tune", first.versions.gla_tune),
            ("FLA", first.versions.fla),
            ("PyTorch", first.versions.torch),
            ("Triton", first.versions.triton),
            ("driver", first.versions.driver),
        )
        if version
    )
    others = any((row.dtype, row.gates) != (first.dtype, first.gates) for row in rows)
    settings = f"{first.dtype}, gates {first.gates}" + (" where nothing else is said" if others else "")
    text = (
        f"{first.device}, {' to '.join({dates[0]: None, dates[-1]: None})}; {settings}; {versions}; "
        f"commit {', '.join(dict.fromkeys(row.commit or 'unknown' for row in rows))}. "
        f"Method: {first.method}, {first.copy_bandwidth * 1e-12:.2f} TB/s. Data: {source.name}"
    )
    return "\n".join(textwrap.wrap(text, CAPTION_WIDTH))
