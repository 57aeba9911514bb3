"""The functions of flash-linear-attention (FLA) for gated linear attention, with its arguments, over libgla.

For every head of every sequence (Yang et al., arXiv 2312.06635), S_0 being the initial state or zero:

    S_t = diag(exp(gk_t)) S_{t-1} diag(exp(gv_t)) + k_t v_t^T        o_t = scale * q_t^T S_t

Shapes: B batch rows of T tokens, H key/value heads, HQ = G * H query heads (G >= 1), K and V channels up to 512; N
sequences, N = B without cu_seqlens. q, k, v: torch.float16, torch.bfloat16 or torch.float32, on a CUDA device. Where
their dtypes differ the computation is in float32 or, in chunk_gla under autocast, in autocast's dtype. Gates are
logarithms of decays, in float32 or q's dtype. The calls run on the current stream and do not synchronise. Both have
first-order gradients of q, k, v, their gates and the initial state.

Errors: ArgumentError (a ValueError and an AssertionError) for shapes that do not fit; Unsupported (a
NotImplementedError) for what gla_tune cannot do (CPU tensors, second derivatives); ValueError for values;
Error (a RuntimeError) for failures of libgla.
"""

import functools
import inspect
import warnings
from typing import Optional, Tuple

import torch

from . import _autograd, _operators
from ._abi import ACCURACIES, BACKWARD, Operation, Unsupported
from ._arguments import Options, Tensors, checked_shape, common_dtype, output_dtype
from ._backward import backward_plan_of
from ._forward import Misaligned, can_go_direct, forward, learns, plan_of, recall_forward, remember_forward

_accuracy = "default"


class UnknownArgument(Unsupported, TypeError):
    """A keyword that FLA's function swallows without a word."""


def set_accuracy(accuracy: str) -> None:
    """Sets the accuracy class of all later calls of this process.

    "default" is as exact as FLA (float32: exact products); "fast" allows twice its error (float32: tf32 products).
    """
    global _accuracy
    if accuracy not in ACCURACIES:
        raise ValueError(f"accuracy is {accuracy!r}; accepted: {', '.join(ACCURACIES)}")
    _accuracy = accuracy


def get_accuracy() -> str:
    """The accuracy class that calls have now."""
    return _accuracy


def _chunk(q, k, v, g, scale, initial_state, output_final_state, state_v_first, cu_seqlens, cu_seqlens_cpu):
    tensors = (q, k, v, g, None, initial_state, cu_seqlens, cu_seqlens_cpu)
    return tensors, (Operation.CHUNK_FORWARD, scale, output_final_state, False, state_v_first, _accuracy)


def _call(tensors: tuple, options: tuple):
    """The arguments are what Tensors and Options are made of: making those would take a tenth of the call."""
    if not torch.compiler.is_compiling():
        recent = recall_forward(tensors, options)
        if recent is not None:
            try:
                if recent.learns:
                    return _autograd.call_planned(recent.plan, tensors, options)
                return recent.plan.run(tensors)
            except Misaligned:
                pass
    return _call_anew(Tensors(*tensors), Options(*options))


def _call_anew(tensors: Tensors, options: Options):
    direct = can_go_direct(tensors)
    if direct and not learns(tensors):
        output, state = forward(tensors, options)
    else:
        checked_shape(tensors)
        # Here rather than in the operator: a compiled call's autocast is known while it is traced.
        dtype = common_dtype(tensors, options)
        uniform = tensors._replace(q=tensors.q.to(dtype), k=tensors.k.to(dtype), v=tensors.v.to(dtype))
        output, state = (_autograd if direct else _operators).call(uniform, options)
        output = output.to(output_dtype(tensors, options))
    if direct:
        remember_forward(tensors, options)
    return output, state


def chunk_gla(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    scale: Optional[float] = None,
    initial_state: Optional[torch.Tensor] = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Optional[torch.Tensor] = None,
    cu_seqlens_cpu: Optional[torch.Tensor] = None,
) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    """Gated linear attention over whole sequences, chunk by chunk: prefill and training, with gradients.

    Args:
        q: queries [B, T, HQ, K]; HQ may be a multiple of H (FLA: HQ = H).
        k: keys [B, T, H, K].
        v: values [B, T, H, V].
        g: log decay per key channel [B, T, H, K], usually logsigmoid of something; None for no decay.
        scale: of the scores; default K ** -0.5.
        initial_state: [N, H, K, V], or [N, H, V, K] if state_v_first; float32. [H, K, V] for a single sequence.
        output_final_state: whether to return the final state.
        state_v_first: whether states are [V, K] rather than [K, V].
        cu_seqlens: [N+1], int32 or int64, on q's device: where each of N sequences packed into one row (B = 1) begins,
            and T. Empty sequences are legal.
        cu_seqlens_cpu: the same on the host; checked if given, never needed.

    Returns:
        o [B, T, HQ, V], in v's dtype, and the final state (float32, laid out as initial_state) or None.

    Example::

        import torch
        import torch.nn.functional as F
        from gla_tune import chunk_gla

        B, T, H, K, V = 2, 1024, 4, 128, 128
        q, k = (torch.randn(B, T, H, K, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        v = torch.randn(B, T, H, V, device="cuda", dtype=torch.bfloat16)
        g = F.logsigmoid(torch.randn(B, T, H, K, device="cuda", dtype=torch.bfloat16)) / 16
        o, state = chunk_gla(q, k, v, g, output_final_state=True)
    """
    return _call(
        *_chunk(q, k, v, g, scale, initial_state, output_final_state, state_v_first, cu_seqlens, cu_seqlens_cpu)
    )


