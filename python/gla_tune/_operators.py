"""The operations as PyTorch operators, torch.ops.gla_tune.*: what autograd, torch.compile and modes see."""

from functools import partial

import torch

from ._abi import BACKWARD, Operation, Unsupported
from ._arguments import Options, Tensors, output_dtype, shape_of
from ._backward import Wanted, backward
from ._forward import forward

_NAMES = {operation: f"gla_tune::{operation.name.lower()}" for operation in Operation}
# Tensors and Options without the operation.
_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? gk, Tensor? gv, Tensor? initial_state, Tensor? cu_seqlens, "
    "Tensor? cu_seqlens_cpu, float? scale, bool output_final_state, bool reverse, bool state_v_first, str accuracy"
)
# A tensor that was not asked for is one of no elements.
_FORWARD_SCHEMA = f"({_ARGUMENTS}) -> (Tensor o, Tensor final_state)"
_BACKWARD_SCHEMA = (
    f"({_ARGUMENTS}, Tensor? d_o, Tensor? d_final_state, bool[{len(Wanted._fields)}] wanted) "
    f"-> (Tensor dq, Tensor dk, Tensor dv, Tensor dgk, Tensor dgv, Tensor d_initial_state)"
)


def _split(operation: Operation, arguments):
    """Tensors, Options, and a list of what the operator has besides."""
    tensors, options = len(Tensors._fields), len(Options._fields) - 1
    return (
        Tensors(*arguments[:tensors]),
        Options(operation, *arguments[tensors : tensors + options]),
        arguments[tensors + options :],
    )


def _forward_cuda(operation: Operation, *arguments):
    tensors, options, _ = _split(operation, arguments)
    output, state = forward(tensors, options)
    return output, output.new_empty(0, dtype=torch.float32) if state is None else state


def _forward_fake(operation: Operation, *arguments):
    tensors, options, _ = _split(operation, arguments)
    shape = shape_of(tensors)
    state_shape = shape.state(options.state_v_first) if options.output_final_state else (0,)
    q = tensors.q
    output = q.new_empty(shape.output, dtype=output_dtype(tensors, options))
    return output, q.new_empty(state_shape, dtype=torch.float32)


def _backward_cuda(operation: Operation, *arguments):
    tensors, options, (d_o, d_final_state, wanted) = _split(operation, arguments)
    gradients = backward(tensors, options, d_o, d_final_state, Wanted(*wanted))
    return tuple(tensors.q.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _backward_fake(operation: Operation, *arguments):
    tensors, _, (_, _, wanted) = _split(operation, arguments)
    inputs = [getattr(tensors, name) if asked else None for name, asked in Wanted(*wanted)._asdict().items()]
    return tuple(tensors.q.new_empty(0) if given is None else given.new_empty(given.shape) for given in inputs)


def _save(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    count = len(Tensors._fields)
    ctx.save_for_backward(*inputs[:count])
    ctx.options = inputs[count:]


def call_backward(tensors, options, d_o, d_final_state, wanted):
    """`backward` through PyTorch's dispatcher; the arguments may be plain tuples. None for what is not wanted."""
    gradients = _operators[options[0]](*tensors, *options[1:], d_o, d_final_state, list(wanted))
    return [gradient if asked else None for gradient, asked in zip(gradients, wanted)]


def _differentiate(operation: Operation, ctx, d_o, d_final_state):
    """The gradients of a forward operation, by the backward operation that belongs to it."""
    wanted = ctx.needs_input_grad[: len(Wanted._fields)]  # with which Tensors begins
    gradients = call_backward(ctx.saved_tensors, (operation, *ctx.options), d_o, d_final_state, wanted)
    return (*gradients, *[None] * (len(ctx.needs_input_grad) - len(gradients)))


def _refuse_second_order(_ctx, *_gradients):
    raise Unsupported(
        "gla_tune has first-order gradients only: its functions cannot be differentiated twice (create_graph=True); "
        "naive_recurrent_gla can",
        "second-order gradients",
    )


def _define(operation: Operation, schema: str, cuda, fake, differentiate, save=None):
    name = _NAMES[operation]
    torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(name, "CUDA", cuda)
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, differentiate, setup_context=save)
    return getattr(torch.ops.gla_tune, name.rpartition("::")[2]).default


def _define_forward(operation: Operation):
    cuda, fake = partial(_forward_cuda, operation), partial(_forward_fake, operation)
    return _define(operation, _FORWARD_SCHEMA, cuda, fake, partial(_differentiate, BACKWARD[operation]), _save)


def _define_backward(operation: Operation):
    cuda, fake = partial(_backward_cuda, operation), partial(_backward_fake, operation)
    return _define(operation, _BACKWARD_SCHEMA, cuda, fake, _refuse_second_order)


_operators = {
    **{forward: _define_forward(forward) for forward in BACKWARD},
    **{backward: _define_backward(backward) for backward in BACKWARD.values()},
}


def call(tensors: Tensors, options: Options):
    """`forward` through PyTorch's dispatcher, with gradients."""
    output, state = _operators[options.operation](*tensors, *options[1:])
    return output, state if options.output_final_state else None
