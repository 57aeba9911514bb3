"""On a GPU: gradients against the recurrence in fp64 under autograd, and the ways PyTorch asks for them."""

from dataclasses import replace

import pytest
import torch
from gpu_cases import (
    FUNCTIONS,
    LEARNING,
    VALUE_GATE,
    Case,
    Inputs,
    arguments,
    error,
    learning,
    make,
    prepare_all,
    recurrence,
)
from launch_inputs import Watching
from torch.utils.checkpoint import checkpoint

import gla_tune

pytestmark = pytest.mark.gpu
HEAD_DIMS = {"chunk": [16, 60, 64, 100, 128, 256], "recurrent": [16, 60, 128, 512]}
UNEQUAL = [(64, 128), (128, 64), (100, 60)]
# Relative error of each gradient: 1.5 times what FLA has (PEERS.md), which random inputs stay within. In float32
# chunk_gla's gradient of g, a difference of sums over all later tokens, collects their rounding.
BARS = {
    torch.bfloat16: dict(q=2.9e-3, k=3.2e-3, v=3.5e-3, g=3.5e-3, gv=3.5e-3, initial_state=3.7e-3),
    torch.float16: dict(q=7.5e-4, k=7.1e-4, v=7.4e-4, g=9.3e-4, gv=9.3e-4, initial_state=4.4e-4),
    torch.float32: dict(q=1e-5, k=1e-5, v=1e-5, g=1e-4, gv=1e-5, initial_state=1e-5),
}


def cases():
    for function, sizes in HEAD_DIMS.items():
        for dtype in BARS:
            for index, size in enumerate(sizes):
                yield Case(function, dtype, (size, size), state_v_first=index % 2 == 1, packed=index % 3 == 0)
        for index, head_dims in enumerate(UNEQUAL):
            yield Case(function, head_dims=head_dims, state_v_first=index % 2 == 0, packed=index % 2 == 1)
        for gates, resets in ((1.0, 0.0), (10.0, 0.0), (1.0, 0.05)):
            yield Case(function, head_dims=(128, 128), gates=gates, resets=resets)
        yield Case(function, group=4)
        yield Case(function, fp32_gates=True)
        yield Case(function, packed=True, state_v_first=True, group=2, fp32_gates=True)
    for dtype in BARS:
        yield Case("recurrent", dtype, value_gate=True, resets=0.02, packed=True)
        yield Case("recurrent", dtype, (100, 60), value_gate=True, reverse=True, state_v_first=True)
    # Small and large losses: relative accuracy is kept, the least normal number of bf16 and fp32 being 1e-38.
    for loss_scale in (1e-12, 1e6):
        for gates in (1 / 16, 1.0):
            yield Case("chunk", head_dims=(128, 128), gates=gates, loss_scale=loss_scale)
        yield Case("chunk", torch.float32, loss_scale=loss_scale)


CASES = list(cases())


def incoming(case: Case, given: Inputs):
    """Gradients of o and of the final state."""
    generator = torch.Generator("cuda").manual_seed(11)
    shape = (*given.q.shape[:3], given.v.shape[3])
    states = make(case).initial_state.shape
    return tuple(case.loss_scale * torch.randn(size, generator=generator, device="cuda") for size in (shape, states))


def learners(case: Case) -> tuple:
    return (*LEARNING, VALUE_GATE) if case.value_gate else LEARNING


def gradients(case: Case, given: Inputs, names=None, function=None) -> dict:
    """Those of the case's function, or of one with its arguments, by the named inputs or all."""
    names = names or learners(case)
    leaves = learning(given, names)
    o, state = (function or FUNCTIONS[case.function])(**arguments(case, leaves))
    d_o, d_state = incoming(case, given)
    pairs = [(o, d_o.to(o.dtype)), (state, d_state)]
    outputs, starts = zip(*[pair for pair in pairs if pair[0].requires_grad])
    found = torch.autograd.grad(outputs, [getattr(leaves, name) for name in names], starts)
    return dict(zip(names, found))


def reference(case: Case, given: Inputs) -> dict:
    """The same through the recurrence in fp64."""
    names = learners(case)
    doubles = {name: getattr(given, name).double() for name in names}
    leaves = learning(replace(given, **doubles), names)
    d_o, d_state = incoming(case, given)
    found = torch.autograd.grad(
        recurrence(case, leaves),
        [getattr(leaves, name) for name in names],
        [d_o.to(case.dtype).double(), d_state.double()],
    )
    return dict(zip(names, found))


