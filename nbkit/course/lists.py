"""Write the lists that follow from the order of the lessons.

They are the README's table, lesson 0's list, and the "Next" at the end of each lesson. Run
`python -m nbkit.course.lists` in a checkout after a change of `nbkit/lessons/course.toml`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nbkit.base.whole_file import write_whole
from nbkit.lab.curriculum import CourseEntry, read_course

VERDICTS = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED")
TABLE = re.compile(r"^\| lesson \| question \| minutes \|.*?(?=\n\n)", re.MULTILINE | re.DOTALL)
LIST = re.compile(r"^\| lesson \| its question \|.*?(?=\n\n)", re.MULTILINE | re.DOTALL)
NEXT = re.compile(r"^(Next: |This was the last lesson\.).*", re.MULTILINE)
LAST = (
    "This was the last lesson. Go back to **0 · Start here**: it shows how often your predictions "
    "were right, and whether you were as sure as you should have been. Then write a lesson of your "
    "own: one technique, one claim that can turn out false, one picture."
)


def write_lists(root: Path) -> list[Path]:
    """Rewrite the lists of a checkout from its `course.toml`; returns the files that changed.

    Raises:
        FileNotFoundError: if the README or a lesson's notebook is missing.
        ValueError: if a file has no list to replace.
    """
    changed = []
    for path, text in format_lists(root).items():
        if path.read_text(encoding="utf-8") != text:
            write_whole(path, text)
            changed.append(path)
    return changed


def format_lists(root: Path) -> dict[Path, str]:
    """Return the text that each file with a list should have.

    Raises:
        FileNotFoundError: if the README or a lesson's notebook is missing.
        ValueError: if a file has no list to replace.
    """
    entries = read_course(root / "nbkit/lessons/course.toml")
    texts = {root / "README.md": format_readme(root, entries)}
    for entry in entries:
        texts[notebook_path(root, entry)] = format_notebook(root, entry, entries)
    return texts


def notebook_path(root: Path, entry: CourseEntry) -> Path:
    """Return the path of a lesson's executed notebook in a checkout."""
    return root / "notebooks" / f"{entry.stem}.ipynb"


def format_readme(root: Path, entries: Sequence[CourseEntry]) -> str:
    """Return the README's text with the table of lessons as it should be."""
    rows = [
        "| lesson | question | minutes | needs | its claims, on a CPU |",
        "| --- | --- | --- | --- | --- |",
    ]
    for entry in entries:
        link = f"[{entry.number:02} {entry.word}](notebooks/{entry.stem}.ipynb)"
        verdicts = describe_verdicts(root / f"data/ledger/cpu/{entry.word}.json")
        rows.append(f"| {link} | {entry.question} | {entry.minutes} | {entry.needs} | {verdicts} |")
    path = root / "README.md"
    return _replace_once(TABLE, "\n".join(rows), path.read_text(encoding="utf-8"), path)


def describe_verdicts(record: Path) -> str:
    """Describe the verdicts in a record of the ledger: `3 supported, 1 refuted`."""
    if not record.exists():
        return "not measured yet"
    verdicts = json.loads(record.read_text(encoding="utf-8"))["verdicts"]
    counts = Counter(verdict["verdict"] for verdict in verdicts)
    parts = [f"{counts[word]} {word.lower()}" for word in VERDICTS if counts[word]]
    return ", ".join(parts)


def format_notebook(root: Path, entry: CourseEntry, entries: Sequence[CourseEntry]) -> str:
    """Return a notebook's text with its "Next", and with the list of lessons in lesson 0."""
    path = notebook_path(root, entry)
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    last = notebook["cells"][-1]
    source = _replace_once(NEXT, format_next(entry, entries), "".join(last["source"]), path)
    if entry.number == 0:
        source = _replace_once(LIST, format_list(entries), source, path)
    if source == "".join(last["source"]):
        # JSON writers differ in how they print a float: a notebook that is right stays untouched.
        return text
    last["source"] = source.splitlines(keepends=True)
    end = "\n" if text.endswith("\n") else ""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + end


def format_next(entry: CourseEntry, entries: Sequence[CourseEntry]) -> str:
    """Return the last sentence of a lesson: which lesson comes next, and why it is worth it."""
    if entry.number + 1 == len(entries):
        return LAST
    following = entries[entry.number + 1]
    return f"Next: **{following.number} · {following.title}**, or {following.teaser}."


def format_list(entries: Sequence[CourseEntry]) -> str:
    """Return lesson 0's table of the lessons after it."""
    rows = ["| lesson | its question |", "| --- | --- |"]
    for entry in entries[1:]:
        rows.append(f"| {entry.number} · {entry.title} | {entry.question} |")
    return "\n".join(rows)


def _replace_once(pattern: re.Pattern[str], new: str, text: str, path: Path) -> str:
    # A function, because a backslash in a plain replacement would be an escape.
    replaced, count = pattern.subn(lambda _: new, text)
    if count != 1:
        raise ValueError(
            f"{path}: expected one place that matches {pattern.pattern!r}, got {count}."
        )
    return replaced


if __name__ == "__main__":
    for changed in write_lists(Path.cwd()):
        print(changed)
