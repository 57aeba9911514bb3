"""The command: from options to rows, and what is printed."""

from __future__ import annotations

import argparse
import sys
from typing import Sequence

import torch

from .cases import Case, Selection, cases_of
from .child_process import ChildDied, messages_of
from .commit import measured_commit
from .errors import UsageError
from .fla_compiler import all_cores, compile_ahead, compile_cases
from .journal import Journal, read_result, require_same_run
from .libraries import require_two_sides
from .machine import Machine, Questions, inspect_machine
from .modes import MODES
from .operations import CHUNK_FORWARD, CHUNK_FORWARD_BACKWARD, OPERATIONS
from .options import parse_options
from .plot import plot
from .row import Row
from .runner import Run, rows_of
from .table import format_table

QUICK_SHARE = 0.2  # of the time for a row
EXIT_OK, EXIT_ROW_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str]) -> int:
    options = parse_options(list(arguments))
    try:
        if options.list:
            print(_catalogue(), end="")
            return EXIT_OK
        if options.plot:
            for path in plot(read_result(options.plot), options.plot):
                print(path)
            return EXIT_OK
        return _measure(options)
    except UsageError as error:
        _say(f"error: {error}")
        return EXIT_USAGE
    except KeyboardInterrupt:
        _say("interrupted" + ("; --resume goes on from here" if options.json else ""))
        return EXIT_INTERRUPTED


def _measure(options: argparse.Namespace) -> int:
    require_two_sides()
    modes = [mode.name for mode in MODES] if "all" in (options.mode or []) else options.mode or []
    selection = Selection(
        operations=options.op or [],
        shapes=options.shape or [],
        modes=modes,
        lengths=options.lengths,
        dtypes=options.dtype or (),
        gates=options.gates or (),
        seed=options.seed,
        quick=options.quick,
    )
    cases = cases_of(selection)
    journal = Journal(options.json) if options.json else None
    if journal and not options.resume:
        journal.start()
    if not torch.cuda.is_available():
        raise UsageError("no CUDA GPU that PyTorch can use: measuring needs one (--plot, --list and --help do not)")

    machine = _machine(options, cases)
    cases = _available(cases, machine, options)
    commit = measured_commit()
    done = journal.rows() if journal and options.resume else []
    require_same_run(done, machine, commit)
    rows = {row.key: row for row in done}
    seconds = options.seconds * (QUICK_SHARE if options.quick else 1)
    run = Run(machine, commit, seconds, options.time_limit, _say, one_process=options.one_process)
    wanted = [case for case in cases if case.key not in rows]
    slow_to_compile = [case for case in wanted if case.operation in (CHUNK_FORWARD, CHUNK_FORWARD_BACKWARD)]
    if options.compile_fla and slow_to_compile and not machine.without_fla:
        compile_ahead(slow_to_compile, compile_cases, all_cores(), options.time_limit, _say)
    for row in rows_of(wanted, run):
        rows[row.key] = row
        if journal:
            journal.append(row)
        _say(_progress(row, len(rows), cases))
    order = {case.key: place for place, case in enumerate(cases)}  # rows of earlier runs with other options come last
    result = sorted(rows.values(), key=lambda row: order.get(row.key, len(order)))
    if journal:
        journal.finish(result)
    print(_header(machine) + format_table(result), end="")
    return EXIT_ROW_FAILED if any(row.failure for row in result) else EXIT_OK


def _machine(options: argparse.Namespace, cases: Sequence[Case]) -> Machine:
    questions = Questions(not options.no_fla, any(case.operation.backward for case in cases))
    try:
        (machine,) = messages_of(inspect_machine, questions, options.time_limit)
    except ChildDied as death:
        raise UsageError(f"the GPU cannot be measured on: the process that tried {death} (see above)") from death
    if machine.without_fla and not options.no_fla:
        _say(f"{machine.without_fla}: FLA's columns stay empty")
    return machine


def _available(cases: Sequence[Case], machine: Machine, options: argparse.Namespace) -> list[Case]:
    names = sorted({case.operation.name for case in cases if case.operation.backward})
    if not machine.without_gradients or not names:
        return list(cases)
    message = f"{', '.join(names)} not available: gla_tune says {machine.without_gradients!r}"
    if set(names) & set(options.op or ()):
        raise UsageError(message)
    _say(message)
    return [case for case in cases if not case.operation.backward]


def _header(machine: Machine) -> str:
    return (
        f"{machine.device}, copies at {machine.copy_bandwidth * 1e-12:.2f} TB/s\n"
        "ms per call, x: times faster than FLA, errors relative to fp64\n\n"
    )


def _progress(row: Row, count: int, cases: Sequence[Case]) -> str:
    if row.failure:
        outcome = f"FAILED: {row.failure}"
    else:
        graph = "no graph" if row.gla.graph_ms is None else f"graph {row.gla.graph_ms:.4f} ms"
        faster = "" if row.speedup is None else f", {row.speedup:.2f} times faster than FLA"
        outcome = f"eager {row.gla.ms:.4f} ms, {graph}{faster}"
    return f"[{count}/{len(cases)}] {row.op} {row.shape} {row.mode} {row.dtype} {row.gates}: {outcome}"


def _catalogue() -> str:
    lines = []
    for operation in OPERATIONS:
        lines.append(f"{operation.name}: {operation.about}; modes {', '.join(mode.name for mode in operation.modes)}")
        if operation.backward:
            lines.append("  only where gla_tune supports gradients, which is asked on the GPU")
        lines += [f"  {shape}" for shape in operation.default_shapes]
    lines += ["modes:", *(f"  {mode.name}: {mode.about}" for mode in MODES)]
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    print(f"gla_tune.bench: {text}", file=sys.stderr, flush=True)
