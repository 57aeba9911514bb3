"""Rows on disk: line by line while they arrive, as one file when all are there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Iterable, Sequence

from .errors import UsageError
from .machine import Machine
from .row import Row, row_from_json


class Journal:
    """FILE.partial beside the FILE to come."""

    def __init__(self, result: Path):
        if not result.parent.is_dir():
            raise UsageError(f"{result.parent} is not a folder, so {result.name} cannot be written there")
        self._result = result
        self.path = result.with_name(result.name + ".partial")

    def start(self) -> None:
        """An interrupted run is not thrown away by accident."""
        if self.path.exists():
            raise UsageError(f"{self.path} holds an interrupted run: --resume goes on with it, or remove it")

    def rows(self) -> list[Row]:
        """What earlier runs left, the rows that failed excepted."""
        rows = read_result(self._result) if self._result.exists() else []
        if self.path.exists():
            # A last line without an end was being written when the run was cut off.
            lines = [line for line in _read(self.path).splitlines(keepends=True) if line.endswith("\n")]
            rows += _parsed(f"[{','.join(lines)}]", self.path)
        return [row for row in rows if not row.failure]

    def append(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_dump(row) + "\n")

    def finish(self, rows: Iterable[Row]) -> None:
        write_result(self._result, rows)
        self.path.unlink(missing_ok=True)


def require_same_run(rows: Sequence[Row], machine: Machine, commit: str | None) -> None:
    """Rows of another GPU or another gla-tune do not belong into one result."""
    for row in rows:
        if (row.device, row.commit) != (machine.device, commit):
            raise UsageError(
                f"--resume: {row.op} {row.shape} was measured on {row.device} at commit {row.commit}, "
                f"this is {machine.device} at commit {commit}"
            )


def read_result(path: Path) -> list[Row]:
    return _parsed(_read(path), path)


def write_result(path: Path, rows: Iterable[Row]) -> None:
    """Complete or not at all."""
    lines = ",\n".join(_dump(row) for row in rows)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    temporary.replace(path)


def _dump(row: Row) -> str:
    return json.dumps(row.to_json(), allow_nan=False, ensure_ascii=False)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _parsed(text: str, path: Path) -> list[Row]:
    try:
        return [row_from_json(values) for values in json.loads(text)]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} does not hold rows of this benchmark: {error!r}") from error
