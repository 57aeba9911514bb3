"""The way of a call on CUDA tensors to libgla: plans, kept per thread, of the calls seen.

All that can be said of a call without its addresses (checks, the filled struct, output shapes, workspace) is done once,
in its plan. A call that finds its plan allocates its outputs, sets addresses and launches.
"""

import ctypes
import threading
from typing import Optional

import torch

from . import _abi, _context
from ._abi import DTYPES, Status
from ._arguments import Options, Shape, Tensors, checked_shape, normalised, output_dtype

_TEXT = 4096  # bytes of a description, at most
_MOST_PLANS = 1024  # per thread; beyond it they are made anew
ALIGNMENT = 15  # of every address: the low bits that must be zero

_current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None) or (
    lambda device: torch.cuda.current_stream(device).cuda_stream
)


def _find_tensor_guards():
    """PyTorch's TensorGuards, if it is there and does what is known of it; else None, and calls take the longer way.

    It compares shapes, strides, dtypes, devices, types, requires_grad and the state of PyTorch's dispatcher at once, in
    C++, in a fifth of the time that it takes to ask for them. It belongs to torch.compile and is not a public name.
    """
    try:
        from torch._C._dynamo.guards import TensorGuards

        tensor = torch.empty(2, 3)
        check = TensorGuards(tensor, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
        different = (torch.empty(3, 2), tensor.t(), tensor.double(), torch.empty(2, 3, requires_grad=True))
        works = check(torch.empty(2, 3)) and not any(check(other) for other in different)
    except Exception:  # whatever another version makes of it
        return None
    return TensorGuards if works else None


TensorGuards = _find_tensor_guards()


class _Plans(threading.local):
    """Of this thread: a plan's struct is written by each call, so no other thread may hold it."""

    def __init__(self):
        self.by_key = {}
        self.recent = {}  # the last plan for each combination of options and tensors given, with what it fits


_plans = _Plans()


class Misaligned(Exception):
    """An address that libgla does not take: the plan fits, this call's memory does not."""


def _filled(tensors: Tensors, options: Options, shape: Shape) -> _abi.ForwardCall:
    """The struct of a normalised call, but for the addresses of its outputs."""
    gate = tensors.gv if tensors.gk is None else tensors.gk
    call = _abi.ForwardCall(
        struct_size=ctypes.sizeof(_abi.ForwardCall),
        cu_seqlens_is_int64=tensors.cu_seqlens is not None and tensors.cu_seqlens.dtype == torch.int64,
        batch=shape.batch,
        sequences=shape.sequences,
        tokens=shape.tokens,
        query_heads=shape.query_heads,
        heads=shape.heads,
        head_dim_k=shape.head_dim_k,
        head_dim_v=shape.head_dim_v,
        dtype=_dtype_code(tensors.q),
        gate_dtype=_dtype_code(tensors.q if gate is None else gate),
        state_dtype=DTYPES["float32"],
        reverse=options.reverse,
        state_v_first=options.state_v_first,
        has_scale=options.scale is not None,
        scale=options.scale or 0.0,
        accuracy=_abi.ACCURACIES[options.accuracy],
    )
    for name, tensor in tensors.of_tokens().items():
        _abi.set_tensor(call, name, tensor)
    call.o_stride_head = shape.head_dim_v
    call.o_stride_token = shape.query_heads * shape.head_dim_v
    call.o_stride_batch = shape.tokens * call.o_stride_token
    for name in ("initial_state", "cu_seqlens"):
        tensor = getattr(tensors, name)
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    return call


def _dtype_code(tensor: torch.Tensor) -> int:
    return DTYPES[str(tensor.dtype).rpartition(".")[2]]


class Plan:
    """A normalised call without its addresses."""

    def __init__(self, tensors: Tensors, options: Options, shape: Shape):
        self.operation = int(options.operation)
        self.device = tensors.q.device
        self.index = tensors.q.get_device()
        self.dtype = tensors.q.dtype
        self.output_shape = shape.output
        self.state_shape = shape.state(options.state_v_first) if options.output_final_state else None
        # empty_like takes two thirds of the time of empty.
        self.output_is_like_v = tensors.v.shape == shape.output and tensors.v.is_contiguous()
        self.is_empty = shape.sequences == 0 or shape.query_heads == 0
        if self.is_empty:
            return
        self.context = _context.handle(self.index)
        self.library = _abi.library()
        self.launch = self.library.gla_forward
        self.call = _filled(tensors, options, shape)
        self.reference = self.launched = ctypes.byref(self.call)
        self.workspace_bytes = self._query_workspace()

    def _query_workspace(self) -> int:
        size = ctypes.c_size_t()
        _abi.check(self.library.gla_workspace_bytes(self.context, self.operation, self.reference, ctypes.byref(size)))
        return size.value

    def prepare(self) -> None:
        """Compiles and loads what the call needs."""
        if not self.is_empty:
            _abi.check(self.library.gla_prepare(self.context, self.operation, self.reference))

    def describe(self) -> str:
        """Which variant the call gets, and why."""
        if self.is_empty:
            return "nothing to run"
        text = ctypes.create_string_buffer(_TEXT)
        _abi.check(self.library.gla_describe(self.context, self.operation, self.reference, text, _TEXT))
        return text.value.decode()

    def run(self, tensors: Tensors):
        """Launches on the current stream; (o, final state or None)."""
        if self.output_is_like_v:
            output = torch.empty_like(tensors[2])
        else:
            output = torch.empty(self.output_shape, dtype=self.dtype, device=self.device)
        if self.state_shape is None:
            state = None
        elif tensors[5] is not None:
            state = torch.empty_like(tensors[5])
        else:
            state = torch.empty(self.state_shape, dtype=torch.float32, device=self.device)
        if self.is_empty:
            return output, state
        self.read_from(tensors)
        self.call.o_data = output.data_ptr()
        if state is not None:
            self.call.final_state = state.data_ptr()
        self.enqueue()
        return output, state

    def read_from(self, tensors: Tensors) -> None:
        """Sets the addresses of the inputs. Raises Misaligned."""
        q, k, v, gk, gv, initial_state, cu_seqlens, cu_seqlens_cpu = tensors
        call = self.call
        call.q_data = addresses = q.data_ptr()
        call.k_data = address = k.data_ptr()
        addresses |= address
        call.v_data = address = v.data_ptr()
        addresses |= address
        if gk is not None:
            call.gk_data = address = gk.data_ptr()
            addresses |= address
        if gv is not None:
            call.gv_data = address = gv.data_ptr()
            addresses |= address
        if initial_state is not None:
            call.initial_state = address = initial_state.data_ptr()
            addresses |= address
        if addresses & ALIGNMENT:
            raise Misaligned
        if cu_seqlens is not None:
            call.cu_seqlens = cu_seqlens.data_ptr()
            call.cu_seqlens_host = None if cu_seqlens_cpu is None else cu_seqlens_cpu.data_ptr()

    def enqueue(self, once_more: bool = True) -> None:
        """Launches the struct as it is filled."""
        size = self.workspace_bytes
        # Freed when this returns, for later work of the same stream: PyTorch's allocator keeps that order.
        workspace = torch.empty(size, dtype=torch.uint8, device=self.device) if size else None
        address = workspace.data_ptr() if size else None
        status = self.launch(self.context, self.operation, self.launched, address, size, _current_stream(self.index))
        if status == Status.WORKSPACE and once_more:  # another variant than when this plan was made
            self.workspace_bytes = self._query_workspace()
            self.enqueue(once_more=False)
        elif status != 0:
            _abi.check(status)


def plan_of(tensors: Tensors, options: Options, kind: type = Plan):
    """Checks a call and plans it: its normalised tensors and their plan, of a class that is made as Plan is."""
    shape = checked_shape(tensors)
    ready = normalised(tensors, options, shape)
    return ready, kind(ready, options, shape)


def kind_of(tensors: tuple) -> list:
    """All that a plan may depend on of tensors, by which it is kept."""
    return [t if t is None else (t.shape, t.stride(), t.dtype, t.get_device()) for t in tensors]


def kept_plan(key: tuple) -> Optional[Plan]:
    """The plan that this thread keeps for calls of a kind."""
    return _plans.by_key.get(key)


def keep_plan(key: tuple, plan: Plan) -> None:
    """For calls that need no copies, nor will others of the kind."""
    if len(_plans.by_key) >= _MOST_PLANS:
        _plans.by_key.clear()
        _plans.recent.clear()
    _plans.by_key[key] = plan


def _remember(tensors: Tensors, options: Options, plan: Plan) -> None:
    """Makes `plan` the one that the next call of its kind is compared with."""
    if TensorGuards is None or any(t is not None and t.requires_grad for t in tensors):
        return
    given = [t for t in tensors if t is not None]
    guards = TensorGuards(*given, dynamic_dims_sizes=None, dynamic_dims_strides=None)
    _plans.recent[(options, *[t is None for t in tensors[3:]])] = plan, guards.check


def forward_again(tensors: tuple, options: tuple):
    """A call like the last one with such options: (o, final state or None). None if it is not like that one.

    Where it is, the dispatcher is in the state that it was in then too, so that nothing but the GPU waits for the call.
    The arguments are Tensors and Options, or plain tuples of the same.
    """
    found = _plans.recent.get((options, *[t is None for t in tensors[3:]]))
    if found is None:
        return None
    plan, fits = found
    if not fits(*[t for t in tensors if t is not None]):
        return None
    try:
        return plan.run(tensors)
    except Misaligned:
        return None


def forward(tensors: Tensors, options: Options):
    """One call on CUDA tensors, gradients aside: (o, final state or None)."""
    key = (options, *kind_of(tensors))
    plan = kept_plan(key)
    if plan is not None:
        try:
            result = plan.run(tensors)
        except Misaligned:
            pass
        else:
            _remember(tensors, options, plan)
            return result
    ready, plan = plan_of(tensors, options)
    if all(after is before for after, before in zip(ready, tensors)):
        keep_plan(key, plan)
        _remember(tensors, options, plan)
    output, state = plan.run(ready)
    return output.to(output_dtype(tensors, options)), state
