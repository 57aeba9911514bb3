"""Calls small enough for CPU tensors, and what libgla's structs say of them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gla_tune import _forward
from gla_tune._abi import Operation
from gla_tune._arguments import Options, Tensors

B, T, H, K, V = 2, 8, 4, 16, 32

needs_guards = pytest.mark.skipif(_forward.TensorGuards is None, reason="this PyTorch has no TensorGuards")


def rand(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, dtype=torch.float32).to(dtype)


def state(*shape):
    return rand(*(shape or (B, H, K, V)), dtype=torch.float32)


def inputs(**changes):
    given = dict(q=rand(B, T, H, K), k=rand(B, T, H, K), v=rand(B, T, H, V), gk=rand(B, T, H, K))
    optional = dict(gv=None, initial_state=None, cu_seqlens=None, cu_seqlens_cpu=None)
    return Tensors(**{**given, **optional, **changes})


def options(operation=Operation.CHUNK_FORWARD, **changes):
    given = dict(scale=None, output_final_state=False, reverse=False, state_v_first=False, accuracy="default")
    return Options(operation, **{**given, **changes})


def strides(call, name):
    return tuple(getattr(call, f"{name}_stride_{axis}") for axis in ("batch", "token", "head"))


class Watching(TorchDispatchMode):
    """A mode that sees what is called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.seen.append(str(function))
        return function(*arguments, **(keywords or {}))
