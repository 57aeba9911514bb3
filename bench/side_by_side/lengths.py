"""How long the packed sequences of a call are."""

from __future__ import annotations

import math
import random
import re
from dataclasses import astuple, dataclass
from typing import ClassVar

from .errors import UsageError


class Lengths:
    """KIND:N:A:B, which parse_lengths() reads back."""

    kind: ClassVar[str]

    def draw(self, seed: int) -> tuple[int, ...]:
        raise NotImplementedError

    def __str__(self) -> str:
        return ":".join(map(str, (self.kind, *astuple(self))))


@dataclass(frozen=True)
class LogUniform(Lengths):
    """Lengths whose logarithms are spread evenly: many short sequences and a few long ones, as in training data."""

    kind = "loguniform"
    sequences: int
    least: int
    most: int

    def draw(self, seed: int) -> tuple[int, ...]:
        generator = random.Random(seed)
        low, high = math.log(self.least), math.log(self.most)
        return tuple(round(math.exp(generator.uniform(low, high))) for _ in range(self.sequences))


@dataclass(frozen=True)
class OneLong(Lengths):
    """Short sequences, and somewhere among them a long one, which is what all others would wait for."""

    kind = "onelong"
    short_ones: int
    short: int
    long: int

    def draw(self, seed: int) -> tuple[int, ...]:
        lengths = [self.short] * self.short_ones
        lengths.insert(random.Random(seed).randint(0, self.short_ones), self.long)
        return tuple(lengths)


_KINDS = {kind.kind: kind for kind in (LogUniform, OneLong)}


def parse_lengths(text: str) -> Lengths:
    match = re.fullmatch(f"({'|'.join(_KINDS)}):([1-9][0-9]*):([1-9][0-9]*):([1-9][0-9]*)", text)
    if not match or int(match[3]) > int(match[4]):
        raise UsageError(
            f'lengths "{text}": expected loguniform:SEQUENCES:LEAST:MOST or onelong:SHORT_ONES:SHORT:LONG, '
            "as in loguniform:64:16:4096 and onelong:64:256:16384"
        )
    return _KINDS[match[1]](int(match[2]), int(match[3]), int(match[4]))
