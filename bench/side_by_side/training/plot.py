"""The chart of a result: both loss curves, and what a step takes. Needs matplotlib, and no GPU."""

from __future__ import annotations

import textwrap
from pathlib import Path

from ..errors import UsageError
from ..plot import DARK, GREY

NAMES = {"gla_tune": ("FLA on gla-tune", DARK), "fla": ("FLA", GREY)}
BARS = (("step_ms", "step, ms", 1), ("peak_bytes", "peak memory, GiB", 2**-30))
CAPTION_WIDTH = 150  # characters


def plot(result: dict, source: Path) -> list[Path]:
    """Writes a PNG and an SVG beside the result."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib (pip install matplotlib): {error}") from error
    sides = {name: result["sides"][name] for name in NAMES if name in result["sides"]}
    if not sides:
        raise UsageError(f"{source} holds no side, there is nothing to draw")
    figure = Figure(figsize=(11, 4.5))
    curves, *bars = figure.subplots(1, 1 + len(BARS), width_ratios=[3, 1, 1])
    figure.subplots_adjust(left=0.06, right=0.98, wspace=0.3, top=0.86, bottom=0.24)
    for name, side in sides.items():
        label, colour = NAMES[name]
        curves.plot(side["losses"], color=colour, label=label, linestyle="-" if name == "gla_tune" else "--")
    curves.set_xlabel("step")
    curves.set_title("loss", fontsize=10)
    curves.legend(fontsize=8, frameon=False)
    for axes, (key, title, factor) in zip(bars, BARS):
        for place, (name, side) in enumerate(sides.items()):
            value = side[key] * factor
            axes.bar(place, value, color=NAMES[name][1])
            axes.text(place, value, f"{value:.4g}", ha="center", va="bottom", fontsize=8)
        axes.set_xticks(range(len(sides)), [NAMES[name][0] for name in sides], fontsize=8)
        axes.set_title(title, fontsize=10)
    figure.suptitle(f"Training on {result['device']}", weight="bold", fontsize=12)
    figure.text(0.02, 0.03, _caption(result, source), fontsize=8, va="bottom")
    targets = [source.with_suffix(suffix) for suffix in (".png", ".svg")]
    for target in targets:
        figure.savefig(target, dpi=150)
    return targets


def _caption(result: dict, source: Path) -> str:
    config = result["config"]
    dates = sorted({side["date"][:10] for side in result["sides"].values()})
    text = (
        f"{config['layers']} layers, hidden {config['hidden_size']}, {config['heads']} heads, batch {config['batch']} "
        f"of {config['tokens']} tokens, {config['precision']}; {' to '.join({dates[0]: None, dates[-1]: None})}; "
        f"commit {result['commit'] or 'unknown'}. Synthetic sequences, the same on both sides. Data: {source.name}"
    )
    return "\n".join(textwrap.wrap(text, CAPTION_WIDTH))
