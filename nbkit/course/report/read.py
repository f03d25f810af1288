"""Read what runs have left in their folders; files that cannot be read are reported by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbkit.course.record import Record
from nbkit.course.record_shape import find_problem

OWN = "report.json"  # the report's file in the folder of a run; it is no record


@dataclass(frozen=True)
class StoredRecord:
    """The record of one lesson's run, the stem of its files, and their folder."""

    name: str
    record: Record
    folder: Path | None = None

    @property
    def memory_mib(self) -> float | None:
        """The most memory that the lesson held, in MiB; None if it was not measured."""
        peak = self.record.peak_bytes
        return None if peak is None else peak / 2**20

    def find_file(self, end: str) -> Path | None:
        """Return the lesson's file with this ending, None if there is none."""
        path = self.folder and self.folder / f"{self.name}{end}"
        return path if path and path.is_file() else None


@dataclass(frozen=True)
class DamagedFile:
    """A file that cannot be read, and why."""

    file: str
    problem: str


def check_records(
    records: Sequence[Record], folder: Path | None
) -> tuple[list[StoredRecord], list[DamagedFile]]:
    """Sort records into those that a report can show and those that it cannot.

    Args:
        records: of one run.
        folder: the folder with their files.
    """
    found, damaged = [], []
    for record in records:
        if problem := find_problem(vars(record)):
            damaged.append(DamagedFile(record.name, f"not a whole record: {problem}"))
        else:
            found.append(StoredRecord(record.name, record, folder))
    return found, damaged


def read_run(folder: Path) -> tuple[list[StoredRecord], list[DamagedFile]]:
    """Read the records in a run's folder, sorted by name, and list the damaged files.

    Raises:
        ValueError: if it is not a folder, or holds no record that can be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one that `nbkit run` has written.")
    found, damaged = read_records(folder)
    # A notebook without a record was copied here, or its record was deleted.
    for path in sorted(folder.glob("*.ipynb")):
        if not path.with_suffix(".json").exists():
            damaged.append(DamagedFile(str(path), "an executed notebook without a record"))
    if not found:
        problems = "".join([f"\n{each.file}: {each.problem}" for each in damaged])
        raise ValueError(f"{folder} has no records, <lesson>.json: is it a run's folder?{problems}")
    return found, damaged


def read_records(folder: Path) -> tuple[list[StoredRecord], list[DamagedFile]]:
    """Read the records in a folder, sorted by name, and list the damaged ones."""
    found, damaged = [], []
    for path in sorted(folder.glob("*.json")):
        if path.name == OWN:
            continue
        # One damaged file must not hide the other lessons.
        try:
            found.append(read_record(path))
        except (OSError, ValueError) as error:
            damaged.append(DamagedFile(str(path), str(error)))
    return found, damaged


def read_record(path: Path) -> StoredRecord:
    """Read one record.

    Raises:
        ValueError: if the file is not JSON or not a record; the message says what is wrong.
        OSError: if it cannot be read.
    """
    return StoredRecord(path.stem, Record.load(path), path.parent)
