"""Find what runs have left in their folders; what cannot be read is named, not passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from nbkit.course.record import Record
from nbkit.course.report.words import name_of
from nbkit.lab.evidence.multiple_tests import with_holm

OWN = "report.json"  # what a report leaves in a run's folder; it is no record


@dataclass(frozen=True)
class Entry:
    """One lesson's run: its record, the stem of its files, and the folder that they are in."""

    name: str
    record: Record
    folder: Path | None = None
    memory_mib: float | None = None

    def file(self, end: str) -> Path | None:
        """The file of that ending, None where there is none."""
        path = self.folder and self.folder / f"{self.name}{end}"
        return path if path and path.is_file() else None


@dataclass(frozen=True)
class Damaged:
    """A file that should have said something, and why it does not."""

    file: str
    problem: str


def entries(records: Sequence[Record], folder: Path | None) -> tuple[list[Entry], list[Damaged]]:
    """Records that are at hand, and which of them make no sense; `folder` has their files."""
    found, damaged = [], []
    for record in records:
        name = name_of(record)
        if problem := _problem(record):
            damaged.append(Damaged(name, f"not a whole record: {problem}"))
        else:
            found.append(Entry(name, record, folder, memory_mib(vars(record))))
    return found, damaged


def read_run(folder: Path) -> tuple[list[Entry], list[Damaged]]:
    """The records in a run's folder, in the order of their names, and what is damaged there.

    Raises:
        ValueError: if it is no folder, or there is no record in it that can be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that `nbkit run` has written.")
    found, damaged = read_records(folder)
    for path in sorted(folder.glob("*.ipynb")):
        if not path.with_suffix(".json").exists():
            damaged.append(Damaged(str(path), "an executed notebook without a record"))
    if not found:
        other = "".join(f"\n{each.file}: {each.problem}" for each in damaged)
        raise ValueError(f"{folder} has no records, <lesson>.json: is it a run's folder?{other}")
    return found, damaged


def read_records(folder: Path) -> tuple[list[Entry], list[Damaged]]:
    """The records in a folder, in the order of their names, and those that are damaged."""
    found, damaged = [], []
    for path in sorted(path for path in folder.glob("*.json") if path.name != OWN):
        try:
            found.append(read_entry(path))
        except (OSError, ValueError) as error:
            damaged.append(Damaged(str(path), str(error)))
    return found, damaged


def read_entry(path: Path) -> Entry:
    """One record. Fields that this version of nbkit does not know are left aside.

    Raises:
        ValueError: if the file is not JSON or not a record; what is wrong.
        OSError: if it cannot be read.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(told, dict):
        raise ValueError("not a record: a JSON object was expected")
    missing = [f.name for f in fields(Record) if _required(f) and f.name not in told]
    if missing:
        raise ValueError(f"not a record: without {', '.join(missing)}")

    known = {f.name for f in fields(Record)}
    record = Record(**{key: value for key, value in told.items() if key in known})
    if problem := _problem(record):
        raise ValueError(f"not a whole record: {problem}")
    return Entry(path.stem, record, path.parent, memory_mib(told))


def memory_mib(told: Mapping[str, Any]) -> float | None:
    """The most memory that a lesson held, where its record says so."""
    peak = told.get("peak_bytes")
    return peak / 2**20 if isinstance(peak, int | float) else None


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _problem(record: Record) -> str | None:
    """What of a record would not be understood; None if all of it is."""
    kinds: dict[str, tuple[type, ...]] = {"lesson": (str,), "status": (str,), "started": (str,)}
    kinds |= {"parameters": (dict,), "machine": (dict,), "seconds": (int, float)}
    kinds |= {"cells": (list,), "verdicts": (list,), "flips": (list,)}
    for name, kind in kinds.items():
        value = getattr(record, name)
        if not isinstance(value, kind):
            return f"{name} is {value!r}"
    wanted = {
        "verdicts": ("claim", "verdict"),
        "flips": ("claim", "now", "before", "recorded"),
        "cells": ("cell",),
    }
    for name, keys in wanted.items():
        for item in getattr(record, name):
            if not isinstance(item, dict) or not set(keys) <= set(item):
                return f"one of its {name} has not all of {', '.join(keys)}"
    for flip in record.flips:
        if not all(isinstance(flip[side], dict) and "verdict" in flip[side] for side in _SIDES):
            return "one of its flips has no two verdicts"
    try:
        with_holm(record.verdicts)
    except ValueError as error:
        return str(error)
    return None


_SIDES = ("now", "before")
