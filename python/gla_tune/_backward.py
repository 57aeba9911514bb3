"""The way of a gradient to libgla: first-order gradients of both operations, each only where it is wanted."""

import contextlib
import ctypes
import threading
from functools import lru_cache
from typing import Iterator, List, NamedTuple, Optional

import torch

from . import _abi
from ._abi import BACKWARD, Operation, Unsupported
from ._arguments import ArgumentError, Options, Shape, Tensors, aligned_state, readable
from ._context import logger
from ._forward import (
    ALIGNMENT,
    Misaligned,
    Plan,
    Recent,
    absent,
    keep_plan,
    kept_plan,
    kind_of,
    plan_of,
    recall,
    remember,
)
from ._memory import allocator, contiguous


class Wanted(NamedTuple):
    """The inputs whose gradients are wanted."""

    q: bool
    k: bool
    v: bool
    gk: bool
    gv: bool
    initial_state: bool


class BackwardPlan(Plan):
    """A normalised call whose gradients are asked for, without its addresses."""

    def __init__(self, tensors: Tensors, options: Options, shape: Shape):
        super().__init__(tensors, options, shape)
        if self.is_empty:
            return
        self.launch = self.library.gla_backward
        self.gradients = _abi.BackwardCall(
            struct_size=ctypes.sizeof(_abi.BackwardCall), forward=ctypes.pointer(self.call)
        )
        self.launched = ctypes.byref(self.gradients)

    def ask_for(self, wanted: Wanted, tensors: Tensors, d_o: torch.Tensor) -> None:
        """Settles what is computed, for incoming gradients that lie as d_o does."""
        _abi.set_tensor(self.gradients, "d_o", d_o)
        by_chunks = self.operation == Operation.CHUNK_BACKWARD
        gates_need_dk = by_chunks and wanted.gk and tensors.gk.dtype != torch.float32  # gla.hpp, BackwardCall
        computed = wanted._replace(k=wanted.k or gates_need_dk)
        self.computed = []  # the gradient's layout, where the struct has its address
        self.returned = []  # where among those, in Wanted's order
        for name, is_computed, is_wanted in zip(Wanted._fields, computed, wanted):
            self.returned.append(len(self.computed) if is_wanted else None)
            if not is_computed:
                continue
            field = "d_initial_state" if name == "initial_state" else f"d{name}_data"
            given = getattr(tensors, name)
            self.computed.append((contiguous(given.shape, given.dtype), field))
            if name != "initial_state":
                _abi.set_strides(self.gradients, f"d{name}", torch.empty(given.shape, device="meta"))

    def run(self, tensors: Tensors, d_o: torch.Tensor, d_final_state: Optional[torch.Tensor]):
        """Launches on the current stream: the gradients in Wanted's order, None for what is not wanted."""
        self.read_from(tensors)
        call = self.gradients
        call.d_o_data = addresses = d_o.data_ptr()
        if d_final_state is not None and self.state is not None:
            call.d_final_state = address = d_final_state.data_ptr()
            addresses |= address
        if addresses & ALIGNMENT:
            raise Misaligned
        allocate = allocator(self.device, self.index)
        gradients = []
        for layout, field in self.computed:
            gradient = allocate(*layout)
            setattr(call, field, gradient.data_ptr())
            gradients.append(gradient)
        self.enqueue(allocate)
        return [place if place is None else gradients[place] for place in self.returned]


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


_prepared = set()  # kinds of calls whose gradients' kernels were prepared with them


