"""An unmodified FLA on these kernels: patch_fla puts gla_tune's functions where FLA's are bound."""

import copy
import functools
import importlib
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict

import torch

from . import ops
from ._abi import Unsupported

_FUNCTIONS = ("chunk_gla", "fused_recurrent_gla", "fused_chunk_gla")
# FLA's layers with a mode fused_chunk, by their modules.
_LAYERS = {"fla.layers.gla": "GatedLinearAttention", "fla.layers.hgrn2": "HGRN2Attention"}


@dataclass
class Calls:
    """What became of the calls of one function while FLA was patched. Calls inside compiled code are not counted."""

    taken: int = 0
    left: Counter = field(default_factory=Counter)  # to FLA, by reason


class Patch:
    """FLA with these kernels, from patch_fla() until undo() or the end of a with block."""

    def __init__(self):
        self._lock = threading.Lock()
        self._calls = {name: Calls() for name in _FUNCTIONS}
        self._originals = {}  # of FLA's functions, by their replacements
        self._forwards = {}  # of FLA's layers, by their classes
        self._install()

    def __enter__(self) -> "Patch":
        return self

    def __exit__(self, *_exception) -> None:
        self.undo()

    def report(self) -> Dict[str, Calls]:
        """The calls of each function so far."""
        with self._lock:
            return copy.deepcopy(self._calls)

    def __str__(self) -> str:
        lines = []
        for name, calls in self.report().items():
            reasons = ", ".join(f"{reason} ({count})" for reason, count in calls.left.most_common())
            left = f"; {sum(calls.left.values())} left to FLA: {reasons}" if reasons else ""
            lines.append(f"{name}: {calls.taken} calls taken over{left}")
        return "\n".join(lines)

    def undo(self) -> None:
        """Gives FLA its own functions back."""
        global _active
        with _lock:
            if _active is not self:
                return
            _rebind(self._originals)
            for layer, forward in self._forwards.items():
                layer.forward = forward
            _active = None

    def _install(self):
        fla = importlib.import_module("fla.ops.gla")
        for name in _FUNCTIONS:
            # FLA's own fused_chunk_gla only raises; what it says to use instead takes what is left.
            rest = fla.chunk_gla if name == "fused_chunk_gla" else getattr(fla, name)
            self._originals[self._replacement(name, rest)] = getattr(fla, name)
        _rebind({original: replacement for replacement, original in self._originals.items()})
        for module, name in _LAYERS.items():
            layer = getattr(sys.modules.get(module), name, None)
            if layer is not None:
                self._forwards[layer] = layer.forward
                layer.forward = _with_fused_chunk(layer.forward)

    def _replacement(self, name: str, rest):
        function = getattr(ops, name)

        @functools.wraps(function)
        def replacement(*args, **kwargs):
            try:
                result = function(*args, **kwargs)
            except Unsupported as unsupported:
                self._count(name, unsupported.reason)
            else:
                self._count(name)
                return result
            return rest(*args, **kwargs)

        return replacement

    def _count(self, name: str, reason_left: str = ""):
        if torch.compiler.is_compiling():
            return
        with self._lock:
            calls = self._calls[name]
            if reason_left:
                calls.left[reason_left] += 1
            else:
                calls.taken += 1


def _with_fused_chunk(forward):
    """A layer's forward in which mode fused_chunk computes what mode chunk does.

    FLA's layers call fused_chunk_gla without the layout of the states that their cache holds, and without cu_seqlens.
    Their chunk mode passes both, and computes the same.
    """

    @functools.wraps(forward)
    def replacement(self, *args, **kwargs):
        if self.mode == "fused_chunk":
            self = copy.copy(self)  # shares parameters and submodules
            self.mode = "chunk"
        return forward(self, *args, **kwargs)

    return replacement


def _rebind(replacements: dict) -> None:
    """Puts values for keys wherever a loaded module has one of the keys by some name."""
    by_identity = {id(old): new for old, new in replacements.items()}
    for module in list(sys.modules.values()):
        bindings = getattr(module, "__dict__", {})
        for name, value in list(bindings.items()):
            if id(value) in by_identity:
                bindings[name] = by_identity[id(value)]


_lock = threading.Lock()
_active = None


def patch_fla() -> Patch:
    """Makes flash-linear-attention (FLA), models included, use gla_tune where it can, until the result is undone.

    What gla_tune cannot do (CPU tensors, head dims beyond 512, ...) stays with FLA. The result counts both: report()
    and str(). While FLA is patched, patch_fla returns the same patch. GLA_TUNE_PATCH_FLA=1 in the environment patches
    FLA in any Python program when it imports it.

    Example::

        with gla_tune.patch_fla() as patch:
            model.generate(prompt, max_new_tokens=64)
        print(patch)
    """
    global _active
    with _lock:
        if _active is None:
            _active = Patch()
        return _active
