"""How far an output is from the reference: ||x - ref|| / ||ref||, overall and for the worst (sequence, head)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch

# A (sequence, head) whose reference is small by chance (one token with q almost orthogonal to k) is measured against a
# quarter of the tensor's root mean square instead of its own norm.
SMALLEST_SHARE = 1 / 16


@dataclass(frozen=True)
class ErrorReport:
    overall: float  # over the finite values
    worst: float
    nonfinite: int


def output_error(o: torch.Tensor, reference: torch.Tensor, lengths: Sequence[int]) -> ErrorReport:
    """o [B, T, HQ, V] holds sequences of `lengths` tokens one after the other."""
    return _report(
        [
            _Piece(x.transpose(0, 1), y.transpose(0, 1))
            for x, y in zip(o.detach().flatten(0, 1).split(lengths), reference.flatten(0, 1).split(lengths))
        ]
    )


def state_error(state: torch.Tensor, reference: torch.Tensor) -> ErrorReport:
    """States [N, H, K, V] or [N, H, V, K]."""
    return _report([_Piece(x, y) for x, y in zip(state.detach(), reference)])


@dataclass
class _Piece:
    """One sequence: [H, rows, channels] of each."""

    value: torch.Tensor
    reference: torch.Tensor


def _report(pieces: Sequence[_Piece]) -> ErrorReport:
    errors, norms, elements, nonfinite = [], [], [], 0
    for piece in pieces:
        value = piece.value.double()
        finite = value.isfinite()
        nonfinite += value.numel() - int(finite.sum())
        errors.append(torch.where(finite, value - piece.reference, 0.0).square().sum((1, 2)))
        norms.append(piece.reference.square().sum((1, 2)))
        elements.append(torch.full_like(norms[-1], value[0].numel()))
    error, norm, element = torch.stack(errors), torch.stack(norms), torch.stack(elements)
    least = SMALLEST_SHARE * element * norm.sum() / element.sum()
    # An empty sequence has neither error nor norm.
    worst = torch.where(error > 0, error / norm.maximum(least), 0.0).max()
    return ErrorReport(float((error.sum() / norm.sum()).sqrt()), float(worst.sqrt()), nonfinite)
