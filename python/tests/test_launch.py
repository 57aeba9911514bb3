"""What reaches libgla: addresses and strides as they are, plans kept and shared by nobody."""

import threading

import pytest
import torch
from launch_inputs import B, H, K, T, V, Watching, inputs, needs_guards, options, rand, strides

import gla_tune
from gla_tune import _abi, _autograd, _forward, ops
from gla_tune._abi import Operation


def test_a_call_is_handed_over_as_it_lies(recorder):
    tensors = inputs(initial_state=rand(B, H, V, K, dtype=torch.float32))
    o, state = _forward.forward(tensors, options(scale=0.5, output_final_state=True, state_v_first=True))
    (call,) = recorder.calls
    for name in ("q", "k", "v", "gk"):
        assert getattr(call, f"{name}_data") == getattr(tensors, name).data_ptr()
        assert strides(call, name) == getattr(tensors, name).stride()[:3]
    assert (call.o_data, strides(call, "o")) == (o.data_ptr(), o.stride()[:3])
    assert (call.initial_state, call.final_state) == (tensors.initial_state.data_ptr(), state.data_ptr())
    assert (call.batch, call.sequences, call.tokens) == (B, B, T)
    assert (call.query_heads, call.heads, call.head_dim_k, call.head_dim_v) == (H, H, K, V)
    assert (call.dtype, call.gate_dtype, call.state_dtype) == (1, 1, 2)
    assert (call.has_scale, call.scale, call.state_v_first, call.accuracy) == (1, 0.5, 1, 0)
    assert call.gv_data is None and call.cu_seqlens is None
    assert (o.shape, o.dtype, state.shape, state.dtype) == ((B, T, H, V), torch.bfloat16, (B, H, V, K), torch.float32)
    assert recorder.streams == [77]


def test_slices_of_a_common_projection_are_not_copied(recorder):
    packed = rand(B, T, H, 3 * K + V)
    q, k, gk, v = packed.split([K, K, K, V], dim=3)
    _forward.forward(inputs(q=q, k=k, gk=gk, v=v), options())
    (call,) = recorder.calls
    assert [call.q_data, call.k_data, call.gk_data, call.v_data] == [x.data_ptr() for x in (q, k, gk, v)]
    assert strides(call, "v") == packed.stride()[:3]


def test_heads_before_tokens_and_repeated_heads_are_not_copied(recorder):
    q = rand(B, H, T, K).transpose(1, 2)
    k = rand(B, T, 1, K).expand(B, T, H, K)
    _forward.forward(inputs(q=q, k=k), options())
    (call,) = recorder.calls
    assert (call.q_data, call.k_data) == (q.data_ptr(), k.data_ptr())
    assert strides(call, "q") == (H * T * K, K, T * K)
    assert strides(call, "k")[2] == 0


@pytest.mark.parametrize(
    "k",
    [rand(B, T, H, 2 * K)[..., ::2], rand(B, T, H, K + 8)[..., 4 : K + 4], rand(B, T, H, K + 4)[..., :K]],
    ids=["strided channels", "an odd address", "odd strides"],
)
def test_what_libgla_cannot_read_is_copied(recorder, k):
    for _ in range(2):
        _forward.forward(inputs(k=k), options())
    for call in recorder.calls:
        assert call.k_data != k.data_ptr()
        assert strides(call, "k") == (T * H * K, H * K, K)


def test_an_odd_address_is_copied_though_its_shape_has_a_plan(recorder):
    _forward.forward(inputs(), options())
    odd = torch.zeros(B * T * H * K + 1, dtype=torch.bfloat16)[1:].view(B, T, H, K)
    _forward.forward(inputs(k=odd), options())
    even = inputs()
    _forward.forward(even, options())
    assert recorder.calls[1].k_data not in (odd.data_ptr(), None)
    assert recorder.calls[2].k_data == even.k.data_ptr()


def test_a_plan_is_made_once_for_calls_of_one_kind(recorder, monkeypatch):
    made = []
    plan_of = _forward.plan_of
    monkeypatch.setattr(_forward, "plan_of", lambda *arguments: made.append(1) or plan_of(*arguments))
    for scale in (None, None, 0.5, None):
        _forward.forward(inputs(), options(scale=scale))
    assert len(made) == 2 and len(recorder.calls) == 4


def test_plans_do_not_pile_up(recorder, monkeypatch):
    monkeypatch.setattr(_forward, "_MOST_PLANS", 4)
    for scale in range(9):
        _forward.forward(inputs(), options(scale=float(scale)))
    assert len(_forward._plans.by_key) <= 4


@pytest.fixture
def short_way(recorder, monkeypatch):
    """Whole calls go to the recorder; what each of them that took the longer way began with."""
    longer = []
    call_anew = ops._call_anew
    monkeypatch.setattr(ops, "_call_anew", lambda *arguments: longer.append(arguments) or call_anew(*arguments))
    monkeypatch.setattr(_forward, "_DEVICE", "cpu")
    return longer


