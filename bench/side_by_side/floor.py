"""The floor: the time in which the copy bandwidth measured in the same run moves each input and output once."""

from __future__ import annotations

from statistics import median

import torch

from .cases import Case
from .inputs import DTYPES
from .stopwatch import Stopwatch

STATE_BYTES = 4
COPY_BYTES = 2 << 30
COPIES, COPY_SAMPLES = 8, 9

# A backward pass goes over time twice, reading q, k, v, g and do each time, and writes dq, dk, dv and dg: the 14 tensor
# passes of the comparisons. By width of the tensor, where "query" ones are repeated for the G heads of a group:
BACKWARD_QUERY_K, BACKWARD_K, BACKWARD_QUERY_V, BACKWARD_V = 3, 6, 2, 3


def floor_bytes(case: Case) -> int:
    shape = case.shape
    k, v, group = shape.dim_k, shape.dim_v, shape.group
    elements = group * (k + v) + 2 * k + v  # q and o; k and g; v
    states = 2
    if case.operation.backward:
        elements += group * (BACKWARD_QUERY_K * k + BACKWARD_QUERY_V * v) + BACKWARD_K * k + BACKWARD_V * v
        states += 3  # the initial state again, the final state's gradient in, the initial state's gradient out
    token_bytes = sum(case.lengths) * shape.heads * elements * DTYPES[case.dtype].itemsize
    state_bytes = len(case.lengths) * shape.heads * k * v * STATE_BYTES
    return token_bytes + (states * state_bytes if case.states else 0)


def copy_bandwidth(stopwatch: Stopwatch) -> float:
    """Bytes per second, read and written, of a large copy."""
    free, _ = torch.cuda.mem_get_info()
    source = torch.ones(min(COPY_BYTES, free // 4), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    seconds = median(stopwatch.eager(copy, COPIES).seconds for _ in range(COPY_SAMPLES))
    return 2 * source.nbytes / seconds
