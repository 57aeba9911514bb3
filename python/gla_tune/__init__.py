"""gla_tune: gated linear attention on NVIDIA GPUs, with the functions of flash-linear-attention over libgla.

from gla_tune import chunk_gla, fused_recurrent_gla    # in place of: from fla.ops.gla import ...
"""

from importlib.metadata import PackageNotFoundError, version

from ._abi import Error, Unsupported
from ._arguments import ArgumentError
from ._fla import Calls, Patch, patch_fla
from .naive import naive_recurrent_gla
from .ops import (
    chunk_gla,
    describe,
    fused_chunk_gla,
    fused_recurrent_gla,
    get_accuracy,
    prepare,
    set_accuracy,
)

try:
    __version__ = version("gla-tune")
except PackageNotFoundError:  # a source tree on PYTHONPATH
    __version__ = "0+tree"

__all__ = [
    "ArgumentError",
    "Calls",
    "Error",
    "Patch",
    "Unsupported",
    "__version__",
    "chunk_gla",
    "describe",
    "fused_chunk_gla",
    "fused_recurrent_gla",
    "get_accuracy",
    "naive_recurrent_gla",
    "patch_fla",
    "prepare",
    "set_accuracy",
]
