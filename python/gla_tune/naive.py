"""The readable reference: one token at a time, in PyTorch, on any device, with gradients."""

from typing import Optional, Tuple

import torch


def naive_recurrent_gla(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    gk: torch.Tensor,
    initial_state: Optional[torch.Tensor] = None,
    output_final_state: bool = False,
) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
    """Gated linear attention as it is defined (arXiv 2312.06635), in float32 (float64 for float64 inputs).

    Args:
        q: queries [B, T, HQ, K]; HQ may be a multiple of H.
        k: keys [B, T, H, K].
        v: values [B, T, H, V].
        gk: log decay per key channel [B, T, H, K].
        initial_state: [B, H, K, V], or [H, K, V] for all rows; default zero.
        output_final_state: whether to return the final state.

    Returns:
        o [B, T, HQ, V], in q's dtype, and the final state [B, H, K, V] or None.

    Example::

        import torch
        from gla_tune import naive_recurrent_gla

        q, k, v = (torch.randn(1, 8, 2, 16) for _ in range(3))
        gk = torch.nn.functional.logsigmoid(torch.randn(1, 8, 2, 16))
        o, state = naive_recurrent_gla(q, k, v, gk, output_final_state=True)
    """
    precision = torch.promote_types(q.dtype, torch.float32)
    batch, tokens, query_heads, head_dim_k = q.shape
    heads, head_dim_v = v.shape[2:]
    grouped = (batch, tokens, heads, query_heads // heads, head_dim_k)
    queries = q.to(precision).reshape(grouped) * head_dim_k**-0.5
    keys, values, decay = k.to(precision), v.to(precision), gk.to(precision).exp()

    state = torch.zeros(batch, heads, head_dim_k, head_dim_v, dtype=precision, device=q.device)
    if initial_state is not None:
        state = state + initial_state.to(precision)
    outputs = []
    for t in range(tokens):
        state = state * decay[:, t, :, :, None] + keys[:, t, :, :, None] * values[:, t, :, None, :]
        outputs.append(queries[:, t] @ state)
    o = torch.stack(outputs, dim=1) if outputs else queries.new_empty((*grouped[:4], head_dim_v))
    return o.reshape(batch, tokens, query_heads, head_dim_v).to(q.dtype), state if output_final_state else None
