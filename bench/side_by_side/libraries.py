"""The two sides, behind the signatures that they share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Callable

from .errors import UsageError


@dataclass(frozen=True)
class Library:
    name: str
    chunk_gla: Callable
    fused_recurrent_gla: Callable
    repeats_heads: bool = False  # takes grouped queries only with k, v, g and states repeated for every query head
    describe: Callable | None = None  # of a function and its arguments: which kernel such a call runs, in words

    def variant_of(self, call: partial) -> str | None:
        return self.describe(call.func, *call.args, **call.keywords) if self.describe else None


def load_gla_tune() -> Library:
    import gla_tune

    return Library("gla_tune", gla_tune.chunk_gla, gla_tune.fused_recurrent_gla, describe=gla_tune.describe)


def load_fla() -> Library:
    """Raises ImportError where FLA, or what it stands on, is not installed."""
    from fla.ops.gla import chunk_gla, fused_recurrent_gla

    return Library("fla", chunk_gla, fused_recurrent_gla, repeats_heads=True)


def require_two_sides() -> None:
    """Refuses an environment in which FLA is gla_tune."""
    if os.environ.get("GLA_TUNE_PATCH_FLA") == "1":
        raise UsageError("GLA_TUNE_PATCH_FLA=1 puts gla_tune into FLA, so both sides would be gla_tune: unset it")
