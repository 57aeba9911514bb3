"""What is measured: for each operation its call, its shapes and the ways in which it may be called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

import torch

from .inputs import CallInputs
from .libraries import Library
from .modes import MODES, PACKED, STATES, V_FIRST, Mode
from .shapes import Shape, parse_shape


@dataclass
class Outputs:
    o: torch.Tensor
    final_state: torch.Tensor | None
    gradients: tuple[torch.Tensor, ...] = ()


BoundCall = Callable[[], tuple]  # returns what Outputs(*...) takes


@dataclass(frozen=True)
class Operation:
    name: str
    about: str
    forward: Callable[[Library, CallInputs], partial]
    default_shapes: tuple[Shape, ...]
    modes: tuple[Mode, ...]  # the first is the default
    always_states: bool = False
    backward: bool = False

    def bind(self, library: Library, inputs: CallInputs) -> BoundCall:
        """A call ready to be made: what is done here is no part of the host's time."""
        forward = self.forward(library, inputs)
        return _with_backward(forward, inputs) if self.backward else forward


def _chunk(library: Library, inputs: CallInputs) -> partial:
    options = {**_options(inputs), "cu_seqlens_cpu": inputs.cu_seqlens_cpu}
    return partial(library.chunk_gla, inputs.q, inputs.k, inputs.v, inputs.g, **options)


def _recurrent(library: Library, inputs: CallInputs) -> partial:
    return partial(library.fused_recurrent_gla, inputs.q, inputs.k, inputs.v, gk=inputs.g, **_options(inputs))


def _options(inputs: CallInputs) -> dict[str, Any]:
    return {
        "initial_state": inputs.initial_state,
        "output_final_state": inputs.states,
        "state_v_first": inputs.state_v_first,
        "cu_seqlens": inputs.cu_seqlens,
    }


def _with_backward(forward: partial, inputs: CallInputs) -> BoundCall:
    learning = inputs.differentiable()
    incoming = [inputs.d_o, inputs.d_final_state] if inputs.states else [inputs.d_o]

    def call() -> tuple:
        o, state = forward()
        # Not backward(): that would add the gradients up in .grad, which is not part of the operation.
        gradients = torch.autograd.grad([o, state] if inputs.states else [o], learning, incoming)
        return o.detach(), state.detach() if inputs.states else None, gradients

    return call


def _shapes(*texts: str) -> tuple[Shape, ...]:
    return tuple(parse_shape(text) for text in texts)


_CHUNK_SHAPES = _shapes(
    "B1_T8192_H96_D128",
    "B2_T16384_H16_D128",
    "B4_T2048_H16_D128",
    "B4_T4096_H64_D128",
    "B8_T1024_H8_D64",
    "B8_T2048_H32_D256",
    "B16_T2048_H4_K128_V256",  # GLA-340M
    "B8_T2048_H4_K256_V512",  # GLA-1.3B
)
_RECURRENT_MODES = (STATES, V_FIRST, PACKED)

CHUNK_FORWARD = Operation("chunk_forward", "training and prefill, forward", _chunk, _CHUNK_SHAPES, MODES)
CHUNK_FORWARD_BACKWARD = Operation(
    "chunk_forward_backward",
    "training, forward and backward through autograd",
    _chunk,
    _CHUNK_SHAPES,
    MODES,
    backward=True,
)
RECURRENT_DECODE = Operation(
    "recurrent_decode",
    "one token, fp32 state in and out",
    _recurrent,
    _shapes(
        "B1_T1_H32_D128",
        "B8_T1_H32_D128",
        "B64_T1_H32_D128",
        "B256_T1_H32_D128",
        "B64_T1_H16_D256",
        "B64_T1_H32_D64",
    ),
    _RECURRENT_MODES,
    always_states=True,
)
RECURRENT_FORWARD = Operation(
    "recurrent_forward",
    "a few tokens, fp32 state in and out",
    _recurrent,
    _shapes("B8_T16_H32_D128", "B8_T64_H32_D128"),
    _RECURRENT_MODES,
    always_states=True,
)
RECURRENT_FORWARD_BACKWARD = Operation(
    "recurrent_forward_backward",
    "a few tokens, forward and backward through autograd, fp32 state in and out",
    _recurrent,
    RECURRENT_FORWARD.default_shapes,
    _RECURRENT_MODES,
    always_states=True,
    backward=True,
)

OPERATIONS = (
    CHUNK_FORWARD,
    CHUNK_FORWARD_BACKWARD,
    RECURRENT_DECODE,
    RECURRENT_FORWARD,
    RECURRENT_FORWARD_BACKWARD,
)

LONGEST_RECURRENT = 64


def natural_operation(shape: Shape) -> Operation:
    """What a caller with so many tokens would use."""
    if shape.tokens == 1:
        return RECURRENT_DECODE
    return RECURRENT_FORWARD if shape.tokens <= LONGEST_RECURRENT else CHUNK_FORWARD
