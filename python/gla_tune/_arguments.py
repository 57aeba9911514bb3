"""What a call may be given: shapes checked, dtypes and layouts brought to what libgla takes."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch

from ._abi import DTYPES, RECURRENT, Operation, Unsupported

_DTYPES = tuple(getattr(torch, name) for name in DTYPES)
_NAMES = ", ".join(map(str, _DTYPES))
_VECTOR_BYTES = 16  # what libgla's loads are aligned to
MOST_HEAD_DIM = 512
MOST_GROUP = 64


class ArgumentError(ValueError, AssertionError):
    """An argument that does not fit. FLA raises ValueError for some of these and fails an assertion for others."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a call: B, T, HQ, H, K, V, and N sequences."""

    batch: int
    tokens: int
    query_heads: int
    heads: int
    head_dim_k: int
    head_dim_v: int
    sequences: int

    @property
    def output(self):
        return (self.batch, self.tokens, self.query_heads, self.head_dim_v)

    def state(self, state_v_first: bool):
        channels = (self.head_dim_k, self.head_dim_v)
        return (self.sequences, self.heads, *(channels[::-1] if state_v_first else channels))


class Tensors(NamedTuple):
    """What a call reads, as the user gave it or `normalised`."""

    q: torch.Tensor  # [B, T, HQ, K]
    k: torch.Tensor  # [B, T, H, K]
    v: torch.Tensor  # [B, T, H, V]
    gk: Optional[torch.Tensor]  # [B, T, H, K]
    gv: Optional[torch.Tensor]  # [B, T, H, V]
    initial_state: Optional[torch.Tensor]  # Shape.state
    cu_seqlens: Optional[torch.Tensor]  # [N+1]
    cu_seqlens_cpu: Optional[torch.Tensor]  # the same on the host

    def of_tokens(self):
        """Those with tokens, by name."""
        named = zip(self._fields, self[:5])
        return {name: tensor for name, tensor in named if tensor is not None}


class Options(NamedTuple):
    """What a call asks for."""

    operation: Operation
    scale: Optional[float]
    output_final_state: bool
    reverse: bool
    state_v_first: bool
    accuracy: str


def _fail(message: str):
    raise ArgumentError(message)


def _size(tensor) -> list:
    return list(tensor.shape)


def shape_of(tensors: Tensors) -> Shape:
    """The sizes of a call; ArgumentError, as FLA's functions raise it, where they do not fit together."""
    q, k, v, gk, gv, _, cu_seqlens, _ = tensors
    for name, tensor in tensors.of_tokens().items():
        if tensor.dim() != 4:
            _fail(f"{name} has shape {_size(tensor)}; expected four dimensions [B, T, H, channels]")
    batch, tokens, query_heads, head_dim_k = q.shape
    heads, head_dim_v = v.shape[2], v.shape[3]
    if k.shape != (batch, tokens, heads, head_dim_k):
        _fail(
            f"k has shape {_size(k)}; expected {[batch, tokens, heads, head_dim_k]} from q {_size(q)} and v {_size(v)}"
        )
    if v.shape[:2] != (batch, tokens):
        _fail(f"v has shape {_size(v)}; it must begin with B, T = {[batch, tokens]} of q")
    for name, like, tensor in (("gk", k, gk), ("gv", v, gv)):
        if tensor is not None and tensor.shape != like.shape:
            _fail(f"{name} has shape {_size(tensor)}; q, k, g must have the same shape, here {_size(like)}")
    if heads == 0 and query_heads > 0 or heads > 0 and query_heads % heads != 0:
        _fail(f"q has {query_heads} heads; expected a multiple of the {heads} heads of k and v")
    sequences = batch
    if cu_seqlens is not None:
        if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0:
            _fail(f"cu_seqlens has shape {_size(cu_seqlens)}; expected [N+1]")
        if batch != 1:
            _fail(
                f"The batch size is expected to be 1 rather than {batch} when using `cu_seqlens`: "
                "flatten sequences of different lengths into one row before the call."
            )
        sequences = cu_seqlens.shape[0] - 1
        if sequences == 0 and tokens > 0:
            _fail(f"cu_seqlens names no sequence, but q has T = {tokens} tokens")
    return Shape(batch, tokens, query_heads, heads, head_dim_k, head_dim_v, sequences)


def check_support(tensors: Tensors, shape: Shape) -> None:
    """Raises Unsupported for what is legal in FLA and cannot be done here."""
    for name, tensor in tensors.of_tokens().items():
        if tensor.dtype not in _DTYPES:
            raise Unsupported(f"{name} is {tensor.dtype}; accepted: {_NAMES}", f"{tensor.dtype} tensors")
    for name, size in (("K", shape.head_dim_k), ("V", shape.head_dim_v)):
        if not 1 <= size <= MOST_HEAD_DIM:
            raise Unsupported(f"head dim {name} is {size}; accepted: 1 to {MOST_HEAD_DIM}", "head dims beyond 512")
    if shape.heads > 0 and shape.query_heads // shape.heads > MOST_GROUP:
        message = f"q has {shape.query_heads // shape.heads} heads for each of k; accepted: 1 to {MOST_GROUP}"
        raise Unsupported(message, "query groups beyond 64")


