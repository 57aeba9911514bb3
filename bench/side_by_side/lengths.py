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


@dataclass(frozen=True)
class OneLong:
    """Short sequences, and somewhere among them a long one, which is what all others would wait for."""

    short_ones: int
    short: int
    long: int

    def draw(self, seed: int) -> tuple[int, ...]:
        lengths = [self.short] * self.short_ones
        lengths.insert(random.Random(seed).randint(0, self.short_ones), self.long)
        return tuple(lengths)

    def __str__(self) -> str:
        return f"onelong:{self.short_ones}:{self.short}:{self.long}"


Lengths = LogUniform | OneLong
_KINDS = {"loguniform": LogUniform, "onelong": OneLong}


def parse_lengths(text: str) -> Lengths:
    match = re.fullmatch("(loguniform|onelong):([1-9][0-9]*):([1-9][0-9]*):([1-9][0-9]*)", text)
    if not match or int(match[3]) > int(match[4]):
        raise UsageError(
            f'lengths "{text}": expected loguniform:SEQUENCES:LEAST:MOST or onelong:SHORT_ONES:SHORT:LONG, '
            "as in loguniform:64:16:4096 and onelong:64:256:16384"
        )
    return _KINDS[match[1]](int(match[2]), int(match[3]), int(match[4]))
