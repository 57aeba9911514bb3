"""Gradients without a GPU: what reaches libgla, and how autograd comes to ask for it."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from launch_inputs import B, H, K, T, V, Watching, inputs, needs_guards, options, rand, strides
from torch.utils.checkpoint import checkpoint

import gla_tune
from gla_tune import _abi, _arguments, _autograd, _backward, _forward, _operators, ops
from gla_tune._abi import Operation
from gla_tune._backward import Wanted

EVERY_CHUNK = Wanted(True, True, True, True, False, True)
ALL = Wanted(*[True] * 6)
NONE = Wanted(*[False] * 6)


def state(*shape):
    return rand(*(shape or (B, H, K, V)), dtype=torch.float32)


def differentiate(tensors, d_o=None, d_final_state=None, wanted=None, operation=Operation.CHUNK_BACKWARD, **changes):
    wanted = wanted or Wanted(*[getattr(tensors, name) is not None for name in Wanted._fields])
    given = options(operation, output_final_state=d_final_state is not None, **changes)
    return Wanted(*_backward.backward(tensors, given, d_o, d_final_state, wanted))


def test_a_backward_call_is_handed_over_as_it_lies(recorder):
    tensors = inputs(initial_state=state())
    d_o, d_final_state = rand(B, H, T, V).transpose(1, 2), state()
    gradients = differentiate(tensors, d_o, d_final_state, scale=0.5)
    (call,), (forward,) = recorder.backward_calls, recorder.calls
    for name in ("q", "k", "v", "gk"):
        given, gradient = getattr(tensors, name), getattr(gradients, name)
        assert getattr(forward, f"{name}_data") == given.data_ptr()
        assert (getattr(call, f"d{name}_data"), strides(call, f"d{name}")) == (
            gradient.data_ptr(),
            gradient.stride()[:3],
        )
        assert (gradient.shape, gradient.dtype) == (given.shape, given.dtype)
    assert (call.d_o_data, strides(call, "d_o")) == (d_o.data_ptr(), d_o.stride()[:3])
    assert (call.d_final_state, call.d_initial_state) == (d_final_state.data_ptr(), gradients.initial_state.data_ptr())
    assert forward.initial_state == tensors.initial_state.data_ptr()
    assert (forward.has_scale, forward.scale, forward.tokens) == (1, 0.5, T)
    assert recorder.streams == [77]


@pytest.mark.parametrize("name", Wanted._fields)
def test_only_what_is_wanted_is_asked_for(recorder, name):
    tensors = inputs(gk=rand(B, T, H, K), gv=rand(B, T, H, V), initial_state=state())
    wanted = NONE._replace(**{name: True})
    gradients = differentiate(tensors, rand(B, T, H, V), wanted=wanted, operation=Operation.RECURRENT_BACKWARD)
    (call,) = recorder.backward_calls
    assert recorder.backward_operations == [Operation.RECURRENT_BACKWARD]
    found = [call.dq_data, call.dk_data, call.dv_data, call.dgk_data, call.dgv_data, call.d_initial_state]
    assert [address is not None for address in found] == [each == name for each in Wanted._fields]
    assert [gradient is not None for gradient in gradients] == [each == name for each in Wanted._fields]


def test_gates_of_16_bits_get_the_memory_of_dk_that_their_gradient_takes(recorder):
    gradients = differentiate(inputs(), rand(B, T, H, V), wanted=NONE._replace(gk=True))
    (call,) = recorder.backward_calls
    assert call.dgk_data == gradients.gk.data_ptr() and gradients.k is None
    assert call.dk_data is not None and strides(call, "dk") == (T * H * K, H * K, K)


def without_chunk_backward(context, operation, reference, size):
    """gla_workspace_bytes of a GPU on which chunk_backward has no variant for the call."""
    return _abi.Status.UNSUPPORTED if operation == Operation.CHUNK_BACKWARD else 0


def test_where_chunk_backward_has_no_kernel_recurrent_backward_is_used_and_says_so_once(recorder, caplog):
    recorder.gla_workspace_bytes = without_chunk_backward
    recorder.gla_last_error = lambda: b"chunk_backward of these head dims has no variant here"
    for _ in range(2):
        gradients = differentiate(inputs(), rand(B, T, H, V), wanted=NONE._replace(gk=True))
    assert gradients.gk.shape == (B, T, H, K)
    assert recorder.backward_operations == [Operation.RECURRENT_BACKWARD] * 2
    assert recorder.backward_calls[0].dk_data is None  # which chunk_backward's gates of 16 bits would want
    (line,) = [record for record in caplog.records if "recurrent_backward" in record.message]
    assert (line.name, line.levelname) == ("gla_tune", "WARNING")
    assert line.message.startswith("chunk_backward of these head dims has no variant here; its gradients come from")


def test_what_recurrent_backward_cannot_do_either_is_refused(recorder):
    recorder.gla_workspace_bytes = lambda *_: _abi.Status.UNSUPPORTED
    recorder.gla_last_error = lambda: b"the call needs a grid of many blocks"
    for operation in (Operation.CHUNK_BACKWARD, Operation.RECURRENT_BACKWARD):
        with pytest.raises(gla_tune.Unsupported, match="many blocks"):
            differentiate(inputs(), rand(B, T, H, V), operation=operation)


def test_no_gradient_of_an_output_is_zero(recorder):
    differentiate(inputs(), None, state())
    (call,) = recorder.backward_calls
    assert call.d_o_data is not None and strides(call, "d_o") == (0, 0, 0)
    differentiate(inputs(), rand(B, T, H, V))
    assert recorder.backward_calls[1].d_final_state is None


@pytest.mark.parametrize(
    "d_o",
    [rand(1)[0].expand(B, T, H, V), rand(B, T, H, V, dtype=torch.float32), rand(B, T, H, 2 * V)[..., ::2]],
    ids=["one value for all", "float32", "strided channels"],
)
def test_an_incoming_gradient_that_libgla_cannot_read_is_copied(recorder, d_o):
    d_final_state = state(B, H, V, K).mT
    differentiate(inputs(), d_o, d_final_state)
    (call,) = recorder.backward_calls
    assert call.d_o_data != d_o.data_ptr() and strides(call, "d_o") == (T * H * V, H * V, V)
    assert call.d_final_state != d_final_state.data_ptr()


def test_gradients_have_the_shapes_and_dtypes_of_what_was_given(recorder):
    row = dict(q=rand(1, T, H, K), k=rand(1, T, H, K, dtype=torch.float32), v=rand(1, T, H, V), gk=rand(1, T, H, K))
    tensors = inputs(**row, gv=rand(1, T, H, V), initial_state=state(H, K, V))
    gradients = differentiate(tensors, rand(1, T, H, V), operation=Operation.RECURRENT_BACKWARD)
    assert recorder.calls[0].dtype == _abi.DTYPES["float32"]
    for name, gradient in gradients._asdict().items():
        given = getattr(tensors, name)
        assert (gradient.shape, gradient.dtype) == (given.shape, given.dtype)


def test_gradients_of_expanded_inputs_are_not_expanded(recorder):
    gradients = differentiate(inputs(k=rand(B, T, 1, K).expand(B, T, H, K)), rand(B, T, H, V))
    assert gradients.k.is_contiguous()


@pytest.mark.parametrize("tokens, sequences", [(0, B), (T, 0)])
def test_empty_calls_give_empty_gradients(recorder, tokens, sequences):
    shape = (sequences, tokens, H)
    tensors = inputs(q=rand(*shape, K), k=rand(*shape, K), v=rand(*shape, V), gk=rand(*shape, K))
    tensors = tensors._replace(gv=rand(*shape, V), initial_state=state(sequences, H, K, V))
    gradients = differentiate(tensors, rand(*shape, V), operation=Operation.RECURRENT_BACKWARD)
    assert [gradient.shape for gradient in gradients] == [getattr(tensors, name).shape for name in Wanted._fields]
    assert len(recorder.backward_calls) == (1 if sequences else 0)  # without tokens libgla still copies states


def test_a_workspace_that_has_grown_is_asked_for_again(recorder):
    recorder.workspace_bytes = 512
    recorder.statuses = [_abi.Status.WORKSPACE]
    differentiate(inputs(), rand(B, T, H, V))
    assert len(recorder.backward_calls) == 2
    recorder.statuses = [_abi.Status.WORKSPACE, _abi.Status.WORKSPACE]
    recorder.gla_last_error = lambda: b"workspace is too small"
    recorder.gla_status_name = lambda status: b"GLA_WORKSPACE"
    with pytest.raises(_abi.Error, match="workspace is too small"):
        differentiate(inputs(), rand(B, T, H, V))


def with_value_gate(q, k, v, gk, gv, initial_state, output_final_state):
    """The recurrence with both gates."""
    scale, states, outputs = q.shape[3] ** -0.5, initial_state, []
    for t in range(q.shape[1]):
        decay = gk[:, t, :, :, None].exp() * gv[:, t, :, None, :].exp()
        states = states * decay + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t] * scale, states))
    return torch.stack(outputs, dim=1), states if output_final_state else None


@pytest.fixture
def planned(recorder, monkeypatch):
    """How many plans were made."""
    made = []
    plan_of = _backward.plan_of
    monkeypatch.setattr(_backward, "plan_of", lambda *arguments: made.append(1) or plan_of(*arguments))
    return made


def test_a_backward_plan_is_made_once_for_calls_of_one_kind(recorder, planned):
    calls = [(inputs(initial_state=state()), rand(B, T, H, V), state()) for _ in range(3)]
    for tensors, d_o, d_final_state in calls:
        gradients = differentiate(tensors, d_o, d_final_state)
        forward, call = recorder.calls[-1], recorder.backward_calls[-1]
        assert (forward.q_data, forward.initial_state) == (tensors.q.data_ptr(), tensors.initial_state.data_ptr())
        assert (call.d_o_data, call.d_final_state) == (d_o.data_ptr(), d_final_state.data_ptr())
        assert [call.dq_data, call.dk_data, call.dv_data, call.dgk_data, call.d_initial_state] == [
            gradient.data_ptr() for gradient in gradients if gradient is not None
        ]
    assert len(planned) == 1


@pytest.mark.parametrize(
    "change",
    [
        dict(d_o=rand(B, H, T, V).transpose(1, 2)),
        dict(d_final_state=state()),
        dict(wanted=NONE._replace(v=True)),
        dict(scale=0.5),
    ],
    ids=["strides of d_o", "d_final_state", "wanted", "options"],
)
def test_a_backward_call_of_another_kind_has_a_plan_of_its_own(recorder, planned, change):
    usual = dict(d_o=rand(B, T, H, V))
    for given in (usual, {**usual, **change}, usual):
        differentiate(inputs(), **given)
    assert len(planned) == 2
    first, other, again = recorder.backward_calls
    assert strides(first, "d_o") == strides(again, "d_o") and first.d_final_state is again.d_final_state is None
    assert strides(other, "d_o") == change.get("d_o", usual["d_o"]).stride()[:3]
    assert (other.d_final_state is None) == ("d_final_state" not in change)
    assert (other.dq_data is None) == ("wanted" in change)


@pytest.mark.parametrize("name", ["k", "d_o", "d_final_state"])
def test_an_odd_address_is_copied_though_its_backward_call_has_a_plan(recorder, name):
    given = dict(k=inputs().k, d_o=rand(B, T, H, V), d_final_state=state())
    odd = {**given, name: torch.zeros(given[name].numel() + 1, dtype=given[name].dtype)[1:].view(given[name].shape)}
    for each in (given, odd, given):
        differentiate(inputs(k=each["k"]), each["d_o"], each["d_final_state"])
    found = [
        (forward.k_data, call.d_o_data, call.d_final_state)
        for forward, call in zip(recorder.calls, recorder.backward_calls)
    ]
    assert found[0] == found[2] == tuple(x.data_ptr() for x in given.values())
    assert found[1][list(given).index(name)] not in (odd[name].data_ptr(), None)


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