@needs_guards
def test_a_call_like_an_earlier_one_takes_the_short_way(recorder, short_way):
    first, second = inputs(), inputs()
    for given in (first, second):
        gla_tune.chunk_gla(given.q, given.k, given.v, given.gk)
    assert [call.k_data for call in recorder.calls] == [first.k.data_ptr(), second.k.data_ptr()]
    assert len(short_way) == 1


@pytest.mark.parametrize(
    "change",
    [
        dict(q=rand(B, T, 3 * H, K)),
        dict(k=rand(B, H, T, K).transpose(1, 2)),
        dict(gk=rand(B, T, H, K, dtype=torch.float32)),
        dict(gk=None),
        dict(initial_state=rand(B, H, K, V, dtype=torch.float32)),
        dict(k=torch.nn.Parameter(rand(B, T, H, K), requires_grad=False)),
    ],
    ids=["shape", "strides", "dtype", "no gate", "state", "type"],
)
@needs_guards
def test_a_call_unlike_earlier_ones_takes_the_longer_way(recorder, short_way, change):
    for given in (inputs(), inputs(**change), inputs()):
        o, _ = gla_tune.chunk_gla(given.q, given.k, given.v, given.gk, initial_state=given.initial_state)
        assert o.shape == (*given.q.shape[:3], V)
        assert recorder.calls[-1].gk_data == (None if given.gk is None else given.gk.data_ptr())
    assert len(short_way) == 2


@needs_guards
def test_calls_are_compared_with_few_earlier_ones(recorder, short_way):
    for tokens in (*range(1, T + 1), 1):
        given = inputs(**{name: getattr(inputs(), name)[:, :tokens] for name in ("q", "k", "v", "gk")})
        gla_tune.chunk_gla(given.q, given.k, given.v, given.gk)
    assert all(len(recent) <= _forward._MOST_RECENT for recent in _forward._plans.recent.values())
    assert recorder.calls[-1].tokens == 1


@pytest.mark.parametrize("function", [gla_tune.chunk_gla, gla_tune.fused_recurrent_gla])
def test_a_call_that_needs_a_gradient_goes_through_autograd_though_one_like_it_did_not(
    recorder, short_way, monkeypatch, function
):
    dispatched = []
    monkeypatch.setattr(_autograd, "call", lambda tensors, options: dispatched.append(tensors) or (tensors.v, None))
    given = inputs()
    function(given.q, given.k, given.v, given.gk)
    given.v.requires_grad_()
    function(given.q, given.k, given.v, given.gk)
    assert len(recorder.calls) == len(dispatched) == 1 and dispatched[0].v is given.v
    with torch.no_grad():
        function(given.q, given.k, given.v, given.gk)
    assert len(recorder.calls) == 2 and len(dispatched) == 1


@needs_guards
def test_weights_without_gradients_take_the_short_way(recorder, short_way):
    given = inputs(k=torch.nn.Parameter(rand(B, T, H, K)))
    with torch.no_grad():
        for _ in range(2):
            gla_tune.chunk_gla(given.q, given.k, given.v, given.gk)
    assert len(recorder.calls) == 2 and len(short_way) == 1


def test_a_mode_that_began_after_a_call_like_it_is_served(recorder, short_way):
    given = inputs()
    gla_tune.chunk_gla(given.q, given.k, given.v, given.gk)
    with Watching():
        assert _forward.recall_forward((given.q, given.k, given.v, given.gk, *[None] * 4), options()) is None
        assert not _forward.can_go_direct(given)
    assert len(recorder.calls) == 1


def test_threads_do_not_share_structs(recorder):
    _forward.forward(inputs(), options())
    others = []
    thread = threading.Thread(target=lambda: others.append(dict(_forward._plans.by_key)))
    thread.start()
    thread.join()
    assert others == [{}]


def test_workspace_comes_from_pytorch_and_is_asked_for_again_when_it_has_grown(recorder):
    recorder.workspace_bytes = 512
    _forward.forward(inputs(), options())
    recorder.workspace_bytes = 1024
    recorder.statuses = [_abi.Status.WORKSPACE]
    _forward.forward(inputs(), options())
    assert [size for _, size in recorder.workspaces] == [512, 512, 1024]
    assert all(address for address, _ in recorder.workspaces)


@pytest.mark.parametrize("tokens, sequences", [(0, B), (T, 0)])
def test_empty_calls_give_empty_outputs(recorder, tokens, sequences):
    shape = (sequences, tokens, H)
    tensors = inputs(q=rand(*shape, K), k=rand(*shape, K), v=rand(*shape, V), gk=rand(*shape, K))
    o, state = _forward.forward(tensors, options(output_final_state=True))
    assert o.shape == (*shape, V) and state.shape == (sequences, H, K, V)
    assert len(recorder.calls) == (1 if sequences else 0)  # without tokens libgla still copies the states


