"""Save and load the record of one lesson's run: a JSON file for programs."""

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
    """One lesson's run; times are in wall-clock seconds.

    The record is on disk from the start of the run: `waiting`, then `running` with the current
    cell, then `ok` or `failed`. A record that says `running` after its run has ended shows that
    the run was killed.
    """

    lesson: str  # its word: the stem of the notebook without the number
    parameters: dict[str, Any]  # the given ones, without defaults
    nbkit: str  # the version of nbkit
    notebook_sha256: str  # of the lesson as it was run, with the claims and modules beside it
    started: str  # ISO time, UTC
    machine: dict[str, Any]  # see lab.machine; empty while the lesson waits
    seconds: float = 0.0
    status: str = FAILED
    reason: str | None = None  # why it failed; None if it did not
    cell: int | None = None  # the number in `In [ ]` of the current cell, or of the one that failed
    cells: list[dict[str, Any]] = field(default_factory=list)  # number, status, seconds of each
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)  # that the lesson committed
    flips: list[dict[str, Any]] = field(default_factory=list)  # differences from the ledger
    name: str = ""  # the stem of its files: the lesson's, or a grid point's
    code_sha256: str = ""  # of nbkit's own source and data
    cell_count: int | None = None  # the number of cells to run
    worker: dict[str, Any] = field(default_factory=dict)  # host and pid of the kernel's client
    attempts: list[dict[str, Any]] = field(default_factory=list)  # see `cut_off`
    peak_bytes: int | None = None  # the most memory that the kernel itself held

    def __post_init__(self) -> None:
        self.name = self.name or self.lesson

    @property
    def ok(self) -> bool:
        """Whether every cell ran and none failed."""
        return self.status == OK

    def close(self, reason: str | None = None, cell: int | None = None) -> None:
        """Note how the lesson ended: well, or for this reason in this cell."""
        self.status = OK if reason is None else FAILED
        self.reason, self.cell = reason, cell

    def cut_off(self) -> list[dict[str, Any]]:
        """Return the attempts that were killed, including this one if it was never closed.

        Each has the `started`, `worker` and `cell` of its record.
        """
        if self.status != RUNNING:
            return self.attempts
        left = {"started": self.started, "worker": self.worker, "cell": self.cell}
        return [*self.attempts, left]

    def save(self, path: Path) -> None:
        """Write the record to a file; NaN and infinity, which JSON does not have, become null."""
        content = replace_nonfinite(asdict(self))
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(path, text + "\n")

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read the record in a file. Fields that this version of nbkit does not know are ignored.

        Raises:
            ValueError: if the file is not JSON, or not a record that nbkit can report.
            OSError: if it cannot be read.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({error})") from error
        if not isinstance(content, dict):
            raise ValueError("not a record: a JSON object was expected")
        missing, known = [], {}
        for each in fields(cls):
            if each.name in content:
                known[each.name] = content[each.name]
            elif _is_required(each):
                missing.append(each.name)
        if missing:
            raise ValueError(f"not a record: without {', '.join(missing)}")
        if problem := find_problem(content):
            raise ValueError(f"not a whole record: {problem}")
        return cls(**known)

    @classmethod
    def find(cls, path: Path) -> Record | None:
        """Read the record in a file; None if there is no file, or it is not a record."""
        try:
            return cls.load(path)
        except (OSError, ValueError):
            return None


def _is_required(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def list_nonfinite(value: Any, where: str = "") -> list[str]:
    """List the places in nested lists and dicts where a number is NaN or infinite.

    >>> list_nonfinite({"cells": [1.0, float("nan")]}, "nb")
    ['nb.cells[1]']
    """
    if isinstance(value, float):
        return [] if math.isfinite(value) else [where]
    found = []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += list_nonfinite(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            found += list_nonfinite(inner, f"{where}[{number}]")
    return found


def replace_nonfinite(value: Any) -> Any:
    """Copy a nested value, with None for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: replace_nonfinite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        # JSON has one kind of list, so that a tuple becomes a list here already.
        return [replace_nonfinite(v) for v in value]
    return value
