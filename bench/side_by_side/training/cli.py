"""The command: from options to a result, side by side or a side at a time."""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Sequence

import torch

from ..commit import measured_commit
from ..errors import UsageError
from ..fla_compiler import all_cores, compile_ahead
from ..libraries import load_fla, load_gla_tune, require_two_sides
from .config import TrainingConfig
from .data import sequences
from .memory import extra_memory
from .plot import plot
from .result import begun, read_result, write_result
from .trainer import SIDES, Trainer, compile_fla

ROUND_STEPS = 5
COMPILE_SECONDS = 200.0
EXIT_OK, EXIT_USAGE, EXIT_INTERRUPTED = 0, 2, 130


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Exits with 2 for what cannot be understood."""
    usual = TrainingConfig()
    parser = argparse.ArgumentParser(
        prog="python -m gla_tune.bench.training",
        description="Trains FLA's GLA model of 340M parameters with FLA's kernels and with gla_tune's in their place "
        "(patch_fla): step times in turns, peak memory, loss curves on the same synthetic sequences.",
    )
    parser.add_argument("--side", choices=["both", *SIDES], default="both", help="(default: %(default)s, in turns)")
    parser.add_argument("--steps", type=_steps, default=usual.steps, help="of the loss curve (default: %(default)s)")
    parser.add_argument("--batch", type=_count, default=usual.batch, help="sequences in a step (default: %(default)s)")
    parser.add_argument("--tokens", type=_count, default=usual.tokens, help="of a sequence (default: %(default)s)")
    parser.add_argument("--layers", type=_count, default=usual.layers, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=usual.seed, help="of weights and sequences (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        help="to spend on more steps of each side after its curve, for their times (default: %(default)s)",
    )
    parser.add_argument("--memory", action="store_true", help="measure the operation's extra memory only")
    parser.add_argument(
        "--compile-fla",
        action="store_true",
        help="compile what FLA's kernels will try on all cores first, for up to 200 s",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result, after each side what there is")
    parser.add_argument("--resume", action="store_true", help="add to FILE the sides that it does not have")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw FILE into a PNG and an SVG, and exit")
    options = parser.parse_args(list(arguments))
    if options.resume and not options.json:
        parser.error("--resume goes with --json FILE")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"{options.json.parent} is not a folder, so {options.json.name} cannot be written there")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    try:
        if options.plot:
            for path in plot(read_result(options.plot), options.plot):
                print(path)
        else:
            _measure(options)
        return EXIT_OK
    except UsageError as error:
        _say(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        _say("interrupted" + ("; --resume goes on from here" if options.json else ""))
        return EXIT_INTERRUPTED


def _measure(options: argparse.Namespace) -> None:
    require_two_sides()
    if not torch.cuda.is_available():
        raise UsageError("no CUDA GPU that PyTorch can use: measuring needs one (--plot and --help do not)")
    config = TrainingConfig(
        batch=options.batch, tokens=options.tokens, steps=options.steps, seed=options.seed, layers=options.layers
    )
    fresh = {
        "device": torch.cuda.get_device_name(),
        "commit": measured_commit(),
        "config": asdict(config),
        "torch": torch.__version__,
        "sides": {},
        "memory": {},
    }
    result = begun(options.json, options.resume, fresh)

    def save():
        if options.json:
            write_result(options.json, result)

    names = list(SIDES) if options.side == "both" else [options.side]
    if options.memory:
        for name in [name for name in names if name not in result["memory"]]:
            result["memory"][name] = found = extra_memory(_library(name), config)
            _say(f"{name}: {found['extra_bytes']} bytes, {found['share']:.3f} of inputs, output and gradients")
            save()
        return
    wanted = [name for name in names if name not in result["sides"]]
    if options.compile_fla and wanted:  # both sides run FLA's norms, activations and losses
        compile_ahead(config, compile_fla, all_cores(), COMPILE_SECONDS, _say)
    data = sequences(config.steps * config.batch, config.tokens, config.seed).to("cuda")
    trainers: dict[str, Trainer] = {}
    for name in wanted:
        trainers[name] = Trainer(SIDES[name], config, data)
        result["sides"][name] = _summary(trainers[name], in_turns=False)
        _say(f"{name}: loss {trainers[name].losses[0]:.3f} to {trainers[name].losses[-1]:.3f}")
        save()
    end = time.monotonic() + options.seconds * len(trainers)
    while trainers and time.monotonic() < end:
        for trainer in trainers.values():
            trainer.time(ROUND_STEPS)
    for name, trainer in trainers.items():
        result["sides"][name] = summary = _summary(trainer, in_turns=len(trainers) > 1)
        _say(
            f"{name}: {summary['step_ms']:.1f} ms a step, {summary['tokens_per_s']:.0f} tokens/s, "
            f"{summary['peak_bytes'] * 2**-30:.2f} GiB, {summary['calls_taken']} calls taken over, "
            f"left to FLA: {summary['calls_left'] or 'none'}"
        )
    save()


def _summary(trainer: Trainer, in_turns: bool) -> dict:
    """in_turns: whether the timed steps alternated with the other side's."""
    config = trainer.config
    times = trainer.step_times()
    timed = times[config.steps - 1 :] or times  # those after the curve, if there are any
    step_ms = statistics.median(timed)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "step_ms": step_ms,
        "tokens_per_s": config.batch * config.tokens / step_ms * 1e3,
        "timed_steps": len(timed),
        "noise": statistics.median(abs(each - step_ms) for each in timed) / step_ms,
        "in_turns": in_turns,
        "peak_bytes": trainer.peak_bytes,
        "losses": trainer.losses,
        "calls_taken": trainer.taken,
        "calls_left": trainer.left,
    }


def _library(name: str):
    if name == "gla_tune":
        return load_gla_tune()
    try:
        return load_fla()
    except ImportError as error:
        raise UsageError(f"FLA is needed (pip install fla-core einops): {error}") from error


def _count(text: str, least: int = 1) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text} is not {least} or more")
    return value


def _steps(text: str) -> int:
    return _count(text, least=2)  # the first one, which compiles and tunes, is not timed


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def _say(text: str) -> None:
    print(f"gla_tune.bench.training: {text}", file=sys.stderr, flush=True)
