"""The order of the lessons, read from `nbkit/lessons/course.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

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
        """The notebook's name without its ending, `01_lr_finder`."""
        return f"{self.number:02}_{self.word}"


def read_course(path: Path = COURSE) -> list[CourseEntry]:
    """Read the lessons of the course, in their order.

    Raises:
        ValueError: if an entry has a wrong or missing field, or a word stands twice.
    """
    fields = set(CourseEntry.__dataclass_fields__) - {"number"}
    entries: list[CourseEntry] = []
    for number, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8"))["lesson"]):
        if wrong := ", ".join(sorted(set(entry) ^ fields)):
            raise ValueError(
                f"{path.name}, lesson {number}: expected the fields {', '.join(sorted(fields))}; "
                f"wrong or missing: {wrong}."
            )
        if any(entry["word"] == earlier.word for earlier in entries):
            raise ValueError(f"{path.name} has two lessons {entry['word']!r}: rename one.")
        entries.append(CourseEntry(number=number, **entry))
    return entries


def word_of(name: str) -> str:
    """Turn a notebook's name into the lesson's word: `01_lr_finder` -> `lr_finder`."""
    return re.sub(r"^\d+_", "", name)
