"""Which gla-tune was measured."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path


def measured_commit() -> str | None:
    """The commit of the checkout that this file is part of, "-dirty" if that was changed; elsewhere what the variable
    GLA_TUNE_COMMIT says (a copy of a checkout has no .git), or the version of the package."""
    here = Path(__file__).resolve()
    # Asking for the file itself: a package installed inside some other checkout must not name that one's commit.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None:
        return _git(here.parent, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    return os.environ.get("GLA_TUNE_COMMIT") or _package_version()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _package_version() -> str | None:
    try:
        return metadata.version("gla-tune")
    except metadata.PackageNotFoundError:
        return None
