"""The operations as PyTorch operators, torch.ops.gla_tune.*: what torch.compile, fake tensors and other modes see."""

from functools import partial

import torch

from ._abi import Operation, Unsupported
from ._arguments import Options, Tensors, output_dtype, shape_of
from ._forward import forward

_NAMES = {
    Operation.CHUNK_FORWARD: "gla_tune::chunk_forward",
    Operation.RECURRENT_FORWARD: "gla_tune::recurrent_forward",
}
# Tensors and Options without the operation. A final state that was not asked for is a tensor of no elements.
_SCHEMA = (
    "(Tensor q, Tensor k, Tensor v, Tensor? gk, Tensor? gv, Tensor? initial_state, Tensor? cu_seqlens, "
    "Tensor? cu_seqlens_cpu, float? scale, bool output_final_state, bool reverse, bool state_v_first, str accuracy) "
    "-> (Tensor o, Tensor final_state)"
)


def no_gradients(name: str) -> Unsupported:
    """The error of a call whose argument `name` requires a gradient."""
    return Unsupported(
        f"gla_tune has no backward pass yet, and {name} requires a gradient: call it under torch.no_grad(), detach its "
        "inputs, or use FLA's function (patch_fla leaves such calls to FLA)",
        "gradients",
    )


def _split(operation: Operation, arguments):
    count = len(Tensors._fields)
    return Tensors(*arguments[:count]), Options(operation, *arguments[count:])


def _cuda(operation: Operation, *arguments):
    tensors, options = _split(operation, arguments)
    output, state = forward(tensors, options)
    return output, output.new_empty(0, dtype=torch.float32) if state is None else state


def _fake(operation: Operation, *arguments):
    tensors, options = _split(operation, arguments)
    shape = shape_of(tensors)
    state_shape = shape.state(options.state_v_first) if options.output_final_state else (0,)
    q = tensors.q
    output = q.new_empty(shape.output, dtype=output_dtype(tensors, options))
    return output, q.new_empty(state_shape, dtype=torch.float32)


def _backward(_context, *_gradients):
    raise no_gradients("an input")


def _register():
    operators = {}
    for operation, name in _NAMES.items():
        torch.library.define(name, _SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "CUDA", partial(_cuda, operation))
        torch.library.register_fake(name, partial(_fake, operation))
        torch.library.register_autograd(name, _backward)
        operators[operation] = getattr(torch.ops.gla_tune, name.rpartition("::")[2]).default
    return operators


_operators = _register()


def call(tensors: Tensors, options: Options):
    """`forward` through PyTorch's dispatcher."""
    output, state = _operators[options.operation](*tensors, *options[1:])
    return output, state if options.output_final_state else None