def check(case: Case, found: dict, expected: dict):
    for name, gradient in found.items():
        assert gradient.isfinite().all(), name
        assert error(gradient, expected[name]) <= BARS[case.dtype][name], name


def assert_same_bits(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name]), name


@pytest.fixture(scope="module", autouse=True)
def compiled_ahead():
    prepare_all(CASES, with_gradients=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_fp64(case):
    given = make(case)
    found = gradients(case, given)
    for name, gradient in found.items():
        assert (gradient.shape, gradient.dtype) == (getattr(given, name).shape, getattr(given, name).dtype)
    check(case, found, reference(case, given))
    assert_same_bits(gradients(case, given), found)


REFERENCE_CHUNK = 32


def chunked_gradients(q, k, v, g, d_o):
    """Those of q, k, v, g in fp64, chunk by chunk: the recurrence takes too long for long sequences."""
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v, g)]
    B, _, H, K = q.shape
    state = torch.zeros(B, H, K, v.shape[3], dtype=torch.float64, device=q.device)
    later = torch.ones(REFERENCE_CHUNK, REFERENCE_CHUNK, dtype=torch.bool, device=q.device).triu(1)[:, :, None]
    outputs = []
    for q, k, v, g in zip(*[x.transpose(1, 2).split(REFERENCE_CHUNK, dim=2) for x in leaves]):
        b = g.clamp(min=-1e4).cumsum(2)  # exp(-1e4) is 0 as exp(-inf) is
        size = b.shape[2]
        decay = (b[:, :, :, None] - b[:, :, None]).masked_fill(later[:size, :size], -torch.inf).exp()
        scores = torch.einsum("bhik,bhjk,bhijk->bhij", q, k, decay)
        outputs.append((scores @ v + (q * b.exp()) @ state) * K**-0.5)
        state = state * b[:, :, -1].exp()[..., None] + (k * (b[:, :, -1:] - b).exp()).mT @ v
    o = torch.cat(outputs, dim=2).transpose(1, 2)
    return dict(zip("qkvg", torch.autograd.grad(o, leaves, d_o.double())))


@pytest.mark.parametrize("tokens", [512, 8192, 32768])
@pytest.mark.parametrize("gates, resets", [(1.0, 0.0), (1 / 16, 0.0), (1.0, 0.05)])
def test_the_error_does_not_grow_with_the_length(tokens, gates, resets):
    generator = torch.Generator("cuda").manual_seed(3)

    def rand():
        return torch.randn(1, tokens, 2, 64, generator=generator, device="cuda")

    g = torch.nn.functional.logsigmoid(rand()) * gates
    g[torch.rand(g.shape, generator=generator, device="cuda") < resets] = -torch.inf
    q, k, v, g, d_o = (x.bfloat16() for x in (rand(), rand(), rand(), g, rand()))
    leaves = [x.requires_grad_() for x in (q, k, v, g)]
    found = torch.autograd.grad(gla_tune.chunk_gla(*leaves)[0], leaves, d_o)
    check(Case(), dict(zip("qkvg", found)), chunked_gradients(q, k, v, g, d_o))


