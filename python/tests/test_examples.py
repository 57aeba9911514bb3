"""The examples in the documentation run."""

import inspect
import re
import textwrap
from pathlib import Path

import pytest

import gla_tune
from gla_tune import ops

README = Path(__file__).resolve().parents[1] / "README.md"


def example(function) -> str:
    """The code under `Example::` in a docstring."""
    text = inspect.getdoc(function).partition("Example::\n")[2]
    return textwrap.dedent(text)


def test_the_naive_example_runs():
    exec(example(gla_tune.naive_recurrent_gla), {})


@pytest.mark.gpu
def test_the_examples_of_the_functions_run():
    names = {"gla_tune": gla_tune}
    for function in (ops.chunk_gla, ops.prepare, ops.describe, ops.fused_recurrent_gla):
        exec(example(function), names)
    assert names["o"].isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not README.is_file(), reason="not in the source tree")
def test_the_examples_of_the_readme_run():
    names = {}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(code, names)
    assert all(x.grad.isfinite().all() for x in names["w"])
