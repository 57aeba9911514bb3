"""What a forward and a backward call of the operation allocate beside inputs, outputs and gradients."""

from __future__ import annotations

import torch

from ..libraries import Library
from .config import TrainingConfig


def extra_memory(library: Library, config: TrainingConfig) -> dict:
    """extra_bytes: the most at any time; share: of the bytes of q, k, v, g, o and the gradients of all five."""
    K, V = config.head_dims
    rows = (config.batch, config.tokens, config.heads)

    def rand(channels: int) -> torch.Tensor:
        return torch.randn(*rows, channels, device="cuda", dtype=torch.bfloat16)

    q, k, v, d_o = rand(K), rand(K), rand(V), rand(V)
    g = torch.nn.functional.logsigmoid(rand(K)) / 16
    inputs = [x.requires_grad_() for x in (q, k, v, g)]

    def call() -> list[torch.Tensor]:
        o, _ = library.chunk_gla(q, k, v, g)
        return [o, *torch.autograd.grad(o, inputs, d_o)]

    call()  # compiles, and tunes
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    made = call()
    torch.cuda.synchronize()
    own = sum(x.nbytes for x in made)
    extra = max(0, torch.cuda.max_memory_allocated() - before - own)
    counted = own + sum(x.nbytes for x in (*inputs, d_o))
    return {"extra_bytes": extra, "tensor_bytes": counted, "share": extra / counted}
