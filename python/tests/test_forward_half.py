"""forward_half keeps every comparison of outputs."""

from forward_half import forward_half

SOURCE = """
def test(q, h0):
    q = torch.rand(3).requires_grad_()
    o, ht = chunk_gla(q, initial_state=h0)
    (o * do).sum().backward()
    dq, q.grad = q.grad.clone(), None
    assert_close('o', ref, o, 0.004)
    assert_close('ht', ref_ht, ht, 0.005)
    assert_close('dq', ref_dq, dq, 0.005)
"""


def test_only_gradients_are_left_out():
    assert forward_half(SOURCE).splitlines() == [
        "def test(q, h0):",
        "    q = torch.rand(3)",
        "    o, ht = chunk_gla(q, initial_state=h0)",
        "    assert_close('o', ref, o, 0.004)",
        "    assert_close('ht', ref_ht, ht, 0.005)",
    ]
