"""The way of a gradient to libgla: first-order gradients of chunk_forward, each only where it is wanted."""

import ctypes
from typing import List, NamedTuple, Optional

import torch

from . import _abi
from ._arguments import ArgumentError, Options, Shape, Tensors, aligned_state, readable
from ._forward import Plan, plan_of


class Wanted(NamedTuple):
    """The inputs whose gradients are wanted."""

    q: bool
    k: bool
    v: bool
    gk: bool
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
    ready, plan = plan_of(tensors, options, BackwardPlan)
    if plan.is_empty:
        return [torch.zeros_like(getattr(tensors, name)) if asked else None for name, asked in wanted._asdict().items()]
    gates_need_dk = wanted.gk and ready.gk.dtype != torch.float32  # gla.hpp, BackwardCall
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
