"""The operator in fp64: what errors are measured against.

Chunks of a few tokens, and inside a chunk exp(b_i - b_j) for every pair and channel rather than exp(b_i) · exp(-b_j):
every exponent is a sum of gates between two tokens, so gates of any strength, -inf included, neither overflow nor
cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch

from .inputs import CallInputs

CHUNK = 16
LEAST_GATE = -800.0  # exp() of it is 0 in fp64; unlike -inf it can be subtracted from itself


@dataclass
class Reference:
    o: torch.Tensor  # fp64, the shape of the call's o
    final_state: torch.Tensor  # fp64 [N, H, K, V], or [N, H, V, K] if the call has states so


@dataclass
class _Sequence:
    """One sequence, head first: [H, T, dim] and for q [H, G, T, K], in the dtype of the call."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    g: torch.Tensor


@torch.no_grad()
def reference(inputs: CallInputs, lengths: Sequence[int]) -> Reference:
    """`lengths` are the tokens of each sequence; one sequence at a time bounds the memory."""
    tokens, query_heads = inputs.q.shape[0] * inputs.q.shape[1], inputs.q.shape[2]
    heads, dim_k, dim_v = inputs.k.shape[2], inputs.k.shape[3], inputs.v.shape[3]
    o = torch.empty(tokens, query_heads, dim_v, dtype=torch.float64, device=inputs.q.device)
    states = torch.zeros(len(lengths), heads, dim_k, dim_v, dtype=torch.float64, device=inputs.q.device)
    if inputs.initial_state is not None:
        states += inputs.initial_state.mT if inputs.state_v_first else inputs.initial_state

    q, k, v, g = (tensor.flatten(0, 1) for tensor in (inputs.q, inputs.k, inputs.v, inputs.g))
    begin = 0
    for n, length in enumerate(lengths):
        end = begin + length
        sequence = _Sequence(
            q[begin:end].unflatten(1, (heads, -1)).permute(1, 2, 0, 3),
            *(tensor[begin:end].transpose(0, 1) for tensor in (k, v, g)),
        )
        for first in range(0, length, CHUNK):
            o_chunk, states[n] = _chunk(sequence, slice(first, first + CHUNK), states[n])
            chunk_end = min(begin + first + CHUNK, end)
            o[begin + first : chunk_end] = o_chunk.permute(2, 0, 1, 3).flatten(1, 2)
        begin = end
    final_state = states.mT if inputs.state_v_first else states
    return Reference(o.view(*inputs.q.shape[:3], dim_v), final_state)


def _chunk(sequence: _Sequence, tokens: slice, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """o [H, G, C, V] of some tokens and the state [H, K, V] after them."""
    k, v = sequence.k[:, tokens].double(), sequence.v[:, tokens].double()
    q = sequence.q[:, :, tokens].double() * k.shape[-1] ** -0.5
    b = sequence.g[:, tokens].double().clamp(min=LEAST_GATE).cumsum(1)
    # decay[h, i, j] = exp(b_i - b_j): what is left at token i of what token j wrote; nothing was written after i.
    later = torch.ones(b.shape[1], b.shape[1], dtype=torch.bool, device=b.device).triu(1)
    decay = (b[:, :, None] - b[:, None]).masked_fill_(later[:, :, None], float("-inf")).exp_()
    decay *= k[:, None]
    scores = torch.einsum("hgik,hijk->hgij", q, decay)
    o = scores @ v[:, None] + (q * b.exp()[:, None]) @ state[:, None]
    last = b[:, -1:]
    return o, state * last.exp().mT + (k * (last - b).exp()).mT @ v
