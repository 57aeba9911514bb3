"""What each function accepts, and how it refuses the rest: FLA's names, defaults and kinds of errors."""

import inspect
import subprocess
import sys

import pytest
import torch

import gla_tune

# Names and defaults of FLA 0.6.0's functions.
CHUNK = dict(
    q=None, k=None, v=None, g=None, scale=None, initial_state=None, output_final_state=False, state_v_first=False,
    cu_seqlens=None, cu_seqlens_cpu=None,
)  # fmt: skip
RECURRENT = dict(
    q=None, k=None, v=None, gk=None, gv=None, scale=None, initial_state=None, output_final_state=False, reverse=False,
    state_v_first=False, cu_seqlens=None, kwargs=None,
)  # fmt: skip
NAIVE = dict(q=None, k=None, v=None, gk=None, initial_state=None, output_final_state=False)
FUNCTIONS = [gla_tune.chunk_gla, gla_tune.fused_recurrent_gla]


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    "function, expected",
    [
        (gla_tune.chunk_gla, CHUNK),
        (gla_tune.fused_chunk_gla, CHUNK),
        (gla_tune.fused_recurrent_gla, RECURRENT),
        (gla_tune.naive_recurrent_gla, NAIVE),
    ],
)
def test_arguments_are_those_of_fla(function, expected):
    parameters = inspect.signature(function).parameters
    found = {name: None if p.default is p.empty else p.default for name, p in parameters.items()}
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "k, v, g, message",
    [
        ((2, 8, 4, 16), (2, 8, 4, 32), (2, 8, 4, 15), "gk has shape .* must have the same shape"),
        ((2, 8, 4, 15), (2, 8, 4, 32), (2, 8, 4, 15), "k has shape"),
        ((2, 8, 4, 16), (2, 7, 4, 32), (2, 8, 4, 16), "v has shape"),
        ((2, 8, 3, 16), (2, 8, 3, 32), (2, 8, 3, 16), "q has 4 heads; expected a multiple of the 3"),
        ((2, 8, 64), (2, 8, 4, 32), (2, 8, 64), "k has shape .* four dimensions"),
    ],
)
def test_shapes_that_do_not_fit_are_named(function, k, v, g, message):
    with pytest.raises(AssertionError, match=message) as raised:
        function(meta(2, 8, 4, 16), meta(*k), meta(*v), meta(*g))
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_packed_sequences_lie_in_one_row(function):
    with pytest.raises(ValueError, match="batch size is expected to be 1 rather than 2"):
        function(*(meta(2, 8, 4, 16) for _ in range(4)), cu_seqlens=meta(3, dtype=torch.int64))


def test_deprecated_spellings_warn():
    arguments = [meta(2, 8, 4, 16) for _ in range(3)]
    with pytest.warns(DeprecationWarning, match="renamed to `state_v_first`"):
        _, state = gla_tune.fused_recurrent_gla(*arguments, output_final_state=True, transpose_state_layout=True)
    assert state.shape == (2, 4, 16, 16)
    with pytest.raises(ValueError, match="Cannot pass both"):
        gla_tune.fused_recurrent_gla(*arguments, state_v_first=True, transpose_state_layout=True)
    with pytest.warns(DeprecationWarning, match="head_first"):
        gla_tune.fused_recurrent_gla(*arguments, head_first=False)
    with pytest.raises(ValueError, match="head_first=True"):
        gla_tune.fused_recurrent_gla(*arguments, head_first=True)
    with pytest.raises(TypeError, match="'gamma'"):
        gla_tune.fused_recurrent_gla(*arguments, gamma=1)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_libgla_cannot_do_is_said(function):
    double = [meta(2, 8, 4, 16, dtype=torch.float64) for _ in range(4)]
    with pytest.raises(NotImplementedError, match="q is torch.float64; accepted: torch.float16"):
        function(*double)
    wide = [meta(2, 8, 4, 513) for _ in range(4)]
    with pytest.raises(NotImplementedError, match="head dim K is 513; accepted: 1 to 512"):
        function(*wide)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_cpu_tensors_get_one_clear_error(function):
    with pytest.raises(NotImplementedError, match="q is on cpu; gla_tune runs on CUDA devices"):
        function(*(torch.zeros(2, 8, 4, 16) for _ in range(4)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_so():
    with pytest.raises(NotImplementedError, match="no NVIDIA GPU or no driver"):
        gla_tune.chunk_gla(*(torch.zeros(2, 8, 4, 16) for _ in range(4)))


def test_accuracy_is_one_of_two_classes():
    assert gla_tune.get_accuracy() == "default"
    with pytest.raises(ValueError, match="accuracy is 'best'; accepted: default, fast"):
        gla_tune.set_accuracy("best")


@pytest.mark.parametrize("function", [gla_tune.describe, gla_tune.prepare])
def test_only_functions_of_libgla_can_be_prepared_and_described(function):
    with pytest.raises(ValueError, match="accepted: chunk_gla, fused_chunk_gla, fused_recurrent_gla"):
        function(gla_tune.naive_recurrent_gla)


def test_importing_needs_neither_a_gpu_nor_the_library():
    program = "import gla_tune; print(gla_tune.__all__)"
    environment = {"GLA_TUNE_LIBRARY": "/nowhere", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, capture_output=True)