def one_row(tokens=T):
    return {name: rand(1, tokens, H, dim) for name, dim in zip(("q", "k", "v", "gk"), (K, K, V, K))}


def test_no_packed_sequences(recorder):
    no_sequence = torch.zeros(1, dtype=torch.int64)
    o, state = _forward.forward(inputs(**one_row(0), cu_seqlens=no_sequence), options(output_final_state=True))
    assert o.shape == (1, 0, H, V) and state.shape == (0, H, K, V) and not recorder.calls
    with pytest.raises(ValueError, match="cu_seqlens names no sequence, but q has T = 8 tokens"):
        _forward.forward(inputs(**one_row(), cu_seqlens=no_sequence), options())


@pytest.mark.parametrize(
    "operation, dtypes, computed, output",
    [
        (Operation.RECURRENT_FORWARD, ("bfloat16", "float32", "bfloat16", "bfloat16"), "float32", "bfloat16"),
        (Operation.RECURRENT_FORWARD, ("float16", "float16", "bfloat16", "float16"), "float32", "float16"),
        (Operation.CHUNK_FORWARD, ("float32", "float32", "bfloat16", "float32"), "float32", "bfloat16"),
        (Operation.CHUNK_FORWARD, ("bfloat16", "bfloat16", "bfloat16", "float32"), "bfloat16", "bfloat16"),
    ],
)
def test_mixed_dtypes_are_computed_without_rounding(recorder, operation, dtypes, computed, output):
    q, k, v, gk = (getattr(torch, name) for name in dtypes)
    given = dict(q=rand(B, T, H, K, dtype=q), k=rand(B, T, H, K, dtype=k))
    given.update(v=rand(B, T, H, V, dtype=v), gk=rand(B, T, H, K, dtype=gk))
    o, _ = _forward.forward(inputs(**given), options(operation))
    assert recorder.calls[0].dtype == _abi.DTYPES[computed]
    assert recorder.calls[0].gate_dtype == _abi.DTYPES["float32" if gk != getattr(torch, computed) else computed]
    assert o.dtype == getattr(torch, output)


@pytest.mark.parametrize("shape", [(1, H, K, V), (H, K, V)])
def test_a_single_sequence_may_bring_its_state_without_a_batch(recorder, shape):
    state = rand(*shape, dtype=torch.float32)
    _forward.forward(inputs(**one_row(), initial_state=state), options())
    assert recorder.calls[0].initial_state == state.data_ptr()


def test_states_are_checked(recorder):
    with pytest.raises(ValueError, match="number of initial states .* 2 rather than 3"):
        _forward.forward(inputs(initial_state=rand(3, H, K, V, dtype=torch.float32)), options())
    with pytest.raises(ValueError, match=r"initial_state has shape \[2, 4, 32, 16\]; expected \[2, 4, 16, 32\]"):
        _forward.forward(inputs(initial_state=rand(B, H, V, K, dtype=torch.float32)), options())
    with pytest.raises(AssertionError, match="initial_state must be in float32"):
        _forward.forward(inputs(initial_state=rand(B, H, K, V)), options())
    _forward.forward(inputs(initial_state=rand(B, H, K, V)), options(Operation.RECURRENT_FORWARD))
    assert recorder.calls[0].state_dtype == _abi.DTYPES["float32"]


def test_lengths_are_handed_over_with_their_copy_on_the_host(recorder):
    lengths = torch.tensor([0, 3, 8], dtype=torch.int32)
    host = torch.tensor([0, 3, 8])
    _forward.forward(inputs(**one_row(), cu_seqlens=lengths, cu_seqlens_cpu=host), options())
    (call,) = recorder.calls
    assert (call.cu_seqlens, call.cu_seqlens_is_int64, call.sequences) == (lengths.data_ptr(), 0, 2)
    assert call.cu_seqlens_host not in (None, host.data_ptr())  # brought to int32
    with pytest.raises(ValueError, match="cu_seqlens is torch.float32; accepted: torch.int32, torch.int64"):
        _forward.forward(inputs(**one_row(), cu_seqlens=lengths.float()), options())
    with pytest.raises(ValueError, match=r"cu_seqlens_cpu is \[2\] on cpu; expected \[3\]"):
        _forward.forward(inputs(**one_row(), cu_seqlens=lengths, cu_seqlens_cpu=host[:2]), options())


def test_grouped_queries_share_states(recorder):
    o, state = _forward.forward(inputs(q=rand(B, T, 3 * H, K)), options(output_final_state=True))
    assert (recorder.calls[0].query_heads, recorder.calls[0].heads) == (3 * H, H)
    assert o.shape == (B, T, 3 * H, V) and state.shape == (B, H, K, V)
