"""Distinguish what earlier runs have left in a folder, whole or damaged, from a user's files."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path

from nbkit.course.lessons import LessonError, read_notebook

RECORD_BEGINS = '{\n "lesson": '  # a record that was cut off still begins like this


class Origin(Enum):
    """Say where a file comes from."""

    EMPTY = "empty"  # no file, or nothing in it
    RUN = "run"  # an earlier run has written it
    DAMAGED = "damaged"  # it cannot be read as what it should be
    USER = "user"  # not from a run: it must not be overwritten


def holds_something(path: Path) -> bool:
    """Return whether a file has any content; zeros, as after a power cut, do not count."""
    try:
        return bool(path.read_bytes().strip(b"\0 \t\r\n"))
    except OSError:  # a folder, or a file without permission to read
        return path.exists()


def find_notebook_origin(path: Path, lesson: Path) -> Origin:
    """Find out where the file comes from that stands at the path of the executed notebook.

    Args:
        path: where the run would write the executed notebook.
        lesson: the lesson's notebook, which must not be overwritten by its result.
    """
    if not holds_something(path):
        return Origin.EMPTY
    if path.samefile(lesson):
        return Origin.USER
    try:
        nb = read_notebook(path)
    except LessonError:
        return Origin.DAMAGED if path.is_file() else Origin.USER
    # papermill marks every notebook that it writes.
    return Origin.RUN if "papermill" in nb.metadata else Origin.USER


def find_record_origin(path: Path) -> Origin:
    """Find out where the file comes from that stands at the path of the record."""
    if not holds_something(path):
        return Origin.EMPTY
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Origin.USER
    if text.startswith(RECORD_BEGINS):
        return Origin.RUN
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return Origin.DAMAGED
    if not content:  # {} or null
        return Origin.EMPTY
    # Another program may have rewritten a record with other spaces: its fields still show it.
    is_record = isinstance(content, dict) and {"lesson", "notebook_sha256"} <= set(content)
    return Origin.RUN if is_record else Origin.USER
