"""Random tensors of a case: as many sets as it takes to outgrow the L2 four times."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .cases import Case

L2_MULTIPLE = 4.2
MOST_SETS = 1024  # enough for all but the tiniest calls; the row says how many bytes rotate

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Gates:
    """logsigmoid(normal) times a factor, some of it -inf, which makes a channel forget."""

    factor: float
    resets: float = 0.0  # their probability


GATES = {
    "logsigmoid/16": Gates(1 / 16),  # what GLA layers have
    "logsigmoid": Gates(1.0),
    "2*logsigmoid": Gates(2.0),
    "10*logsigmoid": Gates(10.0),
    "5%-resets": Gates(1.0, resets=0.05),
}


@dataclass
class CallInputs:
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor
    initial_state: torch.Tensor | None = None
    states: bool = False  # a final state is asked for
    state_v_first: bool = False
    cu_seqlens: torch.Tensor | None = None
    cu_seqlens_cpu: torch.Tensor | None = None
    d_o: torch.Tensor | None = None  # what a backward pass starts from
    d_final_state: torch.Tensor | None = None

    def differentiable(self) -> list[torch.Tensor]:
        tensors = [self.q, self.k, self.v, self.g]
        return tensors if self.initial_state is None else [*tensors, self.initial_state]

    @property
    def rotating_bytes(self) -> int:
        """Without cu_seqlens, which is the same tensor in every set."""
        tensors = [*self.differentiable(), self.d_o, self.d_final_state]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def with_repeated_heads(self, group: int) -> CallInputs:
        """For a library without grouped queries: every query head with keys, values, gates and states of its own."""
        if group == 1:
            return self

        def repeated(tensor: torch.Tensor | None, dim: int) -> torch.Tensor | None:
            if tensor is None:
                return None
            return tensor.detach().repeat_interleave(group, dim).requires_grad_(tensor.requires_grad)

        return replace(
            self,
            k=repeated(self.k, 2),
            v=repeated(self.v, 2),
            g=repeated(self.g, 2),
            initial_state=repeated(self.initial_state, 1),
            d_final_state=repeated(self.d_final_state, 1),
        )


class InputMaker:
    """Draws the sets of a case one after the other; the same seed draws the same ones again."""

    def __init__(self, case: Case, device: str):
        self._case = case
        self._device = device
        self._generator = torch.Generator(device).manual_seed(case.seed)
        self._cu_seqlens_cpu = None
        self._cu_seqlens = None
        if case.mode.packed:
            # One tensor for all sets: FLA keeps what it derives from cu_seqlens by identity, as in a training step
            # whose layers share it.
            ends = torch.tensor([0, *case.lengths], dtype=torch.int64).cumsum(0)
            self._cu_seqlens_cpu = ends
            self._cu_seqlens = ends.to(device)

    def make(self) -> CallInputs:
        case, shape = self._case, self._case.shape
        dtype, learns = DTYPES[case.dtype], case.operation.backward
        batch, tokens = (1, sum(case.lengths)) if case.mode.packed else (shape.batch, shape.tokens)
        dims = (shape.dim_v, shape.dim_k) if case.mode.v_first else (shape.dim_k, shape.dim_v)
        state_size = (len(case.lengths), shape.heads, *dims)
        draw, fp32 = self._normal, torch.float32
        gates = self._gates((batch, tokens, shape.heads, shape.dim_k))
        inputs = CallInputs(
            q=draw((batch, tokens, shape.query_heads, shape.dim_k), dtype),
            k=draw((batch, tokens, shape.heads, shape.dim_k), dtype),
            v=draw((batch, tokens, shape.heads, shape.dim_v), dtype),
            g=gates.to(dtype),
            initial_state=draw(state_size, fp32) if case.states else None,
            states=case.states,
            state_v_first=case.mode.v_first,
            cu_seqlens=self._cu_seqlens,
            cu_seqlens_cpu=self._cu_seqlens_cpu,
            d_o=draw((batch, tokens, shape.query_heads, shape.dim_v), dtype) if learns else None,
            d_final_state=draw(state_size, fp32) if learns and case.states else None,
        )
        for tensor in inputs.differentiable():
            tensor.requires_grad_(learns)
        return inputs

    def _gates(self, size: tuple[int, ...]) -> torch.Tensor:
        kind = GATES[self._case.gates]
        gates = torch.nn.functional.logsigmoid(self._normal(size, torch.float32)) * kind.factor
        if kind.resets:
            chance = torch.rand(size, generator=self._generator, device=self._device)
            gates.masked_fill_(chance < kind.resets, float("-inf"))
        return gates

    def _normal(self, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(size, generator=self._generator, device=self._device, dtype=torch.float32).to(dtype)


def rotating_inputs(case: Case, device: str, l2_bytes: int) -> list[CallInputs]:
    maker = InputMaker(case, device)
    sets = [maker.make()]
    wanted = math.ceil(L2_MULTIPLE * l2_bytes / sets[0].rotating_bytes)
    sets += [maker.make() for _ in range(min(wanted, MOST_SETS) - 1)]
    return sets
