"""When enough samples have been taken. A criterion is fed samples and asked; it owns no clock and no GPU."""

from __future__ import annotations

from dataclasses import dataclass

from .summary import Summary, summarize


@dataclass(frozen=True)
class Sample:
    seconds: float  # per call
    cost: float  # seconds that it took in all; a sample may cover many calls


@dataclass(frozen=True)
class StoppingLimits:
    budget: float  # seconds that may be spent; overrun by the last sample only
    least_samples: int = 7
    most_samples: int = 500
    uncertainty: float = 0.003  # relative standard error of the median to reach


class StoppingCriterion:
    def __init__(self, limits: StoppingLimits):
        self._limits = limits
        self._samples: list[float] = []
        self._spent = 0.0

    def add(self, sample: Sample) -> None:
        self._samples.append(sample.seconds)
        self._spent += sample.cost

    def discard(self, sample: Sample) -> None:
        """The time is spent, but what it measured does not count."""
        self._spent += sample.cost

    def finished(self) -> bool:
        count = len(self._samples)
        if count == 0:
            return False
        if self._spent >= self._limits.budget or count >= self._limits.most_samples:
            return True
        return count >= self._limits.least_samples and self.summary().uncertainty <= self._limits.uncertainty

    def summary(self) -> Summary:
        return summarize(self._samples)
