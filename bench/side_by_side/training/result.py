"""The result on disk: one JSON object, with the sides that have been measured so far."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..errors import UsageError

FIXED = ("device", "commit", "config")  # what the sides of one result share


def read_result(path: Path) -> dict:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(result, dict) or not isinstance(result.get("sides"), dict):
        raise UsageError(f"{path} holds no result of this benchmark")
    return result


def write_result(path: Path, result: dict) -> None:
    """Complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def begun(path: Path | None, resume: bool, fresh: dict) -> dict:
    """The result to go on with: what the file holds, or `fresh`. Refuses to mix runs, and to overwrite one."""
    if path is None or not path.exists():
        return fresh
    if not resume:
        raise UsageError(f"{path} is there already: --resume adds to it, or name another file")
    found = read_result(path)
    for key in FIXED:
        if found.get(key) != fresh[key]:
            raise UsageError(f"--resume: {path} has {key} {found.get(key)}, this run {fresh[key]}")
    return found
