"""How long the packed sequences of a call are."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from .errors import UsageError


@dataclass(frozen=True)
class LogUniform:
    """Lengths whose logarithms are spread evenly: many short sequences and a few long ones, as in training data."""

    sequences: int
    least: int
    most: int

    def draw(self, seed: int) -> tuple[int, ...]:
        generator = random.Random(seed)
        low, high = math.log(self.least), math.log(self.most)
        return tuple(round(math.exp(generator.uniform(low, high))) for _ in range(self.sequences))

    def __str__(self) -> str:
        return f"loguniform:{self.sequences}:{self.least}:{self.most}"


def parse_lengths(text: str) -> LogUniform:
    match = re.fullmatch("loguniform:([1-9][0-9]*):([1-9][0-9]*):([1-9][0-9]*)", text)
    if not match or int(match[2]) > int(match[3]):
        raise UsageError(f'lengths "{text}": expected loguniform:SEQUENCES:LEAST:MOST, as in loguniform:64:16:4096')
    return LogUniform(int(match[1]), int(match[2]), int(match[3]))