def _is_captured(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _prepare(tensors: Tensors, options: Options) -> None:
    # What is wrong with the gradients is for the backward pass to say, if there is one.
    with contextlib.suppress(Exception):
        backward_plan_of(tensors, options)[1].prepare()


@contextlib.contextmanager
def gradients_prepared(tensors: Tensors, options: Options) -> Iterator[None]:
    """With the first call of a kind, whatever its lengths: compiles its gradients' kernels while it compiles its own.

    One behind the other they take the sum of both times, some seconds where no cache has them. It ends before the call
    does, so that nothing is loaded when a capture begins behind it.
    """
    gates = (None if gate is None else gate.dtype for gate in (tensors.gk, tensors.gv))
    kind = (options._replace(scale=None), tensors.q.device, tensors.q.dtype, *gates, absent(tensors)) + tuple(
        tensor.shape[2:] for tensor in (tensors.q, tensors.k, tensors.v)
    )
    if kind in _prepared or _is_captured(tensors.q):
        yield
        return
    _prepared.add(kind)
    backward_options = options._replace(operation=BACKWARD[options.operation])
    thread = threading.Thread(target=_prepare, args=(tensors, backward_options), name="gla_tune gradients")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _incoming(plan: BackwardPlan, d_o: Optional[torch.Tensor]) -> torch.Tensor:
    if d_o is not None:
        return readable(d_o, plan.dtype)
    zeros = torch.zeros(plan.output.sizes[-1], dtype=plan.dtype, device=plan.device)
    return zeros.expand(plan.output.sizes)  # one row, which libgla reads for all


def _check(name: str, gradient: Optional[torch.Tensor], shape, device: torch.device) -> None:
    """Of a direct call: autograd's gradients are like the outputs that they are of."""
    if gradient is not None and (gradient.shape != torch.Size(shape) or gradient.device != device):
        raise ArgumentError(
            f"{name} is {list(gradient.shape)} on {gradient.device}; accepted: {list(shape)} on {device}, as its output"
        )


def _plan_key(tensors: tuple, options: tuple, d_o, d_final_state, wanted: tuple) -> tuple:
    return (wanted, options, *kind_of((*tensors, d_o, d_final_state)))


def _recent_key(tensors: tuple, options: tuple, d_o, d_final_state, wanted: tuple) -> tuple:
    return (wanted, options, *absent(tensors), d_o is None, d_final_state is None)


def remember_backward(tensors: tuple, options: tuple, d_o, d_final_state, wanted: tuple) -> None:
    """To be called after `backward`, with its arguments, by whoever recalls."""
    plan = kept_plan(_plan_key(tensors, options, d_o, d_final_state, wanted))
    remember(_recent_key(tensors, options, d_o, d_final_state, wanted), (*tensors, d_o, d_final_state), plan)


def recall_backward(tensors: tuple, options: tuple, d_o, d_final_state, wanted: tuple) -> Optional[Recent]:
    """The recent call for as much that this one is like, if any. The arguments may be plain tuples."""
    return recall(_recent_key(tensors, options, d_o, d_final_state, wanted), (*tensors, d_o, d_final_state))


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
    key = _plan_key(tensors, options, d_o, d_final_state, wanted)
    plan = kept_plan(key)
    if plan is not None:
        try:
            return plan.run(tensors, d_o, d_final_state)
        except Misaligned:
            pass
    ready, plan = backward_plan_of(tensors, options)
    if plan.is_empty:
        return [torch.zeros_like(getattr(tensors, name)) if asked else None for name, asked in wanted._asdict().items()]
    _check("d_o", d_o, plan.output.sizes, plan.device)
    if options.output_final_state:
        _check("d_final_state", d_final_state, plan.state.sizes, plan.device)
    else:
        d_final_state = None  # torch.compile makes zeros of what was not asked for
    incoming = _incoming(plan, d_o), None if d_final_state is None else aligned_state(d_final_state)
    plan.ask_for(wanted, ready, incoming[0])
    if all(after is before for after, before in zip((*ready, *incoming), (*tensors, d_o, d_final_state))):
        keep_plan(key, plan)
    gradients = plan.run(ready, *incoming)
    inputs = [getattr(tensors, name) for name in Wanted._fields]
    return [g if g is None else g.to(given.dtype).reshape(given.shape) for g, given in zip(gradients, inputs)]
