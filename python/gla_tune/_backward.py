"""The way of a gradient to libgla: first-order gradients of both operations, each only where it is wanted."""

import ctypes
from functools import lru_cache
from typing import List, NamedTuple, Optional

import torch

from . import _abi
from ._abi import Operation, Unsupported
from ._arguments import ArgumentError, Options, Shape, Tensors, aligned_state, readable
from ._context import logger
from ._forward import Plan, plan_of


class Wanted(NamedTuple):
    """The inputs whose gradients are wanted."""

    q: bool
    k: bool
    v: bool
    gk: bool
    gv: bool
    initial_state: bool


class BackwardPlan(Plan):
    """A normalised call whose gradients are asked for, with its addresses."""

    def __init__(self, tensors: Tensors, options: Options, shape: Shape):
        super().__init__(tensors, options, shape)
        if self.is_empty:
            return
        self.launch = self.library.gla_backward
        self.gradients = _abi.BackwardCall(
            struct_size=ctypes.sizeof(_abi.BackwardCall), forward=ctypes.pointer(self.call)
        )
        self.launched = ctypes.byref(self.gradients)


@lru_cache(maxsize=None)
def _say_once(text: str) -> None:
    logger.warning("%s", text)


def backward_plan_of(tensors: Tensors, options: Options):
    """plan_of for a backward operation. What chunk_backward has no kernel for, recurrent_backward does."""
    try:
        return plan_of(tensors, options, BackwardPlan)
    except Unsupported as unsupported:
        if options.operation is not Operation.CHUNK_BACKWARD:
            raise
        planned = plan_of(tensors, options._replace(operation=Operation.RECURRENT_BACKWARD), BackwardPlan)
        _say_once(f"{unsupported}; its gradients come from recurrent_backward, token by token, which takes longer")
        return planned


def _incoming(plan: BackwardPlan, d_o: Optional[torch.Tensor]) -> torch.Tensor:
    if d_o is not None:
        return readable(d_o, plan.dtype)
    zeros = torch.zeros(plan.output_shape[-1], dtype=plan.dtype, device=plan.device)
    return zeros.expand(plan.output_shape)  # one row, which libgla reads for all


def _check(name: str, gradient: Optional[torch.Tensor], shape, device: torch.device) -> None:
    """Of a direct call: autograd's gradients are like the outputs that they are of."""
    if gradient is not None and (gradient.shape != torch.Size(shape) or gradient.device != device):
        raise ArgumentError(
            f"{name} is {list(gradient.shape)} on {gradient.device}; accepted: {list(shape)} on {device}, as its output"
        )


def backward(
    tensors: Tensors,
    options: Options,
    d_o: Optional[torch.Tensor],
    d_final_state: Optional[torch.Tensor],
    wanted: Wanted,
) -> List[Optional[torch.Tensor]]:
    """The gradients that are wanted, in Wanted's order, each of its input's shape and dtype; None for the others.

    d_o and d_final_state are those of the outputs; None for zero.
    """
    ready, plan = backward_plan_of(tensors, options)
    if plan.is_empty:
        return [torch.zeros_like(getattr(tensors, name)) if asked else None for name, asked in wanted._asdict().items()]
    by_chunks = plan.operation == Operation.CHUNK_BACKWARD
    gates_need_dk = by_chunks and wanted.gk and ready.gk.dtype != torch.float32  # gla.hpp, BackwardCall
    computed = wanted._replace(k=wanted.k or gates_need_dk)
    gradients = {
        name: torch.empty_like(getattr(ready, name), memory_format=torch.contiguous_format)
        for name, asked in computed._asdict().items()
        if asked
    }
    _check("d_o", d_o, plan.output_shape, plan.device)
    if options.output_final_state:
        _check("d_final_state", d_final_state, plan.state_shape, plan.device)
    call = plan.gradients
    d_o = _incoming(plan, d_o)
    _abi.set_tensor(call, "d_o", d_o)
    if d_final_state is not None and options.output_final_state:  # torch.compile makes zeros of what was not asked for
        d_final_state = aligned_state(d_final_state)
        call.d_final_state = d_final_state.data_ptr()
    for name, gradient in gradients.items():
        if name == "initial_state":
            call.d_initial_state = gradient.data_ptr()
        else:
            _abi.set_tensor(call, f"d{name}", gradient)
    plan.enqueue()

    def like_its_input(name: str) -> torch.Tensor:
        given = getattr(tensors, name)
        return gradients[name].to(given.dtype).reshape(given.shape)

    return [like_its_input(name) if asked else None for name, asked in wanted._asdict().items()]
