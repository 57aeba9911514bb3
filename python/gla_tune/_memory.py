"""Memory for outputs, gradients and workspaces, by the shortest way to PyTorch's allocator."""

from functools import partial
from typing import Callable, NamedTuple, Tuple

import torch


class Layout(NamedTuple):
    """A tensor that is to be allocated."""

    sizes: Tuple[int, ...]
    strides: Tuple[int, ...]
    dtype: torch.dtype


def contiguous(sizes, dtype: torch.dtype) -> Layout:
    """Of a tensor that lies as torch.empty makes it."""
    return Layout(tuple(sizes), torch.empty(sizes, device="meta").stride(), dtype)


def _find_empty_strided():
    """What code that torch.compile generated allocates with on the current CUDA device, without PyTorch's dispatcher.

    None where its twin for the CPU is not there or does not do what is known of it: it is not a public name.
    """
    try:
        from torch._C._dynamo.guards import _empty_strided_cpu, _empty_strided_cuda

        made = _empty_strided_cpu((2, 3), (3, 1), torch.float16)
        works = (made.shape, made.stride(), made.dtype) == ((2, 3), (3, 1), torch.float16)
    except Exception:  # whatever another version makes of it
        return None
    return _empty_strided_cuda if works else None


_empty_strided = _find_empty_strided()
_current_device = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)


def _dispatched(device: torch.device, sizes, strides, dtype):
    return torch.empty_strided(sizes, strides, dtype=dtype, device=device)


def allocator(device: torch.device, index: int) -> Callable[..., torch.Tensor]:
    """A function of a Layout's fields that allocates on a device, `index` being its ordinal, for use at once."""
    if _empty_strided is not None and _current_device() == index:
        return _empty_strided
    return partial(_dispatched, device)
