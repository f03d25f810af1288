"""Tell what an earlier run has left in a folder, whole or damaged, from somebody's own files."""

from __future__ import annotations

import json
from pathlib import Path

from nbkit.course.lessons import LessonError, read_notebook

EMPTY, OWN, DAMAGED, FOREIGN = "empty", "own", "damaged", "foreign"
RECORD_BEGINS = '{\n "lesson": '  # half a record still does


def holds_something(path: Path) -> bool:
    """Whether there is a file with something in it; a power cut may leave zeros or nothing."""
    try:
        return bool(path.read_bytes().strip(b"\0 \t\r\n"))
    except OSError:  # a folder, or a file that nobody may read
        return path.exists()


def look_at_notebook(path: Path, lesson: Path) -> str:
    """Say whose file stands where the executed notebook of a lesson goes."""
    if not holds_something(path):
        return EMPTY
    if path.samefile(lesson):
        return FOREIGN
    try:
        nb = read_notebook(path)
    except LessonError:
        return DAMAGED if path.is_file() else FOREIGN
    return OWN if "papermill" in nb.metadata else FOREIGN


def look_at_record(path: Path) -> str:
    """Say whose file stands where the record goes."""
    if not holds_something(path):
        return EMPTY
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return FOREIGN
    if text.startswith(RECORD_BEGINS):
        return OWN
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return DAMAGED
    if not told:  # {} or null
        return EMPTY
    return OWN if isinstance(told, dict) and {"lesson", "notebook_sha256"} <= set(told) else FOREIGN
