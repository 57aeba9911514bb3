"""Compiles ahead what FLA's tuning will try, on all cores, so that its first calls only have to measure.

FLA's kernels tune themselves in the first call of each kind: Triton compiles one configuration after the other on one
core, which takes a minute or more. Here processes share the configurations out, make each case's call with few tokens,
and leave nothing but Triton's cache of compiled kernels: what is fastest FLA measures itself, later and undisturbed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from dataclasses import replace
from typing import Callable, Sequence, TypeVar

from .cases import Case
from .child_process import kill_group
from .inputs import InputMaker
from .libraries import load_fla

MOST_PROCESSES = 32  # each with a CUDA context; no kernel of FLA's has many more configurations
MOST_TOKENS = 192  # of a sequence: three of FLA's chunks; no kernel of FLA's is compiled for a number of tokens
Config = TypeVar("Config")
Subject = TypeVar("Subject")


def all_cores() -> int:
    """Processes that compile at once."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def compile_ahead(
    subject: Subject,
    work: Callable[[Subject, int, int], None],
    processes: int,
    seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Calls work(subject, index, processes) in each of the processes, to compile its share.

    Returns after `seconds` at the latest; what is not compiled by then, FLA compiles in its first calls.
    """
    context = multiprocessing.get_context("spawn")
    shares = [context.Process(target=work, args=(subject, index, processes), daemon=True) for index in range(processes)]
    started = time.monotonic()
    progress(f"compiling FLA's kernels ahead in {processes} processes")
    for share in shares:
        share.start()
    for share in shares:
        share.join(max(0.0, started + seconds - time.monotonic()))
    late = [share for share in shares if share.is_alive()]
    for share in late:
        kill_group(share)
    failed = sum(share.exitcode != 0 for share in shares) - len(late)
    left = [f"{failed} failed" if failed else "", f"{len(late)} not done in time" if late else ""]
    progress("; ".join([f"compiled ahead in {time.monotonic() - started:.0f} s", *filter(None, left)]))


def share_of(configs: Sequence[Config], index: int, count: int) -> list[Config]:
    """What process `index` of `count` compiles: every configuration is in one share at least, and no share is empty."""
    return list(configs[index % len(configs) :: count])


def short_case(case: Case) -> Case:
    """The same kernels, next to no work."""
    lengths = tuple(min(length, MOST_TOKENS) for length in case.lengths)
    tokens = sum(lengths) if case.mode.packed else min(case.shape.tokens, MOST_TOKENS)
    return replace(case, shape=replace(case.shape, tokens=tokens), lengths=lengths)


def share_configs(index: int, count: int) -> None:
    """Makes FLA's tuning in this process try its share of the configurations, once each."""
    os.setsid()  # so that compilers it starts can be ended with it
    os.dup2(2, 1)  # standard output belongs to the table
    os.environ["FLA_CACHE_RESULTS"] = "0"  # which configuration is fastest is not measured here
    import torch
    import triton.testing
    from triton.runtime.autotuner import Autotuner

    def run_once(call: Callable[[], object], *_args: object, quantiles: Sequence[float] | None = None, **_more: object):
        call()
        torch.cuda.synchronize()
        return [1.0] * len(quantiles) if quantiles else 1.0

    all_configs = Autotuner.prune_configs
    triton.testing.do_bench = run_once
    Autotuner.prune_configs = lambda tuner, arguments: share_of(all_configs(tuner, arguments), index, count)


def compile_cases(cases: Sequence[Case], index: int, count: int) -> None:
    """The work of one process for rows of the benchmark."""
    share_configs(index, count)
    library, failed = load_fla(), False
    for case in cases:
        try:
            inputs = InputMaker(short_case(case), "cuda").make().with_repeated_heads(case.shape.group)
            case.operation.bind(library, inputs)()
        except Exception:  # whatever FLA raises: the others are still worth compiling
            traceback.print_exc()
            failed = True
    sys.exit(failed)
