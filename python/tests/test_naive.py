"""The readable reference against the recurrence written out in numbers."""

import math

import pytest
import torch

from gla_tune import naive_recurrent_gla


def recurrence(q, k, v, gk, state):
    """Lists of one head of one row: the definition, with floats."""
    outputs = []
    for t in range(len(q)):
        for i in range(len(k[t])):
            for j in range(len(v[t])):
                state[i][j] = state[i][j] * math.exp(gk[t][i]) + k[t][i] * v[t][j]
        scale = len(k[t]) ** -0.5
        outputs.append([scale * sum(q[t][i] * state[i][j] for i in range(len(k[t]))) for j in range(len(v[t]))])
    return outputs, state


@pytest.mark.parametrize("group", [1, 3])
def test_it_is_the_definition(group):
    torch.manual_seed(0)
    B, T, H, K, V = 2, 5, 2, 3, 4
    q = torch.randn(B, T, group * H, K, dtype=torch.float64)
    k, gk = torch.randn(B, T, H, K, dtype=torch.float64), -torch.rand(B, T, H, K, dtype=torch.float64)
    v, h0 = torch.randn(B, T, H, V, dtype=torch.float64), torch.randn(B, H, K, V, dtype=torch.float64)
    o, state = naive_recurrent_gla(q, k, v, gk, initial_state=h0, output_final_state=True)
    for b in range(B):
        for hq in range(group * H):
            h = hq // group
            head = [x[b, :, h].tolist() for x in (k, v, gk)]
            outputs, final = recurrence(q[b, :, hq].tolist(), *head, h0[b, h].tolist())
            torch.testing.assert_close(o[b, :, hq], torch.tensor(outputs, dtype=torch.float64))
            torch.testing.assert_close(state[b, h], torch.tensor(final, dtype=torch.float64))


def test_its_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    inputs = [torch.randn(1, 3, 1, 2, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda *x: naive_recurrent_gla(*x, output_final_state=True), inputs)


def test_it_computes_in_float32_and_answers_in_the_dtype_of_q():
    q = torch.ones(1, 400, 1, 1, dtype=torch.bfloat16)
    o, state = naive_recurrent_gla(q, q, q, torch.zeros_like(q), output_final_state=True)
    assert o.dtype == torch.bfloat16
    assert state.item() == 400  # bfloat16 would stop at 256


def test_no_tokens():
    q = torch.zeros(2, 0, 2, 3)
    o, state = naive_recurrent_gla(q, q, q, q, initial_state=torch.ones(2, 2, 3, 3), output_final_state=True)
    assert o.shape == (2, 0, 2, 3) and state.eq(1).all()
