"""The ctypes structs are those of gla.h, to the byte."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gla_tune import _abi

HEADERS = Path(__file__).resolve().parents[2] / "runtime" / "include"
STRUCTS = {
    "gla_context_options": _abi.ContextOptions,
    "gla_forward_call": _abi.ForwardCall,
    "gla_backward_call": _abi.BackwardCall,
}


def c_name(field: str) -> str:
    """q_data -> q.data"""
    return re.sub(r"^(d?(?:q|k|v|gk|gv)|o|d_o)_(data|stride_)", r"\1.\2", field)


def c_layout(folder: Path) -> list:
    """What a C compiler makes of gla.h: a line for each field and size."""
    lines = ['printf("ABI %d\\n", GLA_ABI_VERSION);']
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field, *_ in struct._fields_:
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof({name}, {c_name(field)}));')
    for name in (*_abi.DTYPES, *_abi.ACCURACIES):
        constant = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32"}.get(name, f"ACCURACY_{name.upper()}")
        lines.append(f'printf("{name} %d\\n", (int)GLA_{constant});')
    for enum in (_abi.Operation, _abi.Status):
        lines += [f'printf("{member.name} %d\\n", (int)GLA_{member.name});' for member in enum]
    source = folder / "layout.c"
    source.write_text(
        "#include <stdio.h>\n#include <gla/gla.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    subprocess.run(["cc", "-I", HEADERS, source, "-o", folder / "layout"], check=True)
    return subprocess.run([folder / "layout"], check=True, capture_output=True, text=True).stdout.splitlines()


def python_layout() -> list:
    lines = [f"ABI {_abi.ABI_VERSION}"]
    for name, struct in STRUCTS.items():
        lines.append(f"{name} {_abi.ctypes.sizeof(struct)}")
        lines += [f"{name}.{field} {getattr(struct, field).offset}" for field, *_ in struct._fields_]
    lines += [f"{name} {value}" for name, value in {**_abi.DTYPES, **_abi.ACCURACIES}.items()]
    for enum in (_abi.Operation, _abi.Status):
        lines += [f"{member.name} {member.value}" for member in enum]
    return lines


@pytest.mark.skipif(
    shutil.which("cc") is None or not HEADERS.is_dir(), reason="no C compiler or not in the source tree"
)
def test_structs_and_constants_are_those_of_the_header(tmp_path):
    assert python_layout() == c_layout(tmp_path)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("GLA_TUNE_LIBRARY", "/nowhere/libgla.so.1")
    with pytest.raises(_abi.Error, match="/nowhere/libgla.so.1"):
        _abi.library.__wrapped__()


def test_a_failure_carries_the_message_of_libgla():
    with pytest.raises(ValueError, match="context is NULL|options is NULL"):
        _abi.check(_abi.library().gla_context_create(None, None))
