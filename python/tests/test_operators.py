"""The operators as PyTorch sees them without a GPU: shapes by fake tensors, one graph under torch.compile."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import gla_tune

FUNCTIONS = [gla_tune.chunk_gla, gla_tune.fused_recurrent_gla]
B, T, H, K, V = 2, 8, 4, 16, 32


def meta_inputs(dtype=torch.bfloat16, query_heads=H):
    shapes = [(B, T, query_heads, K), (B, T, H, K), (B, T, H, V), (B, T, H, K)]
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("state_v_first", [False, True])
def test_shapes_without_data(function, state_v_first):
    o, state = function(*meta_inputs(query_heads=3 * H), output_final_state=True, state_v_first=state_v_first)
    assert (o.shape, o.dtype) == ((B, T, 3 * H, V), torch.bfloat16)
    assert (state.shape, state.dtype) == ((B, H, V, K) if state_v_first else (B, H, K, V), torch.float32)
    assert function(*meta_inputs())[1] is None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_fake_tensors_of_a_gpu_need_no_gpu(function):
    with FakeTensorMode():
        q, k, v, g = (torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in meta_inputs())
        lengths = torch.empty(3, dtype=torch.int64, device="cuda")
        o, state = function(q[:1], k[:1], v[:1], g[:1], output_final_state=True, cu_seqlens=lengths)
    assert o.device.type == "cuda" and o.shape == (1, T, H, V) and state.shape == (2, H, K, V)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_as_one_graph(function, dynamic):
    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=dynamic)
    def layer(q, k, v, g):
        o, state = function(q * 2, k, v, g, output_final_state=True)
        return o + 1, state

    with torch.no_grad():
        o, state = layer(*meta_inputs())
    assert o.shape == (B, T, H, V) and state.shape == (B, H, K, V)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_mixed_dtypes_are_converted_outside_of_the_operator(function):
    q, k, v, g = meta_inputs()
    graph = make_fx(lambda *inputs: function(*inputs)[0], tracing_mode="real")(q, k.float(), v, g).graph
    (node,) = [node for node in graph.nodes if "gla_tune" in str(node.target)]
    assert {argument.meta["val"].dtype for argument in node.args[:3]} == {torch.float32}


def test_autocast_settles_the_dtype_of_a_chunk_call(monkeypatch):
    # Where there is no GPU, torch.autocast("cuda") disables itself.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    q, k, v, g = meta_inputs()
    graph = make_fx(lambda *inputs: gla_tune.chunk_gla(*inputs)[0], tracing_mode="real")(q, k.float(), v, g).graph
    (node,) = [node for node in graph.nodes if "gla_tune" in str(node.target)]
    assert {argument.meta["val"].dtype for argument in node.args[:3]} == {torch.bfloat16}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_call_has_gradients_in_one_graph(function, dynamic):
    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=dynamic)
    def layer(q, k, v, g):
        o, state = function(q * 2, k, v, g, output_final_state=True)
        return o + 1, state

    inputs = [x.requires_grad_() for x in meta_inputs(query_heads=3 * H)]
    o, state = layer(*inputs)
    torch.autograd.backward([o.sum(), state.sum()])
    assert [x.grad.shape for x in inputs] == [x.shape for x in inputs]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_second_derivative_is_refused(function):
    q, k, v, g = (x.requires_grad_() for x in meta_inputs(torch.float32))
    (dk,) = torch.autograd.grad(function(q, k, v, g)[0].sum(), [k], create_graph=True)
    with pytest.raises(NotImplementedError, match="first-order gradients only"):
        dk.sum().backward()
