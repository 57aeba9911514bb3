"""The size of a call in one word, such as B1_T8192_H96_K128_V128."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import UsageError

MOST_HEAD_DIM = 512
MOST_GROUP = 64


@dataclass(frozen=True)
class Shape:
    batch: int
    tokens: int
    heads: int  # key/value heads
    dim_k: int
    dim_v: int
    group: int = 1  # query heads per key/value head

    @property
    def query_heads(self) -> int:
        return self.heads * self.group

    def __str__(self) -> str:
        group = "" if self.group == 1 else f"_G{self.group}"
        return f"B{self.batch}_T{self.tokens}_H{self.heads}{group}_K{self.dim_k}_V{self.dim_v}"


def parse_shape(text: str) -> Shape:
    """B, T, H (1 where not given), G query heads per key/value head, K and V or D for both; "_" or "," between."""
    values: dict[str, int] = {}
    for part in re.split("[_,]", text):
        match = re.fullmatch("([BTHGKVD])([1-9][0-9]*)", part)
        if not match:
            raise UsageError(
                f'"{part}" in shape "{text}": expected one of B T H G K V D and a number above 0, '
                "as in B1_T8192_H96_K128_V128"
            )
        if match[1] in values:
            raise UsageError(f'shape "{text}" gives {match[1]} twice')
        values[match[1]] = int(match[2])
    if "D" in values and ("K" in values or "V" in values):
        raise UsageError(f'shape "{text}" gives D beside K or V: D stands for both')
    dim_k, dim_v = (values.get(letter, values.get("D", 0)) for letter in "KV")
    if dim_k == 0 or dim_v == 0:
        raise UsageError(f'shape "{text}" lacks a head dim: give D, or K and V')
    group = values.get("G", 1)
    if max(dim_k, dim_v) > MOST_HEAD_DIM or group > MOST_GROUP:
        raise UsageError(f'shape "{text}": head dims up to {MOST_HEAD_DIM} and G up to {MOST_GROUP} are accepted')
    return Shape(values.get("B", 1), values.get("T", 1), values.get("H", 1), dim_k, dim_v, group)
