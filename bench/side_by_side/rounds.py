"""Two sides measured in turns, A B A B ..., so that whatever drifts drifts for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

from .clock_guard import ClockGuard
from .stopping import Sample, StoppingCriterion, StoppingLimits
from .summary import Summary


@dataclass
class _Contender:
    sample: Callable[[], Sample]
    criterion: StoppingCriterion


def alternate(samplers: Sequence[Callable[[], Sample]], limits: StoppingLimits, guard: ClockGuard) -> list[Summary]:
    """A summary of each sampler; rounds go on until all have enough samples."""
    contenders = [_Contender(sampler, StoppingCriterion(limits)) for sampler in samplers]
    while not all(contender.criterion.finished() for contender in contenders):
        samples = [contender.sample() for contender in contenders]
        throttled = guard.throttled()
        for contender, sample in zip(contenders, samples):
            if throttled:
                contender.criterion.discard(sample)
            else:
                contender.criterion.add(sample)
    return [contender.criterion.summary() for contender in contenders]
