"""Autograd over the gradients: on CPU tensors by the recurrence, and straight to libgla as eager calls go."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from launch_inputs import B, H, K, T, V, Watching, inputs, needs_guards, rand, state, strides
from torch.utils.checkpoint import checkpoint

import gla_tune
from gla_tune import _abi, _arguments, _autograd, _backward, _forward, _operators, ops
from gla_tune._abi import Operation
from gla_tune._backward import Wanted

EVERY_CHUNK = Wanted(True, True, True, True, False, True)
ALL = Wanted(*[True] * 6)
NONE = Wanted(*[False] * 6)


def with_value_gate(q, k, v, gk, gv, initial_state, output_final_state):
    """The recurrence with both gates."""
    scale, states, outputs = q.shape[3] ** -0.5, initial_state, []
    for t in range(q.shape[1]):
        decay = gk[:, t, :, :, None].exp() * gv[:, t, :, None, :].exp()
        states = states * decay + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * scale, states))
    return torch.stack(outputs, dim=1), states if output_final_state else None


def recurrence(tensors, given):
    q, k, v, gk, gv, initial_state, _, _ = tensors
    if gv is not None:
        return with_value_gate(q, k, v, gk, gv, initial_state, given.output_final_state)
    return gla_tune.naive_recurrent_gla(q, k, v, gk, initial_state, given.output_final_state)


def gradients_of_recurrence(tensors, given, d_o, d_final_state, wanted):
    learning = [name for name, want in wanted._asdict().items() if want]
    leaves = {name: getattr(tensors, name).detach().requires_grad_() for name in learning}
    o, final_state = recurrence(tensors._replace(**leaves), given)
    pairs = [(o, d_o), (final_state, d_final_state if given.output_final_state else None)]
    outputs, incoming = zip(*[pair for pair in pairs if pair[1] is not None and pair[0].requires_grad])
    found = torch.autograd.grad(outputs, list(leaves.values()), incoming, materialize_grads=True)
    gradients = dict(zip(leaves, found))
    return [gradients.get(name) for name in Wanted._fields]


@pytest.fixture(params=["direct", "dispatched"])
def on_cpu(monkeypatch, request):
    """CPU tensors, computed by naive_recurrent_gla, directly or as operators; the gradients that are asked for."""
    asked = []

    def backward(*arguments):
        asked.append(arguments[-1])
        with ThreadPoolExecutor(1) as another_thread:  # in this one autograd is off
            return another_thread.submit(gradients_of_recurrence, *arguments).result()

    for module in (_operators, _autograd):
        monkeypatch.setattr(module, "forward", recurrence)
        monkeypatch.setattr(module, "backward", backward)
    if request.param == "direct":
        monkeypatch.setattr(_forward, "_DEVICE", "cpu")
        monkeypatch.setattr(ops, "forward", recurrence)
    monkeypatch.setattr(_arguments, "check_devices", lambda tensors: None)
    library = torch.library.Library("gla_tune", "IMPL")
    for forward, backward_operation in _abi.BACKWARD.items():
        library.impl(forward.name.lower(), partial(_operators._forward_cuda, forward), "CPU")
        library.impl(backward_operation.name.lower(), partial(_operators._backward_cuda, backward_operation), "CPU")
    yield asked
    library._destroy()


def leaves(dtype=torch.float32):
    q, k, v, gk = (rand(*shape, dtype=dtype) for shape in ((B, T, 2 * H, K), (B, T, H, K), (B, T, H, V), (B, T, H, K)))
    return [x.requires_grad_() for x in (q, k, v, gk.mul_(0.1).sigmoid().log(), state())]


def loss(function, q, k, v, g, initial_state):
    o, final_state = function(q, k, v, g, initial_state=initial_state, output_final_state=True)
    return (o.float() * torch.linspace(-1, 1, V)).sum() + (final_state * torch.linspace(0, 1, K)[:, None]).sum()


def assert_same_gradients(function, tensors=None):
    """function, chunk_gla in some wrapping, has the gradients of the recurrence."""
    tensors = leaves() if tensors is None else tensors
    expected = torch.autograd.grad(loss(gla_tune.naive_recurrent_gla, *tensors), tensors)
    found = torch.autograd.grad(loss(function, *tensors), tensors)
    for a, b in zip(found, expected):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b)


def test_autograd_differentiates_every_input(on_cpu):
    assert_same_gradients(gla_tune.chunk_gla)
    assert_same_gradients(gla_tune.fused_chunk_gla)
    assert on_cpu == [EVERY_CHUNK] * 2


def test_autograd_differentiates_every_input_of_a_recurrent_call(on_cpu):
    q, k, v, gk, initial_state = leaves()
    gv = rand(B, T, H, V, dtype=torch.float32).mul_(0.1).sigmoid().log().requires_grad_()
    tensors = [q.detach()[:, :, :H].requires_grad_(), k, v, gk, gv, initial_state]

    def gradients(function):
        o, final_state = function(*tensors)
        return torch.autograd.grad(o.square().sum() + final_state.sum(), tensors)

    found = gradients(
        lambda q, k, v, gk, gv, initial_state: gla_tune.fused_recurrent_gla(
            q, k, v, gk, gv, initial_state=initial_state, output_final_state=True
        )
    )
    for a, b in zip(found, gradients(partial(with_value_gate, output_final_state=True))):
        torch.testing.assert_close(a, b)
    assert on_cpu == [ALL]
    assert_same_gradients(gla_tune.fused_recurrent_gla)
    assert on_cpu[1:] == [EVERY_CHUNK]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_under_activation_checkpointing(on_cpu, use_reentrant):
    def checkpointed(*tensors, **options):
        return checkpoint(partial(gla_tune.chunk_gla, **options), *tensors, use_reentrant=use_reentrant)

    tensors = leaves()
    loss(checkpointed, *tensors).backward()
    expected = torch.autograd.grad(loss(gla_tune.naive_recurrent_gla, *tensors), tensors)
    for tensor, gradient in zip(tensors[: 4 if use_reentrant else 5], expected):
        torch.testing.assert_close(tensor.grad, gradient)


@pytest.mark.parametrize("function", [gla_tune.chunk_gla, gla_tune.fused_recurrent_gla])
def test_under_torch_compile(on_cpu, function):
    assert_same_gradients(torch.compile(function, backend="aot_eager", fullgraph=True))


def test_through_casts_and_repeated_heads(on_cpu):
    """Mixed dtypes are computed in float32, and a gradient goes back through the cast and the repetition."""
    q, k, v, g, initial_state = leaves()
    k, g = (x.detach()[:, :, :1].requires_grad_() for x in (k, g))
    narrow = v.detach().bfloat16().requires_grad_()

    def repeated(function):
        def call(q, k, v, g, **options):
            return function(q, k.expand(-1, -1, H, -1), v, g.repeat(1, 1, H, 1), **options)

        return call

    tensors = [q, k, narrow, g, initial_state]
    o, _ = repeated(gla_tune.chunk_gla)(q, k, narrow, g, initial_state=initial_state)
    assert o.dtype == torch.bfloat16
    expected = torch.autograd.grad(repeated(gla_tune.naive_recurrent_gla)(q, k, narrow, g)[0].sum(), [q, k, narrow, g])
    found = torch.autograd.grad(repeated(gla_tune.chunk_gla)(q, k, narrow, g)[0].float().sum(), [q, k, narrow, g])
    for tensor, a, b in zip(tensors, found, expected):
        assert (a.dtype, a.shape) == (tensor.dtype, tensor.shape)
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("index, name", list(enumerate(("q", "k", "v", "gk", "initial_state"))))
def test_autograd_asks_for_what_is_needed_only(on_cpu, index, name):
    tensors = [x.detach().requires_grad_(i == index) for i, x in enumerate(leaves())]
    loss(gla_tune.chunk_gla, *tensors).backward()
    assert on_cpu == [NONE._replace(**{name: True})]
    assert [x.grad is not None for x in tensors] == [i == index for i in range(5)]


def test_a_gradient_may_come_from_either_output_alone(on_cpu):
    tensors = leaves()
    for output in (0, 1):
        pair = [
            function(*tensors[:4], initial_state=tensors[4], output_final_state=True)[output].square().sum()
            for function in (gla_tune.chunk_gla, gla_tune.naive_recurrent_gla)
        ]
        found, expected = (torch.autograd.grad(x, tensors[1:]) for x in pair)
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b)


def test_only_inputs_are_saved_for_the_backward_pass(on_cpu):
    tensors = leaves()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        gla_tune.chunk_gla(*tensors[:4], initial_state=tensors[4])
    assert {x.data_ptr() for x in saved} == {x.data_ptr() for x in tensors}


def test_a_second_derivative_is_refused(on_cpu):
    q, k, v, g, _ = leaves()
    (dk,) = torch.autograd.grad(gla_tune.chunk_gla(q, k, v, g)[0].sum(), [k], create_graph=True)
    with pytest.raises(NotImplementedError, match="first-order gradients only"):
        dk.sum().backward()


def test_batches_of_incoming_gradients(on_cpu):
    q, k, v, g, _ = leaves()
    d_o = torch.randn(3, B, T, 2 * H, V)
    found, expected = (
        torch.autograd.grad(function(q, k, v, g)[0], [q, k], d_o, is_grads_batched=True)
        for function in (gla_tune.chunk_gla, gla_tune.naive_recurrent_gla)
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


def test_a_mode_sees_the_backward_pass_of_a_forward_pass_without_it(on_cpu):
    result = loss(gla_tune.chunk_gla, *leaves())
    with Watching() as mode:
        result.backward()
    assert any("gla_tune.chunk_backward" in name for name in mode.seen)


def test_a_backward_pass_may_be_compiled(on_cpu, monkeypatch):
    def recall(*_):
        raise AssertionError("what is kept between calls is no part of a graph")

    monkeypatch.setattr(_autograd, "recall_backward", recall)
    tensors = leaves()
    result = loss(gla_tune.chunk_gla, *tensors)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        result.backward()
    expected = torch.autograd.grad(loss(gla_tune.naive_recurrent_gla, *tensors), tensors)
    for tensor, gradient in zip(tensors, expected):
        torch.testing.assert_close(tensor.grad, gradient)


@pytest.fixture
def ways(recorder, monkeypatch):
    """Whole calls go to the recorder, without operators; how many took the longer way, forward and backward."""
    longer = {"forward": 0, "backward": 0}

    def counted(name, function):
        def call(*arguments):
            longer[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(_forward, "_DEVICE", "cpu")
    monkeypatch.setattr(_operators, "_operators", {})
    monkeypatch.setattr(ops, "_call_anew", counted("forward", ops._call_anew))
    monkeypatch.setattr(_autograd, "backward", counted("backward", _autograd.backward))
    return longer


def learning(**changes):
    given = inputs(**changes)
    return given._replace(**{name: getattr(given, name).requires_grad_() for name in ("q", "k", "v", "gk")})


def step(given, d_o=None):
    """A forward and a backward call; o and the gradients."""
    o, _ = gla_tune.chunk_gla(*given[:4])
    d_o = rand(B, T, H, V) if d_o is None else d_o
    return o, torch.autograd.grad(o, [x for x in given[:4] if x.requires_grad], d_o)


@needs_guards
def test_eager_calls_with_gradients_go_straight_to_libgla_and_look_up_only_the_first(recorder, ways):
    for _ in range(3):
        given, d_o = learning(), rand(B, T, H, V)
        o, gradients = step(given, d_o)
        forward, forward_of_backward = recorder.calls[-2:]
        backward = recorder.backward_calls[-1]
        for call in (forward, forward_of_backward):
            assert [call.q_data, call.k_data, call.v_data, call.gk_data] == [x.data_ptr() for x in given[:4]]
        assert (forward.o_data, backward.d_o_data) == (o.data_ptr(), d_o.data_ptr())
        assert [backward.dq_data, backward.dk_data, backward.dv_data, backward.dgk_data] == [
            gradient.data_ptr() for gradient in gradients
        ]
    assert recorder.backward_operations == [Operation.CHUNK_BACKWARD] * 3
    assert ways == {"forward": 1, "backward": 1}


@needs_guards
@pytest.mark.parametrize(
    "k, d_o, v_learns, longer",
    [
        (rand(B, H, T, K).transpose(1, 2), None, True, {"forward": 2, "backward": 2}),
        (None, rand(B, H, T, V).transpose(1, 2), True, {"forward": 1, "backward": 2}),
        (None, None, False, {"forward": 2, "backward": 2}),
    ],
    ids=["strides", "strides of d_o", "wanted"],
)
def test_calls_with_gradients_unlike_earlier_ones_take_the_longer_way(recorder, ways, k, d_o, v_learns, longer):
    usual, other = learning(), learning(**({} if k is None else {"k": k}))
    other.v.requires_grad_(v_learns)
    usual_d_o = rand(B, T, H, V)
    for given, incoming in ((usual, usual_d_o), (other, usual_d_o if d_o is None else d_o), (usual, usual_d_o)):
        step(given, incoming)
        forward, backward = recorder.calls[-1], recorder.backward_calls[-1]
        assert (forward.k_data, strides(forward, "k")) == (given.k.data_ptr(), given.k.stride()[:3])
        assert (backward.d_o_data, strides(backward, "d_o")) == (incoming.data_ptr(), incoming.stride()[:3])
        assert (backward.dv_data is not None) == given.v.requires_grad
    assert ways == longer


@needs_guards
def test_a_tensor_frozen_before_the_backward_pass_is_not_taken_for_one_frozen_before_the_forward_pass(recorder, ways):
    for frozen_late in (True, False):
        given = learning()
        given.v.requires_grad_(frozen_late)
        o, _ = gla_tune.chunk_gla(*given[:4])
        given.v.requires_grad_(False)
        torch.autograd.grad(o, [given.q], rand(B, T, H, V))
        assert (recorder.backward_calls[-1].dv_data is not None) == frozen_late


def test_a_gradient_of_the_final_state_that_there_is_none_of_is_not_made_up(recorder, ways):
    given = learning()
    o, _ = gla_tune.chunk_gla(*given[:4], output_final_state=True)
    torch.autograd.grad(o, [given.q], rand(B, T, H, V))
    assert recorder.backward_calls[0].d_final_state is None


@needs_guards
def test_a_call_like_one_without_gradients_has_them_where_they_are_on(recorder, ways):
    given = learning()
    with torch.no_grad():
        for _ in range(2):
            assert gla_tune.chunk_gla(*given[:4])[0].grad_fn is None
    assert gla_tune.chunk_gla(*given[:4])[0].grad_fn is not None


@pytest.mark.parametrize("name", ["k", "d_o"])
def test_an_odd_address_is_copied_though_a_call_with_gradients_like_it_was_made(recorder, ways, name):
    even = dict(k=rand(B, T, H, K), d_o=rand(B, T, H, V))
    odd = torch.zeros(even[name].numel() + 1, dtype=torch.bfloat16)[1:].view(even[name].shape)
    for each in (even, {**even, name: odd}, even):
        step(learning(k=each["k"].detach()), each["d_o"])
    found = [(forward.k_data, call.d_o_data) for forward, call in zip(recorder.calls[1::2], recorder.backward_calls)]
    assert found[0] == found[2] == tuple(x.data_ptr() for x in even.values())
    assert found[1][list(even).index(name)] not in (odd.data_ptr(), None)


@needs_guards
def test_checkpointed_calls_do_not_displace_each_other(recorder, ways):
    given = learning()
    for _ in range(3):
        with torch.no_grad():
            gla_tune.chunk_gla(*given[:4])
        step(given)
    assert ways == {"forward": 2, "backward": 1}


def test_a_backward_pass_in_another_thread_has_plans_of_its_own(recorder, ways):
    given = learning()
    step(given)
    mine = dict(_forward._plans.by_key)
    o, _ = gla_tune.chunk_gla(*given[:4])

    def differentiate_there():
        torch.autograd.grad(o, given[:4], rand(B, T, H, V))
        return dict(_forward._plans.by_key)

    with ThreadPoolExecutor(1) as another_thread:
        theirs = another_thread.submit(differentiate_there).result()
    assert len(theirs) == 1 and not set(map(id, theirs.values())) & set(map(id, mine.values()))
    assert _forward._plans.by_key == mine


def test_the_first_call_of_a_kind_prepares_its_gradients(monkeypatch, recorder):
    monkeypatch.setattr(_forward, "_DEVICE", "cpu")
    for length in (T, T + 1):
        q, k, v, g = (rand(B, length, H, size).requires_grad_() for size in (K, K, V, K))
        gla_tune.chunk_gla(q, k, v, g)
        assert recorder.prepared == [Operation.CHUNK_BACKWARD]
    gla_tune.chunk_gla(q, k, v, None)
    assert recorder.prepared == [Operation.CHUNK_BACKWARD] * 2
    gla_tune.fused_recurrent_gla(q, k, v, g)
    assert recorder.prepared[2:] == [Operation.RECURRENT_BACKWARD]
    with torch.no_grad():
        gla_tune.chunk_gla(*(x.float() for x in (q, k, v, g)))
    assert len(recorder.prepared) == 3 and not recorder.backward_calls


def test_gradients_that_cannot_be_prepared_do_not_fail_the_call(monkeypatch, recorder):
    monkeypatch.setattr(_forward, "_DEVICE", "cpu")
    monkeypatch.setattr(recorder, "gla_last_error", lambda: b"no compiler", raising=False)
    recorder.prepare_status = _abi.Status.UNSUPPORTED
    q, k, v, g = (rand(B, T, H, size).requires_grad_() for size in (K, K, V, K))
    o, _ = gla_tune.chunk_gla(q, k, v, g)
    assert recorder.prepared == [Operation.CHUNK_BACKWARD] and o.requires_grad


def test_nothing_is_prepared_while_a_stream_is_captured(monkeypatch, recorder):
    monkeypatch.setattr(_forward, "_DEVICE", "cpu")
    monkeypatch.setattr(_backward, "_is_captured", lambda tensor: True)
    q, k, v, g = (rand(B, T, H, size).requires_grad_() for size in (K, K, V, K))
    gla_tune.chunk_gla(q, k, v, g)
    assert recorder.prepared == []
