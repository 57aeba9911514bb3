"""Sequences to learn from in a few hundred steps: what follows a symbol is one of few, and blocks repeat."""

from __future__ import annotations

import torch

SYMBOLS, SUCCESSORS = 1024, 4
BLOCK = 128  # tokens, each of which comes twice


def sequences(count: int, tokens: int, seed: int) -> torch.Tensor:
    """int64 [count, tokens], the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    followers = torch.randint(SYMBOLS, (SYMBOLS, SUCCESSORS), generator=generator)
    choices = torch.randint(SUCCESSORS, (tokens, count), generator=generator)
    chain = torch.empty(tokens, count, dtype=torch.int64)
    symbol = torch.randint(SYMBOLS, (count,), generator=generator)
    for token in range(tokens):
        if token // BLOCK % 2 == 1:
            symbol = chain[token - BLOCK]
        else:
            symbol = followers[symbol, choices[token]]
        chain[token] = symbol
    return chain.T.contiguous()
