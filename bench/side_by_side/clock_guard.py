"""Notices a throttled clock, where nvidia-ml-py (pynvml) is installed to read it."""

from __future__ import annotations

from typing import Callable

import torch

LEAST_SHARE = 0.94  # of the highest clock seen
PATIENCE = 20  # readings in a row


def read_sm_clock() -> int | None:
    """MHz, or None where it cannot be read."""
    try:
        return torch.cuda.clock_rate()
    except (ImportError, RuntimeError):  # no pynvml, or no permission or support behind it
        return None


class ClockGuard:
    def __init__(self, read: Callable[[], int | None]):
        self._read = read
        self._highest = 0
        self._last: int | None = None
        self._low_in_a_row = 0
        self.throttled_rounds = 0

    def throttled(self) -> bool:
        """True if the clock is well below its best so far; one that stays low is the one that this load gets."""
        self._last = self._read()
        if self._last is None:
            return False
        self._highest = max(self._highest, self._last)
        if self._last >= LEAST_SHARE * self._highest:
            self._low_in_a_row = 0
            return False
        self._low_in_a_row += 1
        if self._low_in_a_row > PATIENCE:
            self._low_in_a_row, self._highest = 0, self._last
            return False
        self.throttled_rounds += 1
        return True

    def describe(self) -> str:
        return "not checked: needs nvidia-ml-py" if self._last is None else f"{self._last} MHz"
