"""What to measure: one case is one row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Sequence

from .errors import UsageError
from .lengths import Lengths
from .modes import PACKED, Mode
from .operations import OPERATIONS, RECURRENT_DECODE, Operation, natural_operation
from .shapes import Shape

DEFAULT_DTYPE = "bf16"
DEFAULT_GATES = "logsigmoid/16"
EQUAL_LENGTHS = "equal"


@dataclass(frozen=True)
class CaseKey:
    """What makes two rows the same measurement."""

    op: str
    shape: str
    mode: str
    dtype: str
    gates: str
    lengths: str
    seed: int


@dataclass(frozen=True)
class Case:
    operation: Operation
    shape: Shape
    mode: Mode
    dtype: str
    gates: str
    seed: int
    lengths: tuple[int, ...]  # tokens of each sequence; packed or not, together they fill batch x tokens
    lengths_name: str = EQUAL_LENGTHS

    @property
    def states(self) -> bool:
        return self.mode.states or self.operation.always_states

    @property
    def key(self) -> CaseKey:
        return CaseKey(
            self.operation.name, str(self.shape), self.mode.name, self.dtype, self.gates, self.lengths_name, self.seed
        )

    def __str__(self) -> str:
        return f"{self.operation.name} {self.shape} {self.mode.name} {self.dtype} {self.gates}"


@dataclass(frozen=True)
class Selection:
    """What the command line asks for; empty sequences ask for the defaults."""

    operations: Sequence[str] = ()
    shapes: Sequence[Shape] = ()
    modes: Sequence[str] = ()
    lengths: Lengths | None = None
    dtypes: Sequence[str] = ()
    gates: Sequence[str] = ()
    seed: int = 7
    quick: bool = False  # one shape of each operation


def cases_of(selection: Selection) -> list[Case]:
    cases = {}
    for operation in OPERATIONS:
        if selection.operations and operation.name not in selection.operations:
            continue
        for shape in _shapes(selection, operation):
            ways = product(
                _modes(selection, operation), selection.dtypes or (DEFAULT_DTYPE,), selection.gates or (DEFAULT_GATES,)
            )
            for mode, dtype, gates in ways:
                case = _case(selection, operation, shape, mode, dtype, gates)
                cases[case.key] = case  # with drawn lengths, shapes that differ in B and T only are the same
    if not cases:
        raise UsageError(f"no operation asked for has mode {' or '.join(selection.modes)}")
    return list(cases.values())


def _shapes(selection: Selection, operation: Operation) -> Sequence[Shape]:
    if not selection.shapes:
        return operation.default_shapes[: 1 if selection.quick else None]
    if selection.operations:
        return selection.shapes
    return [shape for shape in selection.shapes if natural_operation(shape) is operation]


def _modes(selection: Selection, operation: Operation) -> Sequence[Mode]:
    if selection.modes:
        return [mode for mode in operation.modes if mode.name in selection.modes]
    return (PACKED,) if selection.lengths else operation.modes[:1]


def _case(selection: Selection, operation: Operation, shape: Shape, mode: Mode, dtype: str, gates: str) -> Case:
    if operation is RECURRENT_DECODE and shape.tokens != 1:
        raise UsageError(f"recurrent_decode takes one token, shape {shape} has {shape.tokens}")
    lengths, name = (shape.tokens,) * shape.batch, EQUAL_LENGTHS
    if selection.lengths and mode.packed and operation is not RECURRENT_DECODE:
        lengths, name = selection.lengths.draw(selection.seed), str(selection.lengths)
        shape = replace(shape, batch=1, tokens=sum(lengths))
    return Case(operation, shape, mode, dtype, gates, selection.seed, lengths, name)