@pytest.mark.parametrize("share, tokens", [(0.7, 2048), (1.25, 1024)])
def test_walks_aside_and_in_legs(share, tokens):
    """With fewer heads than multiprocessors dv's walk has a stream of its own; with a few more, walks are cut."""
    heads = round(share * torch.cuda.get_device_properties(0).multi_processor_count)
    generator = torch.Generator("cuda").manual_seed(5)

    def rand():
        return torch.randn(1, tokens, heads, 128, generator=generator, device="cuda")

    g = torch.nn.functional.logsigmoid(rand()) / 4
    q, k, v, g, d_o = (x.bfloat16() for x in (rand(), rand(), rand(), g, rand()))
    leaves = [x.requires_grad_() for x in (q, k, v, g)]

    def call():
        return dict(zip("qkvg", torch.autograd.grad(gla_tune.chunk_gla(*leaves)[0], leaves, d_o)))

    found = call()
    some = [x.detach()[:, :, [0, heads // 2, heads - 1]] for x in (*leaves, d_o)]
    check(Case(), {name: x[:, :, [0, heads // 2, heads - 1]] for name, x in found.items()}, chunked_gradients(*some))

    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(3):
        beside = []
        for stream in streams:
            with torch.cuda.stream(stream):
                beside.append(call())
        torch.cuda.synchronize()
        for other in beside:
            assert_same_bits(other, found)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for _ in range(2):
        for gradient in captured.values():
            gradient.zero_()
        graph.replay()
        assert_same_bits(captured, found)


def test_little_memory_is_needed_beside_inputs_outputs_and_gradients():
    rows = (8, 2048, 4)
    q, k, g = (torch.randn(*rows, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    v, d_o = (torch.randn(*rows, 256, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    inputs = [x.requires_grad_() for x in (q, k, v, torch.nn.functional.logsigmoid(g))]
    for _ in range(2):  # the first call compiles and loads
        o = made = None  # the memory of the earlier call is free again
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        o, _ = gla_tune.chunk_gla(*inputs)
        made = [o, *torch.autograd.grad(o, inputs, d_o)]
    own = sum(x.nbytes for x in made)
    extra = torch.cuda.max_memory_allocated() - before - own
    assert extra <= 0.1 * (own + sum(x.nbytes for x in (*inputs, d_o)))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("fp32_gates", [False, True])
def test_each_gradient_alone(function, name, fp32_gates):
    case = Case(function, fp32_gates=fp32_gates)
    given = make(case)
    check(case, gradients(case, given, [name]), reference(case, given))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gates_that_let_next_to_nothing_through_have_finite_gradients(function):
    case = Case(function, gates=100.0, resets=0.5)
    given = make(case)
    assert all(gradient.isfinite().all() for gradient in gradients(case, given).values())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_gate_and_no_state(function):
    case = Case(function)
    given = make(case)
    given.g, given.initial_state = torch.zeros_like(given.g), torch.zeros_like(given.initial_state)
    expected = reference(case, given)
    given.g = given.initial_state = None
    check(case, gradients(case, given, ["q", "k", "v"]), expected)


@pytest.mark.parametrize("output", [0, 1])
def test_either_output_alone(output):
    case = Case()
    given = make(case)
    leaves, doubles = learning(given), learning(replace(given, **{n: getattr(given, n).double() for n in LEARNING}))
    start = incoming(case, given)[output].to(case.dtype if output == 0 else torch.float32)
    names = [name for name in LEARNING if output == 0 or name != "q"]
    found = gla_tune.chunk_gla(**arguments(case, leaves))[output]
    exact = gla_tune.naive_recurrent_gla(*[getattr(doubles, name) for name in LEARNING], output_final_state=True)[
        output
    ]
    pairs = [
        torch.autograd.grad(result, [getattr(inputs, name) for name in names], d)
        for result, inputs, d in ((found, leaves, start), (exact, doubles, start.double()))
    ]
    check(case, *[dict(zip(names, pair)) for pair in pairs])


def test_an_incoming_gradient_may_be_expanded_or_transposed():
    case = Case()
    leaves = learning(make(case))
    inputs = [getattr(leaves, name) for name in LEARNING]

    def found(d_o, d_state):
        return torch.autograd.grad(gla_tune.chunk_gla(**arguments(case, leaves)), inputs, (d_o, d_state))

    o, state = (x.detach() for x in gla_tune.chunk_gla(**arguments(case, leaves)))
    for d_o, d_state in (
        (o.new_ones(()).expand_as(o), state.new_ones(()).expand_as(state)),
        (o.transpose(1, 2).contiguous().transpose(1, 2), state.mT.contiguous().mT),
    ):
        dense = found(d_o.contiguous(), d_state.contiguous())
        assert all(torch.equal(a, b) for a, b in zip(found(d_o, d_state), dense))


def test_the_largest_head_dims():
    case = Case(dtype=torch.float32, head_dims=(512, 512))
    given = make(case)
    check(case, gradients(case, given), reference(case, given))


def test_gradients_do_not_drift_over_a_long_sequence():
    case = Case("recurrent", torch.float32, (16, 16), value_gate=True)
    given = make(case)
    long = {name: getattr(given, name).repeat(1, 20, 1, 1) for name in ("q", "k", "v", "g", "gv")}
    given = replace(given, **long)
    check(case, gradients(case, given), reference(case, given))


def test_slices_and_repeated_heads():
    """Gradients go back through what made the inputs: a split projection, heads that share a gate."""
    case = Case()
    given = make(case)
    packed = torch.cat([given.q, given.k, given.v], dim=3).requires_grad_()
    gate = given.g[:, :, :1].clone().requires_grad_()
    given.g = gate.detach().expand_as(given.k)
    expected = reference(case, given)

    q, k, v = packed.split([64] * 3, dim=3)
    o, state = gla_tune.chunk_gla(
        q, k, v, gate.expand_as(k), initial_state=given.initial_state, output_final_state=True
    )
    d_o, d_state = incoming(case, given)
    d_packed, d_gate = torch.autograd.grad([o, state], [packed, gate], [d_o.to(o.dtype), d_state])
    found = dict(zip(("q", "k", "v"), d_packed.split([64] * 3, dim=3)), g=d_gate)
    check(case, found, dict(expected, g=expected["g"].sum(2, keepdim=True)))


@pytest.mark.parametrize("autocast", [False, True])
def test_mixed_dtypes(autocast):
    case = Case()
    given = make(case)
    given.k = given.k.float()  # of values that bf16 has
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        found = gradients(case, given)
    assert found["k"].dtype == torch.float32 and found["q"].dtype == torch.bfloat16
    check(case, found, reference(case, given))


@pytest.mark.parametrize("rows, tokens", [(0, 8), (2, 0), (0, 0)])
def test_empty_batches_and_no_tokens(rows, tokens):
    inputs = [torch.zeros(rows, tokens, 2, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in "qkvg"]
    state = torch.randn(rows, 2, 64, 64, device="cuda", requires_grad=True)
    o, final = gla_tune.chunk_gla(*inputs, initial_state=state, output_final_state=True)
    d_state = torch.randn_like(final)
    torch.autograd.backward([o, final], [torch.ones_like(o), d_state])
    assert torch.equal(state.grad, d_state)
    assert all(x.grad.shape == x.shape for x in inputs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled(name):
    case = Case(name)
    given = make(case)
    compiled = torch.compile(lambda **named: FUNCTIONS[name](**named), fullgraph=True)
    check(case, gradients(case, given, function=compiled), reference(case, given))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed(use_reentrant):
    case = Case()
    given = make(case)

    def checkpointed(q, k, v, g, initial_state, **named):
        def run(q, k, v, g, initial_state):
            return gla_tune.chunk_gla(q, k, v, g, initial_state=initial_state, **named)

        return checkpoint(run, q, k, v, g, initial_state, use_reentrant=use_reentrant)

    leaves = learning(given)
    o, state = checkpointed(**arguments(case, leaves))
    d_o, d_state = incoming(case, given)
    torch.autograd.backward([o, state], [d_o.to(o.dtype), d_state])
    assert_same_bits({name: getattr(leaves, name).grad for name in LEARNING}, gradients(case, given))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_way_gives_the_same_bits(function):
    """A first call's, that of calls like it, and the operators', which a mode makes of the same call."""
    case = Case(function)
    given = make(case)
    first = gradients(case, given)
    assert_same_bits(gradients(case, given), first)
    with Watching() as mode:
        assert_same_bits(gradients(case, given), first)
    assert {f"gla_tune.{function}_{way}.default" for way in ("forward", "backward")} <= set(mode.seen)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_captured_into_a_graph(function):
    case = Case(function)
    given = make(case)
    expected = gradients(case, given)
    leaves = learning(given)
    starts = [d.to(dtype) for d, dtype in zip(incoming(case, given), (case.dtype, torch.float32))]
    inputs = [getattr(leaves, name) for name in LEARNING]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = torch.autograd.grad(FUNCTIONS[function](**arguments(case, leaves)), inputs, starts)
    graph.replay()
    assert_same_bits(dict(zip(LEARNING, found)), expected)


def test_a_second_derivative_is_refused():
    case = Case()
    leaves = learning(make(case))
    o, _ = gla_tune.chunk_gla(**arguments(case, leaves))
    (dk,) = torch.autograd.grad(o.sum(), [leaves.k], create_graph=True)
    with pytest.raises(NotImplementedError, match="first-order gradients only"):
        dk.sum().backward()


def test_the_operators_keep_pytorchs_rules():
    given = make(Case())
    d_o, d_state = incoming(Case(), given)
    leaves = learning(given)
    options = (None, True, False, False, "default")
    forward = (leaves.q, leaves.k, leaves.v, leaves.g, None, leaves.initial_state, None, None, *options)
    for operator in (torch.ops.gla_tune.chunk_forward, torch.ops.gla_tune.recurrent_forward):
        torch.library.opcheck(operator.default, forward)
    tensors = (given.q, given.k, given.v, given.g, None, given.initial_state, None, None)
    backward = (*tensors, *options, d_o.to(given.q.dtype), d_state, [True, False, True, True, False, False])
    for operator in (torch.ops.gla_tune.chunk_backward, torch.ops.gla_tune.recurrent_backward):
        torch.library.opcheck(operator.default, backward)
