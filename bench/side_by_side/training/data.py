"""Sequences to learn from in a few hundred steps: what follows a symbol is one of few, some more often than others, and
blocks repeat. Few symbols are frequent and many are rare, as in language, so that losses fall all along: what is seen
alike is learned at once, and when that begins hangs on the last bits of a run."""

from __future__ import annotations

import torch

SYMBOLS = 1024
CHANCES = (0.5, 0.25, 0.125, 0.125)  # of a symbol's followers
BLOCK = 128  # tokens, each of which comes twice


def sequences(count: int, tokens: int, seed: int) -> torch.Tensor:
    """int64 [count, tokens], the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(weights: torch.Tensor, *shape: int) -> torch.Tensor:
        number = torch.Size(shape).numel()
        return torch.multinomial(weights, number, replacement=True, generator=generator).view(shape)

    frequencies = torch.arange(1, SYMBOLS + 1) ** -0.7  # Zipf's law, with a longer tail
    followers = drawn(frequencies, SYMBOLS, len(CHANCES))
    choices = drawn(torch.tensor(CHANCES), tokens, count)
    chain = torch.empty(tokens, count, dtype=torch.int64)
    symbol = drawn(frequencies, count)
    for token in range(tokens):
        if token // BLOCK % 2 == 1:
            symbol = chain[token - BLOCK]
        else:
            symbol = followers[symbol, choices[token]]
        chain[token] = symbol
    return chain.T.contiguous()
