"""Read the order of the lessons from `nbkit/lessons/course.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbkit.lab.shipped import LESSONS

COURSE = LESSONS / "course.toml"


@dataclass(frozen=True)
class CourseEntry:
    """One lesson of the course; `number` is its position in the file, counted from 0."""

    number: int
    word: str
    title: str
    question: str
    teaser: str
    part: str
    minutes: int
    needs: str

    @property
    def stem(self) -> str:
        """Return the notebook's name without its ending, `01_lr_finder`."""
        return f"{self.number:02}_{self.word}"


def read_course(path: Path = COURSE) -> list[CourseEntry]:
    """Read the lessons of the course, in their order.

    Raises:
        ValueError: if an entry has a wrong or missing field, or two entries have the same word.
    """
    # The order of the file is the order of the course: it gives each lesson its number.
    entries: list[CourseEntry] = []
    for number, fields in enumerate(tomllib.loads(path.read_text(encoding="utf-8"))["lesson"]):
        _check_fields(fields, f"{path.name}, lesson {number}")
        # Ledger, claims and modules are found by the word alone, so it must be unique.
        for earlier in entries:
            if earlier.word == fields["word"]:
                raise ValueError(f"{path.name} has two lessons {earlier.word!r}: rename one.")
        entries.append(CourseEntry(number=number, **fields))
    return entries


def _check_fields(fields: dict[str, Any], where: str) -> None:
    """Refuse an entry with a missing or an unknown field."""
    # The number is not written down: it is the position.
    expected = set(CourseEntry.__dataclass_fields__) - {"number"}
    wrong = sorted(set(fields) ^ expected)
    if wrong:
        raise ValueError(
            f"{where}: expected the fields {', '.join(sorted(expected))}; "
            f"wrong or missing: {', '.join(wrong)}."
        )


def word_of(name: str) -> str:
    """Turn a notebook's name into the lesson's word: `01_lr_finder` -> `lr_finder`."""
    # Notebooks carry their number in front, so that folders list them in order.
    return re.sub(r"^\d+_", "", name)
