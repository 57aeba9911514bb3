"""The way of a call on CUDA tensors to libgla: plans, kept per thread, of the calls seen.

All that can be said of a call without its addresses (checks, the filled struct, output shapes, workspace) is done once,
in its plan. A call that finds its plan allocates its outputs, sets addresses and launches.
"""

import ctypes
import threading
from collections import deque
from typing import Callable, NamedTuple, Optional

import torch

from . import _abi, _context
from ._abi import DTYPES, Status
from ._arguments import Options, Shape, Tensors, checked_shape, normalised, output_dtype
from ._memory import allocator, contiguous

_TEXT = 4096  # bytes of a description, at most
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_DEVICE = "cuda"
_MOST_PLANS = 1024  # per thread; beyond it they are made anew
_MOST_RECENT = 4  # kinds of layers in a model
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

        tensor, learning = torch.empty(2, 3), torch.empty(2, 3, requires_grad=True)
        check, check_learning = (
            TensorGuards(each, dynamic_dims_sizes=None, dynamic_dims_strides=None).check for each in (tensor, learning)
        )
        different = (torch.empty(3, 2), tensor.t(), tensor.double(), learning)
        works = check(torch.empty(2, 3)) and check_learning(learning) and not any(check(other) for other in different)
    except Exception:  # whatever another version makes of it
        return None
    return TensorGuards if works else None


TensorGuards = _find_tensor_guards()


class _Plans(threading.local):
    """Of this thread: a plan's struct is written by each call, so no other thread may hold it."""

    def __init__(self):
        self.by_key = {}
        self.recent = {}  # of each combination of options and tensors given, the last few calls


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
        self.output = contiguous(shape.output, self.dtype)
        state = shape.state(options.state_v_first)
        self.state = contiguous(state, torch.float32) if options.output_final_state else None
        self.is_empty = shape.sequences == 0 or shape.query_heads == 0
        if self.is_empty:
            return
        self.context = _context.handle(self.index)
        self.library = _abi.library()
        self.launch = self.library.gla_forward
        self.call = _filled(tensors, options, shape)
        self.reference = self.launched = ctypes.byref(self.call)
        self._query_workspace()

    def _query_workspace(self) -> None:
        size = ctypes.c_size_t()
        _abi.check(self.library.gla_workspace_bytes(self.context, self.operation, self.reference, ctypes.byref(size)))
        self.workspace_bytes = size.value
        self.workspace = contiguous((size.value,), torch.uint8)

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
        allocate = allocator(self.device, self.index)
        output = allocate(*self.output)
        state = None if self.state is None else allocate(*self.state)
        if self.is_empty:
            return output, state
        self.read_from(tensors)
        self.call.o_data = output.data_ptr()
        if state is not None:
            self.call.final_state = state.data_ptr()
        self.enqueue(allocate)
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

    def enqueue(self, allocate: Callable[..., torch.Tensor], once_more: bool = True) -> None:
        """Launches the struct as it is filled, with a workspace from an `allocator`."""
        size = self.workspace_bytes
        # Freed when this returns, for later work of the same stream: PyTorch's allocator keeps that order.
        workspace = allocate(*self.workspace) if size else None
        address = workspace.data_ptr() if size else None
        status = self.launch(self.context, self.operation, self.launched, address, size, _current_stream(self.index))
        if status == Status.WORKSPACE and once_more:  # another variant than when this plan was made
            self._query_workspace()
            self.enqueue(allocate, once_more=False)
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


def absent(tensors: tuple) -> tuple:
    """Which of Tensors' optional fields are None."""
    _, _, _, gk, gv, initial_state, cu_seqlens, cu_seqlens_cpu = tensors
    return gk is None, gv is None, initial_state is None, cu_seqlens is None, cu_seqlens_cpu is None


def learns(tensors: tuple) -> bool:
    """Whether autograd will want a gradient of a call of these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def can_go_direct(tensors: tuple) -> bool:
    """Nothing but the GPU waits for this call: no tracing, no mode, no subclass that the dispatcher would serve."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
    ):
        return False
    return tensors[0].device.type == _DEVICE and all(t is None or type(t) in _PLAIN for t in tensors)


class Recent(NamedTuple):
    """A call that went straight to libgla, for later ones to be compared with."""

    plan: Plan
    fits: Callable[..., bool]  # of the tensors that are given
    learns: bool


def remember(key: tuple, tensors: tuple, plan: Optional[Plan]) -> None:
    """Makes a plan, if there is one, the first that later calls of `key` are compared with."""
    if TensorGuards is None or plan is None:
        return
    given = [t for t in tensors if t is not None]
    guards = TensorGuards(*given, dynamic_dims_sizes=None, dynamic_dims_strides=None)
    recent = _plans.recent.setdefault(key, deque(maxlen=_MOST_RECENT))
    recent.appendleft(Recent(plan, guards.check, learns(tensors)))


def recall(key: tuple, tensors: tuple) -> Optional[Recent]:
    """The recent call of `key` that this one is like, the state of the dispatcher included; None if there is none."""
    given = [t for t in tensors if t is not None]
    for recent in _plans.recent.get(key, ()):
        if recent.fits(*given):
            return recent
    return None


def _recent_key(tensors: tuple, options: tuple) -> tuple:
    # Whether gradients are on decides between two ways, and TensorGuards does not look at it.
    return (options, torch.is_grad_enabled(), *absent(tensors))


def remember_forward(tensors: Tensors, options: Options) -> None:
    """To be called after `forward` by whoever recalls."""
    remember(_recent_key(tensors, options), tensors, kept_plan((options, *kind_of(tensors))))


def recall_forward(tensors: tuple, options: tuple) -> Optional[Recent]:
    """The recent call with such options that this one is like, if any. The arguments may be plain tuples."""
    return recall(_recent_key(tensors, options), tensors)


def forward(tensors: Tensors, options: Options):
    """One call on CUDA tensors, gradients aside: (o, final state or None)."""
    key = (options, *kind_of(tensors))
    plan = kept_plan(key)
    if plan is not None:
        try:
            return plan.run(tensors)
        except Misaligned:
            pass
    ready, plan = plan_of(tensors, options)
    if all(after is before for after, before in zip(ready, tensors)):
        keep_plan(key, plan)
    output, state = plan.run(ready)
    return output.to(output_dtype(tensors, options)), state
