"""GLA_TUNE_PATCH_FLA=1: patches FLA as soon as a program has imported it. Called by gla_tune.pth as Python starts.

Beside the package, not in it: neither PyTorch nor FLA is imported before the program does it.
"""

import importlib.abc
import importlib.machinery
import sys


class _AfterImport(importlib.abc.Loader):
    """A module's own loader, and patch_fla after it."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        from gla_tune import patch_fla

        patch_fla()

    def __getattr__(self, name):  # what else a loader offers: its source, its resources
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `fla` where it is, once."""

    def find_spec(self, name, path=None, target=None):
        if name != "fla":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterImport(spec.loader)
        return spec


def install() -> None:
    """Has FLA patched after its import."""
    sys.meta_path.insert(0, _Finder())
