"""What is kept of one lesson's run: a JSON file for programs, written whole or not at all."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nbkit.base.whole_file import write_whole
from nbkit.course.record_shape import find_problem

WAITING, RUNNING, OK, FAILED = "waiting", "running", "ok", "failed"


@dataclass
class Record:
    """One lesson's run; seconds are wall time.

    It is on disk from the start of the run on: `waiting`, then `running` and in which cell, then
    `ok` or `failed`. So one that says `running` when no run is there any more was broken off.
    """

    lesson: str  # its word: the stem of the notebook without the number
    parameters: dict[str, Any]  # those that were given
    nbkit: str  # its version
    notebook_sha256: str  # of the lesson as it was run, with the claims and modules beside it
    started: str  # UTC
    machine: dict[str, Any]  # lab.machine; empty before it has begun somewhere
    seconds: float = 0.0
    status: str = FAILED
    reason: str | None = None  # why it failed, None if it did not
    cell: int | None = None  # the number in `In [ ]`: where it is, or where it failed
    cells: list[dict[str, Any]] = field(default_factory=list)  # number, status, seconds of each
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    flips: list[dict[str, Any]] = field(default_factory=list)  # against the ledger
    name: str = ""  # the stem of its files: the lesson's, or a grid point's
    code_sha256: str = ""  # of nbkit's own source and data
    cell_count: int | None = None  # how many cells there are to run
    worker: dict[str, Any] = field(default_factory=dict)  # host and pid of who drives the kernel
    attempts: list[dict[str, Any]] = field(default_factory=list)  # earlier ones, cut off: see below
    peak_bytes: int | None = None  # the most memory that the kernel itself held

    def __post_init__(self) -> None:
        self.name = self.name or self.lesson

    @property
    def ok(self) -> bool:
        """Whether every cell ran and none failed."""
        return self.status == OK

    def close(self, reason: str | None = None, cell: int | None = None) -> None:
        """Note how it ended: well, or for this reason in this cell."""
        self.status = OK if reason is None else FAILED
        self.reason, self.cell = reason, cell

    def cut_off(self) -> list[dict[str, Any]]:
        """The attempts that came to nothing, with this one if nobody has closed it.

        Each has the `started`, `worker` and `cell` of the record that it left.
        """
        if self.status != RUNNING:
            return self.attempts
        left = {"started": self.started, "worker": self.worker, "cell": self.cell}
        return [*self.attempts, left]

    def save(self, path: Path) -> None:
        """Write the record to a file; a number that JSON does not have becomes null."""
        told = replace_nonfinite(asdict(self))
        text = json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read the record in a file. Fields that this version of nbkit does not know are ignored.

        Raises:
            ValueError: if the file is not JSON, or not a record that everybody here understands.
            OSError: if it cannot be read.
        """
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from error
        if not isinstance(told, dict):
            raise ValueError("not a record: a JSON object was expected")
        required = [each.name for each in fields(cls) if _is_required(each)]
        missing = [name for name in required if name not in told]
        if missing:
            raise ValueError(f"not a record: without {', '.join(missing)}")
        if problem := find_problem(told):
            raise ValueError(f"not a whole record: {problem}")
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in told.items() if key in known})

    @classmethod
    def find(cls, path: Path) -> Record | None:
        """The record in a file; None where there is no file, or it is no record."""
        try:
            return cls.load(path)
        except (OSError, ValueError):
            return None


def _is_required(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def list_nonfinite(value: Any, where: str = "") -> list[str]:
    """Where in nested lists and dicts a number is NaN or infinite: JSON has no such numbers.

    >>> list_nonfinite({"cells": [1.0, float("nan")]}, "nb")
    ['nb.cells[1]']
    """
    if isinstance(value, float):
        return [] if math.isfinite(value) else [where]
    if isinstance(value, dict):
        return [at for key, v in value.items() for at in list_nonfinite(v, f"{where}.{key}")]
    if isinstance(value, list | tuple):
        return [at for n, v in enumerate(value) for at in list_nonfinite(v, f"{where}[{n}]")]
    return []


def replace_nonfinite(value: Any) -> Any:
    """The same nested value with null for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: replace_nonfinite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(v) for v in value]
    return value
