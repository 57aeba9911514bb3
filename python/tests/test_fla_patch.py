"""patch_fla against a stand-in with FLA's modules and names."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

import gla_tune

FLA = {
    "__init__.py": "import fla.layers.gla\n",
    "ops/__init__.py": "from .gla import chunk_gla, fused_chunk_gla, fused_recurrent_gla\n",
    "ops/gla/__init__.py": """
        def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False, state_v_first=False,
                      cu_seqlens=None, cu_seqlens_cpu=None):
            return "FLA's chunk_gla", (state_v_first, cu_seqlens)

        def fused_recurrent_gla(q, k, v, gk=None, **kwargs):
            return "FLA's fused_recurrent_gla", kwargs

        def fused_chunk_gla(**kwargs):
            raise NotImplementedError("retired")
    """,
    "layers/__init__.py": "",
    "layers/gla.py": """
        from fla.ops.gla import chunk_gla, fused_chunk_gla

        class GatedLinearAttention:
            def __init__(self, mode):
                self.mode = mode

            def forward(self, x, cu_seqlens=None):
                if self.mode == "fused_chunk":
                    return fused_chunk_gla(q=x, k=x, v=x, g=x, output_final_state=True)
                return chunk_gla(q=x, k=x, v=x, g=x, output_final_state=True, state_v_first=True, cu_seqlens=cu_seqlens)
    """,
}


@pytest.fixture
def fla(tmp_path, monkeypatch):
    """The stand-in, importable; undone afterwards."""
    for name, text in FLA.items():
        file = tmp_path / "fla" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "fla"}
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "fla"]:
        del sys.modules[name]
    sys.modules.update(saved)


def meta():
    return torch.empty(2, 8, 4, 16, device="meta", dtype=torch.bfloat16)


def test_a_patched_fla_computes_here_until_the_patch_is_undone(fla):
    import fla.ops
    from fla.layers import gla as layer

    original, forward = fla.ops.chunk_gla, layer.GatedLinearAttention.forward
    with gla_tune.patch_fla() as patch:
        assert fla.ops.chunk_gla is fla.ops.gla.chunk_gla is layer.chunk_gla is not original
        o, state = layer.GatedLinearAttention("chunk").forward(meta())
        assert o.shape == (2, 8, 4, 16) and state.shape == (2, 4, 16, 16)
        assert gla_tune.patch_fla() is patch
    assert fla.ops.chunk_gla is fla.ops.gla.chunk_gla is layer.chunk_gla is original
    assert layer.GatedLinearAttention.forward is forward
    patch.undo()  # once more does nothing
    assert patch.report()["chunk_gla"].taken == 1


def test_calls_are_counted_with_the_reasons_of_those_left(fla):
    import fla.ops

    q = meta()
    with gla_tune.patch_fla() as patch:
        fla.ops.chunk_gla(q, q, q, q)
        cpu = torch.zeros(2, 8, 4, 16)
        assert fla.ops.chunk_gla(cpu, cpu, cpu, cpu)[0] == "FLA's chunk_gla"
        learning = torch.empty(2, 8, 4, 16, device="meta", requires_grad=True)
        assert fla.ops.chunk_gla(learning, q, q, q)[0].requires_grad
        assert fla.ops.fused_recurrent_gla(learning, q, q, q)[0].requires_grad
        assert fla.ops.fused_recurrent_gla(q, q, q, head_count=3)[1] == {"head_count": 3}
        double = q.double()
        fla.ops.chunk_gla(double, double, double, double)
    report = patch.report()
    assert report["chunk_gla"].taken == 2
    assert report["chunk_gla"].left == {"CPU tensors": 1, "torch.float64 tensors": 1}
    assert report["fused_recurrent_gla"].taken == 1
    assert report["fused_recurrent_gla"].left == {"unknown arguments": 1}
    assert str(patch).splitlines()[0] == (
        "chunk_gla: 2 calls taken over; 2 left to FLA: CPU tensors (1), torch.float64 tensors (1)"
    )


def test_an_error_of_the_caller_is_not_left_to_fla(fla):
    import fla.ops

    q = meta()
    with gla_tune.patch_fla() as patch, pytest.raises(AssertionError, match="v has shape"):
        fla.ops.chunk_gla(q, q, q[:, :4], q)
    assert not patch.report()["chunk_gla"].left


def test_fused_chunk_works_and_leaves_what_it_cannot_do_to_chunk(fla):
    import fla.ops

    q = meta()
    with gla_tune.patch_fla():
        assert fla.ops.fused_chunk_gla(q=q, k=q, v=q, g=q)[0].shape == q.shape
        cpu = torch.zeros(2, 8, 4, 16)
        assert fla.ops.fused_chunk_gla(q=cpu, k=cpu, v=cpu, g=cpu)[0] == "FLA's chunk_gla"


def test_a_layer_in_mode_fused_chunk_keeps_its_layout_and_its_lengths(fla):
    from fla.layers.gla import GatedLinearAttention

    layer = GatedLinearAttention("fused_chunk")
    cpu, lengths = torch.zeros(1, 8, 4, 16), torch.tensor([0, 8])
    with gla_tune.patch_fla():
        assert layer.forward(cpu, cu_seqlens=lengths) == ("FLA's chunk_gla", (True, lengths))
    assert layer.mode == "fused_chunk"


def test_counting_is_exact_in_threads(fla):
    import fla.ops

    q = meta()
    with gla_tune.patch_fla() as patch:
        threads = [
            threading.Thread(target=lambda: [fla.ops.chunk_gla(q, q, q, q) for _ in range(100)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert patch.report()["chunk_gla"].taken == 400


def test_a_patched_call_compiles_to_one_graph(fla):
    import fla.ops

    with gla_tune.patch_fla(), torch.no_grad():
        compiled = torch.compile(lambda q: fla.ops.chunk_gla(q, q, q, q)[0], backend="aot_eager", fullgraph=True)
        assert compiled(meta()).shape == (2, 8, 4, 16)


def in_new_python(program, fla, **environment):
    """Runs a program in a Python whose site folder holds the stand-in, gla_tune and its .pth file."""
    package = Path(gla_tune.__file__).parents[1]
    start = f"import sys, site; sys.path[:0] = [{str(fla)!r}, {str(package)!r}]; site.addsitedir({str(package)!r})\n"
    given = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(program)], env=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


PROGRAM = """
    print("torch" in sys.modules)
    import fla.ops
    print(fla.ops.chunk_gla.__module__, fla.layers.gla.chunk_gla is fla.ops.chunk_gla)
"""


def test_the_environment_patches_fla_when_it_is_imported(fla):
    assert in_new_python(PROGRAM, fla, GLA_TUNE_PATCH_FLA="1") == ["False", "gla_tune.ops", "True"]


def test_without_the_environment_fla_stays_as_it_is(fla):
    assert in_new_python(PROGRAM, fla, GLA_TUNE_PATCH_FLA="0") == ["False", "fla.ops.gla", "True"]
