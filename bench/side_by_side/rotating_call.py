"""A call whose inputs, and therefore outputs, are other memory each time."""

from __future__ import annotations

from typing import Sequence

from .inputs import CallInputs
from .libraries import Library
from .operations import Operation


class RotatingCall:
    def __init__(self, operation: Operation, library: Library, sets: Sequence[CallInputs]):
        self._calls = [operation.bind(library, inputs) for inputs in sets]
        self._next = 0
        self.forget_outputs()

    @property
    def sets(self) -> int:
        return len(self._calls)

    def __call__(self) -> tuple:
        index = self._next
        self._next = (index + 1) % len(self._calls)
        # The outputs of every set stay alive until it is its turn again: freed at once, their memory would be handed to
        # the next call, which would then write to what is still in the L2.
        outputs = self._outputs[index] = self._calls[index]()
        return outputs

    def forget_outputs(self) -> None:
        self._outputs: list[tuple | None] = [None] * len(self._calls)
