"""Autograd's node of a call that goes straight to libgla, and whose gradients do too.

The operators would do, but the machinery that PyTorch puts around an operator of Python's costs several times the call.
They still serve backward passes that are recorded in turn, traced, batched or watched by a mode.
"""

from functools import partial

import torch

from . import _operators
from ._abi import BACKWARD
from ._arguments import Options, Tensors
from ._backward import Wanted, backward, gradients_prepared, recall_backward, remember_backward
from ._forward import Misaligned, Plan, can_go_direct, forward

_LEARNERS = len(Wanted._fields)  # Tensors begins with them
_WITHOUT = (None,) * (len(Tensors._fields) - _LEARNERS + 2)


class _GatedLinearAttention(torch.autograd.Function):
    """Of Tensors' fields, Options, and what makes the outputs of the tensors."""

    @staticmethod
    def forward(ctx, *arguments):
        *tensors, options, run = arguments
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.options = options
        return run(tensors)

    @staticmethod
    def backward(ctx, d_o, d_final_state):
        return (*_gradients(ctx.saved_tensors, ctx.options, d_o, d_final_state, ctx.needs_input_grad), *_WITHOUT)


def _gradients(tensors: tuple, options: tuple, d_o, d_final_state, needed: tuple):
    options, wanted = Options(BACKWARD[options[0]], *options[1:]), needed[:_LEARNERS]
    asked = tensors, options, d_o, d_final_state, wanted
    # Gradients are on when this pass is recorded for another one (create_graph=True).
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return _operators.call_backward(*asked)
    recent = recall_backward(*asked)
    if recent is not None:
        try:
            return recent.plan.run(tensors, d_o, d_final_state)
        except Misaligned:
            pass
    if not can_go_direct((*tensors, d_o, d_final_state)):
        return _operators.call_backward(*asked)
    gradients = backward(Tensors(*tensors), options, d_o, d_final_state, Wanted(*wanted))
    remember_backward(*asked)
    return gradients


def _run_anew(options: Options, tensors):
    return forward(Tensors(*tensors), options)


def call(tensors: Tensors, options: Options):
    """`forward` with gradients."""
    with gradients_prepared(tensors, options):
        return _GatedLinearAttention.apply(*tensors, options, partial(_run_anew, options))


def call_planned(plan: Plan, tensors: tuple, options: tuple):
    """plan.run with gradients; `tensors` and `options` are what the plan is of."""
    return _GatedLinearAttention.apply(*tensors, options, plan.run)
