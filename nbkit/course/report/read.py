"""Find what runs have left in their folders; what cannot be read is named, not passed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbkit.course.record import Record
from nbkit.course.record_shape import find_problem
from nbkit.course.report.words import name_of

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
        if problem := find_problem(vars(record)):
            damaged.append(Damaged(name, f"not a whole record: {problem}"))
        else:
            found.append(Entry(name, record, folder, memory_mib(record)))
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
    """One record.

    Raises:
        ValueError: if the file is not JSON or not a record; what is wrong.
        OSError: if it cannot be read.
    """
    record = Record.load(path)
    return Entry(path.stem, record, path.parent, memory_mib(record))


def memory_mib(record: Record) -> float | None:
    """The most memory that a lesson held, where its record says so."""
    return None if record.peak_bytes is None else record.peak_bytes / 2**20
