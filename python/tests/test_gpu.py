"""On a GPU: every feature against the recurrence in fp64, and the ways PyTorch runs a call."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from gpu_cases import FUNCTIONS, Case, Inputs, arguments, error, make, prepare_all, recurrence

import gla_tune

pytestmark = pytest.mark.gpu
HEAD_DIMS = [16, 60, 64, 100, 128, 256, 320, 512]
UNEQUAL = [(64, 128), (128, 64), (100, 60), (256, 512)]
# Relative error of o and of the final state: 1.5 times what FLA has (PEERS.md), which random inputs stay within.
BARS = {torch.bfloat16: (3.8e-3, 2.4e-3), torch.float16: (8e-4, 4e-4), torch.float32: (1e-5, 1e-5)}


def cases():
    for function in FUNCTIONS:
        for dtype in BARS:
            for index, size in enumerate(HEAD_DIMS):
                yield Case(function, dtype, (size, size), state_v_first=index % 2 == 1, packed=index % 3 == 0)
        for index, head_dims in enumerate(UNEQUAL):
            yield Case(function, torch.bfloat16, head_dims, state_v_first=index % 2 == 0, packed=index % 2 == 1)
        for gates, resets in ((1.0, 0.0), (10.0, 0.0), (1.0, 0.05)):
            yield Case(function, torch.bfloat16, (128, 128), gates, resets)
        yield Case(function, group=4)
        yield Case(function, fp32_gates=True)
    yield Case("recurrent", reverse=True)
    yield Case("recurrent", reverse=True, packed=True, value_gate=True, state_v_first=True)


CASES = list(cases())


def call(case: Case, given: Inputs):
    return FUNCTIONS[case.function](**arguments(case, given))


def check(case: Case, given: Inputs, o, state, factor=1.0):
    expected_o, expected_state = recurrence(case, given)
    bar_o, bar_state = BARS[case.dtype]
    assert o.dtype == case.dtype and state.dtype == torch.float32
    assert error(o, expected_o) <= bar_o * factor
    assert error(state, expected_state) <= bar_state * factor


@pytest.fixture(scope="module", autouse=True)
def compiled_ahead():
    prepare_all(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_fp64(case):
    given = make(case)
    check(case, given, *call(case, given))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_gate_and_no_state(function):
    case = Case(function)
    given = make(case)
    given.g, given.initial_state = torch.zeros_like(given.g), torch.zeros_like(given.initial_state)
    named = dict(arguments(case, given), initial_state=None)
    named["g" if function == "chunk" else "gk"] = None
    check(case, given, *FUNCTIONS[function](**named))
    assert FUNCTIONS[function](**dict(named, output_final_state=False))[1] is None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_slices_and_transposed_heads_give_the_same_bits(function):
    case = Case(function)
    given = make(case)
    expected = call(case, given)
    packed = torch.cat([given.q, given.k, given.v, given.g], dim=3)
    q, k, v, g = packed.split([64] * 4, dim=3)
    found = call(case, Inputs(q.transpose(1, 2).contiguous().transpose(1, 2), k, v, g, None, given.initial_state, None))
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_mixed_dtypes(function):
    case = Case(function)
    given = make(case)
    given.k = given.k.float()
    o, state = call(case, given)
    check(case, given, o, state)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        check(case, given, *call(case, given))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("rows, tokens", [(0, 8), (2, 0), (0, 0)])
def test_empty_batches_and_no_tokens(function, rows, tokens):
    q = torch.zeros(rows, tokens, 2, 64, device="cuda", dtype=torch.bfloat16)
    state = torch.randn(rows, 2, 64, 64, device="cuda")
    o, final = FUNCTIONS[function](q, q, q, q, initial_state=state, output_final_state=True)
    assert o.shape == q.shape and torch.equal(final, state)
    _, final = FUNCTIONS[function](q, q, q, q, output_final_state=True)
    assert torch.equal(final, torch.zeros_like(state))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_current_stream_is_used_and_not_waited_for(function):
    case = Case(function)
    given = make(case)
    expected = call(case, given)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    late = Inputs(*(None if x is None else torch.zeros_like(x) for x in vars(given).values()))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        for target, source in zip(vars(late).values(), vars(given).values()):
            if target is not None:
                target.copy_(source)
        found = call(case, late)
        assert not stream.query()  # still asleep: the call came back without waiting
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(expected, found))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_captured_into_a_graph(function):
    case = Case(function)
    given = make(case)
    call(case, given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o, state = call(case, given)
    other = make(case, seed=1)
    for name in ("q", "k", "v", "g", "initial_state"):
        getattr(given, name).copy_(getattr(other, name))
    graph.replay()
    check(case, other, o, state)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled(function):
    case = Case(function)
    given = make(case)

    @torch.compile(fullgraph=True)
    def layer(q, k, v, g, state):
        o, final = call(case, Inputs(q * 2, k, v, g, None, state, None))
        return o / 2, final

    with torch.no_grad():
        o, state = layer(given.q, given.k, given.v, given.g, given.initial_state)
    check(case, given, o, state)


@pytest.mark.parametrize("name", ["chunk_forward", "recurrent_forward"])
def test_the_operators_keep_pytorchs_rules(name):
    given = make(Case())
    rest = (None, given.initial_state, None, None, None, True, False, False, "default")
    inputs = (given.q, given.k, given.v, given.g, *rest)
    torch.library.opcheck(getattr(torch.ops.gla_tune, name).default, inputs)


def test_two_threads():
    sizes = [Case("chunk"), Case("recurrent")]
    given = [make(case) for case in sizes]
    expected = [call(*pair) for pair in zip(sizes, given)]
    wrong = []

    def work(index):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(200):
                found = call(sizes[index], given[index])
            torch.cuda.current_stream().synchronize()
            wrong.extend(index for a, b in zip(expected[index], found) if not torch.equal(a, b))

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(index % 2,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_accuracy_fast_may_be_less_exact():
    case = Case("chunk", head_dims=(128, 128))
    given = make(case)
    gla_tune.set_accuracy("fast")
    try:
        o, state = call(case, given)
        assert "fast" in gla_tune.get_accuracy()
    finally:
        gla_tune.set_accuracy("default")
    check(case, given, o, state, factor=1.5)


def test_tensors_must_lie_on_one_device():
    q = torch.zeros(1, 8, 2, 64, device="cuda", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="v is on cpu; expected cuda:0, where q is"):
        gla_tune.chunk_gla(q, q, q.cpu(), q)


def test_a_kernel_is_described():
    variant, match, reason = gla_tune.describe(gla_tune.chunk_gla, **arguments(Case(), make(Case()))).split("; ", 2)
    assert variant and match in ("exact", "nearest", "similar GPU", "model") and reason


FIRST_CALL = """
import time, torch
q = torch.randn(2, 512, 4, 128, device="cuda", dtype=torch.bfloat16)
g = torch.nn.functional.logsigmoid(q)
torch.cuda.synchronize()
begin = time.perf_counter()
import gla_tune
o, _ = gla_tune.chunk_gla(q, q, q, g)
torch.cuda.synchronize()
print(o.float().norm().isfinite().item(), time.perf_counter() - begin)
"""


def test_a_warm_cache_needs_no_compiler(tmp_path):
    def first_call(**environment):
        given = {**os.environ, "GLA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), **environment}
        return subprocess.run([sys.executable, "-c", FIRST_CALL], env=given, capture_output=True, text=True)

    without = first_call(GLA_NVRTC="/nowhere/libnvrtc.so")
    assert without.returncode != 0 and "NVRTC not found; tried /nowhere/libnvrtc.so" in without.stderr
    assert first_call().returncode == 0
    warm = first_call(GLA_NVRTC="/nowhere/libnvrtc.so")
    assert warm.returncode == 0 and warm.stdout.startswith("True"), warm.stderr
