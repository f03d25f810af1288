"""What is kept of one lesson's run: a JSON file for programs, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OK, FAILED = "ok", "failed"


@dataclass
class Record:
    """One lesson's run. Seconds are wall time; `cell` is the number in `In [ ]` where it failed."""

    lesson: str
    parameters: dict[str, Any]
    nbkit: str
    notebook_sha256: str
    started: str  # UTC
    machine: dict[str, Any]
    seconds: float = 0.0
    status: str = FAILED
    reason: str | None = None
    cell: int | None = None
    cells: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    flips: list[dict[str, Any]] = field(default_factory=list)  # against the ledger

    @property
    def ok(self) -> bool:
        """Whether every cell ran and none failed."""
        return self.status == OK

    def close(self, reason: str | None = None, cell: int | None = None) -> None:
        """Note how it ended: well, or for this reason in this cell."""
        self.status = OK if reason is None else FAILED
        self.reason, self.cell = reason, cell

    def save(self, path: Path) -> None:
        """Write the record to a file; a number that JSON does not have becomes null."""
        text = json.dumps(finite(asdict(self)), indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Record:
        """The record in a file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def write_whole(path: Path, text: str) -> None:
    """Write a file; whoever reads or is killed meanwhile finds the old one or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def find_nonfinite(value: Any, where: str = "") -> list[str]:
    """Where in nested lists and dicts a number is NaN or infinite: JSON has no such numbers.

    >>> find_nonfinite({"cells": [1.0, float("nan")]}, "nb")
    ['nb.cells[1]']
    """
    if isinstance(value, float):
        return [] if math.isfinite(value) else [where]
    if isinstance(value, dict):
        return [at for key, v in value.items() for at in find_nonfinite(v, f"{where}.{key}")]
    if isinstance(value, list | tuple):
        return [at for n, v in enumerate(value) for at in find_nonfinite(v, f"{where}[{n}]")]
    return []


def finite(value: Any) -> Any:
    """The same nested value with null for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