def check_devices(tensors: Tensors) -> None:
    """Tensors must all lie on one CUDA device (or be `meta`, for shapes alone)."""
    device = tensors.q.device
    if device.type not in ("cuda", "meta"):
        absent = "" if torch.cuda.is_available() else "; torch.cuda.is_available() is False: no NVIDIA GPU or no driver"
        message = f"q is on {device}; gla_tune runs on CUDA devices{absent}. naive_recurrent_gla runs anywhere"
        raise Unsupported(message, f"{device.type.upper()} tensors")
    others = {**tensors.of_tokens(), "initial_state": tensors.initial_state, "cu_seqlens": tensors.cu_seqlens}
    for name, tensor in others.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}; expected {device}, where q is")


def checked_shape(tensors: Tensors) -> Shape:
    """The sizes of a call that fits together, is supported and lies on one device."""
    shape = shape_of(tensors)
    check_support(tensors, shape)
    check_devices(tensors)
    return shape


def aligned_state(state: torch.Tensor) -> torch.Tensor:
    """A state, or its gradient, as libgla takes it."""
    state = state.to(torch.float32).contiguous()
    return state.clone() if state.data_ptr() % _VECTOR_BYTES else state


def _state(tensors: Tensors, options: Options, shape: Shape) -> Optional[torch.Tensor]:
    state = tensors.initial_state
    if state is None:
        return None
    if options.operation not in RECURRENT and state.dtype != torch.float32:
        _fail(f"initial_state must be in float32, not {state.dtype}.")
    expected = shape.state(options.state_v_first)
    if state.dim() == 4 and state.shape[0] != shape.sequences:
        _fail(
            "The number of initial states is expected to be equal to the number of input sequences, "
            f"i.e., {shape.sequences} rather than {state.shape[0]}."
        )
    # One sequence's own state [H, K, V], or the heads of all in a row [N*H, K, V].
    heads_in_a_row = (shape.sequences * shape.heads, *expected[2:])
    if state.shape != expected and state.shape != heads_in_a_row:
        _fail(f"initial_state has shape {_size(state)}; expected {list(expected)}")
    if state.shape != expected:
        state = state.reshape(expected)
    return aligned_state(state)


def common_dtype(tensors: Tensors, options: Options) -> torch.dtype:
    """Of q, k and v. Where they differ: as a matrix product under autocast, otherwise nothing is rounded."""
    dtypes = {tensors.q.dtype, tensors.k.dtype, tensors.v.dtype}
    if len(dtypes) == 1:
        return dtypes.pop()
    if options.operation not in RECURRENT and torch.is_autocast_enabled("cuda"):
        autocast = torch.get_autocast_dtype("cuda")
        if autocast in _DTYPES:
            return autocast
    return torch.float32


def _is_readable(tensor: torch.Tensor) -> bool:
    """Whether libgla can read it where it lies; gla.hpp, TensorView."""
    channels, size = tensor.shape[3], tensor.element_size()
    if tensor.numel() == 0:
        return True
    if channels > 1 and tensor.stride(3) != 1:
        return False
    step = math.gcd(_VECTOR_BYTES, channels * size)
    strides = (tensor.stride(axis) for axis in range(3) if tensor.shape[axis] > 1)
    return tensor.data_ptr() % _VECTOR_BYTES == 0 and all(stride * size % step == 0 for stride in strides)


def readable(tensor: Optional[torch.Tensor], dtype: torch.dtype) -> Optional[torch.Tensor]:
    """A tensor [B, T, H, channels] in `dtype` and in a layout that libgla reads; where it lies if it is so already."""
    if tensor is None:
        return None
    tensor = tensor.to(dtype)
    return tensor if _is_readable(tensor) else tensor.clone(memory_format=torch.contiguous_format)


def _lengths(tensors: Tensors):
    """cu_seqlens and its copy on the host, of one dtype."""
    lengths, host = tensors.cu_seqlens, tensors.cu_seqlens_cpu
    if lengths is None:
        return None, None
    if lengths.dtype not in (torch.int32, torch.int64):
        _fail(f"cu_seqlens is {lengths.dtype}; accepted: torch.int32, torch.int64")
    if host is not None:
        if host.shape != lengths.shape or host.device.type != "cpu":
            _fail(f"cu_seqlens_cpu is {_size(host)} on {host.device}; expected {_size(lengths)} on cpu")
        host = host.to(lengths.dtype).contiguous()
    return lengths.contiguous(), host


def normalised(tensors: Tensors, options: Options, shape: Shape) -> Tensors:
    """The same call in one dtype and in a layout that libgla reads; what already is so stays where it lies."""
    dtype = common_dtype(tensors, options)
    gates = {gate.dtype for gate in (tensors.gk, tensors.gv) if gate is not None}
    gate_dtype = dtype if gates == {dtype} else torch.float32
    lengths, host = _lengths(tensors)
    return Tensors(
        q=readable(tensors.q, dtype),
        k=readable(tensors.k, dtype),
        v=readable(tensors.v, dtype),
        gk=readable(tensors.gk, gate_dtype),
        gv=readable(tensors.gv, gate_dtype),
        initial_state=_state(tensors, options, shape),
        cu_seqlens=lengths,
        cu_seqlens_cpu=host,
    )


def output_dtype(tensors: Tensors, options: Options) -> torch.dtype:
    """Of o, as in FLA: chunk_gla's is v's, fused_recurrent_gla's is q's."""
    return (tensors.q if options.operation in RECURRENT else tensors.v).dtype