@functools.wraps(chunk_gla, assigned=("__annotations__",))
def fused_chunk_gla(*args, **kwargs):
    """chunk_gla, whose arguments it takes, by the name that FLA has retired."""
    return chunk_gla(*args, **kwargs)


def _renamed(state_v_first: bool, deprecated: dict) -> bool:
    """state_v_first, after spellings of earlier FLA versions; a warning for each."""
    if "transpose_state_layout" in deprecated:
        if state_v_first:
            raise ValueError("Cannot pass both `state_v_first` and the deprecated `transpose_state_layout`.")
        warnings.warn(
            "`transpose_state_layout` is deprecated and renamed to `state_v_first`.", DeprecationWarning, stacklevel=4
        )
        state_v_first = deprecated.pop("transpose_state_layout")
    if "head_first" in deprecated:
        if deprecated.pop("head_first"):
            raise ValueError("head_first=True is not supported: transpose [B, H, T, D] to [B, T, H, D]")
        warnings.warn("`head_first` is deprecated: only [B, T, H, D] is left.", DeprecationWarning, stacklevel=4)
    if deprecated:
        raise UnknownArgument(
            f"fused_recurrent_gla got an unexpected keyword argument {next(iter(deprecated))!r}", "unknown arguments"
        )
    return state_v_first


def _recurrent(
    q, k, v, gk, gv, scale, initial_state, output_final_state, reverse, state_v_first, cu_seqlens, deprecated
):
    if deprecated:
        state_v_first = _renamed(state_v_first, deprecated)
    tensors = (q, k, v, gk, gv, initial_state, cu_seqlens, None)
    return tensors, (Operation.RECURRENT_FORWARD, scale, output_final_state, reverse, state_v_first, _accuracy)


def fused_recurrent_gla(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: Optional[torch.Tensor] = None,
    gv: Optional[torch.Tensor] = None,
    scale: Optional[float] = None,
    initial_state: Optional[torch.Tensor] = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Optional[torch.Tensor] = None,
    **kwargs,
) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    """Gated linear attention token by token: decode and short sequences, with gradients.

    Args:
        q: queries [B, T, HQ, K]; HQ may be a multiple of H (FLA: HQ = H).
        k: keys [B, T, H, K].
        v: values [B, T, H, V].
        gk: log decay per key channel [B, T, H, K]; None for none.
        gv: log decay per value channel [B, T, H, V]; None for none.
        scale: of the scores; default K ** -0.5.
        initial_state: [N, H, K, V], or [N, H, V, K] if state_v_first. [H, K, V] for a single sequence.
        output_final_state: whether to return the final state.
        reverse: whether to walk T backwards.
        state_v_first: whether states are [V, K] rather than [K, V].
        cu_seqlens: as in chunk_gla.
        **kwargs: deprecated spellings, with a warning: transpose_state_layout (state_v_first), head_first=False.

    Returns:
        o [B, T, HQ, V], in q's dtype, and the final state (float32, laid out as initial_state) or None.

    Example::

        import torch
        import torch.nn.functional as F
        from gla_tune import fused_recurrent_gla

        B, H, K, V = 64, 32, 128, 128
        state = torch.zeros(B, H, K, V, device="cuda")
        q, k, v = (torch.randn(B, 1, H, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        gk = F.logsigmoid(torch.randn(B, 1, H, K, device="cuda", dtype=torch.bfloat16)) / 16
        o, state = fused_recurrent_gla(q, k, v, gk, initial_state=state, output_final_state=True)
    """
    return _call(
        *_recurrent(
            q, k, v, gk, gv, scale, initial_state, output_final_state, reverse, state_v_first, cu_seqlens, kwargs
        )
    )


_MAKERS = {chunk_gla: _chunk, fused_chunk_gla: _chunk, fused_recurrent_gla: _recurrent}


def _bound(function, args, kwargs):
    """Tensors and Options of function(*args, **kwargs)."""
    if function not in _MAKERS:
        raise ValueError(f"function is {function!r}; accepted: {', '.join(known.__name__ for known in _MAKERS)}")
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    tensors, options = _MAKERS[function](*bound.arguments.values())
    return Tensors(*tensors), Options(*options)


def prepare(function, *args, **kwargs) -> None:
    """Compiles and loads what function(*args, **kwargs) needs without running it, as before a CUDA graph is captured.

    Where an argument requires a gradient, what the backward pass needs is prepared too, and so are other lengths and
    batches of the same bucket (docs/runtime.md).

    Example::

        gla_tune.prepare(gla_tune.chunk_gla, q, k, v, g)
    """
    tensors, options = _bound(function, args, kwargs)
    plan_of(tensors, options)[1].prepare()
    if learns(tensors):
        backward_plan_of(tensors, options._replace(operation=BACKWARD[options.operation]))[1].prepare()


def describe(function, *args, **kwargs) -> str:
    """Which kernel function(*args, **kwargs) would run and why: "variant; match; reason".

    Example::

        print(gla_tune.describe(gla_tune.chunk_gla, q, k, v, g))
    """
    return plan_of(*_bound(function, args, kwargs))[1].describe()
