"""Gradients without a GPU: what reaches libgla of a call for them."""

import pytest
import torch
from launch_inputs import B, H, K, T, V, inputs, options, rand, state, strides

import gla_tune
from gla_tune import _abi, _backward
from gla_tune._abi import Operation
from gla_tune._backward import Wanted

NONE = Wanted(*[False] * 6)


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
