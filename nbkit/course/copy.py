"""Copies of the lessons to work in: as they are, or a student's version without the solutions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nbformat import NotebookNode

from nbkit.base.whole_file import write_new
from nbkit.course.companions import find_companions
from nbkit.course.exercise_cells import find_exercises, mark_bodies
from nbkit.course.lessons import LessonError, find_lessons, read_notebook
from nbkit.lab.cell_text import CellError

SUMMARY = r"<summary[^>]*>(?:\s|<[^>]+>)*(?:(?:a|one|the|my)\s+)?solutions?\b"
SOLUTION = re.compile(rf"<details[^>]*>\s*{SUMMARY}", re.IGNORECASE)
DETAILS = re.compile(r"<(/?)details\b[^>]*>\s*", re.IGNORECASE)


def copy_lessons(
    source: Path, folder: Path, *, solutions: bool = True, names: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Copy lessons into a folder; a file that is there already is somebody's work, and stays.

    Args:
        source: where the lessons of the course are.
        folder: made if it is not there.
        solutions: with them, or as `without_solutions` leaves them.
        names: which lessons, as `find_lessons` takes them: the path of a notebook of your own too,
            which takes its claims file and its modules along; all of the course without a name.
    Returns:
        the names of those copied and of those kept.
    Raises:
        LessonError: if a name means no lesson, two lessons have one name, or a lesson cannot be
            read; nothing has been copied.
        OSError: if the folder cannot be made or written.
    """
    paths = find_lessons(names, source) if names else sorted(source.glob("*.ipynb"))
    files: dict[str, bytes] = {}
    for path in paths:
        if path.name in files:
            raise LessonError(f"two lessons are called {path.name}: copy one of them by itself.")
        files[path.name] = path.read_bytes() if solutions else _student_version(path)
        if names:
            files |= {
                file.relative_to(path.parent).as_posix(): file.read_bytes()
                for file in find_companions(path)
            }

    folder.mkdir(parents=True, exist_ok=True)
    copied, kept = [], []
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if write_new(folder / name, data):
            copied.append(name)
        else:
            kept.append(name)
    return copied, kept


def find_solved(folder: Path, names: Iterable[str]) -> list[str]:
    """Which of a folder's notebooks have solutions in them."""
    texts = {name: (folder / name).read_text(encoding="utf-8", errors="replace") for name in names}
    return [name for name, text in texts.items() if re.search(SUMMARY, text, re.IGNORECASE)]


def _student_version(path: Path) -> bytes:
    import nbformat

    try:
        return nbformat.writes(without_solutions(read_notebook(path))).encode()
    except CellError as error:
        line = "" if error.line is None else f", line {error.line} of the cell"
        raise LessonError(f"{path.name}: an exercise cannot be read{line}: {error}") from error


def without_solutions(nb: NotebookNode) -> NotebookNode:
    """A lesson as a student gets it: stubs, no solutions, no outputs; ready for nbgrader.

    Each exercise cell is marked as nbgrader's solution, and is followed by a cell that nbgrader
    grades: one point if the exercise passes its checks. A cell that its author has marked for
    nbgrader stays as it is. The notebook is changed, and returned.

    Raises:
        CellError: if a cell with an exercise is not Python.
    """
    cells, count = [], Counter[str]()
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = remove_solutions(cell.source)
        elif cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
        marked = "nbgrader" in cell.metadata
        exercises = [] if marked or cell.cell_type != "code" else find_exercises(cell.source)
        if not exercises:
            continue
        names = [exercise.name for exercise in exercises]
        count.update(names)
        names = [name if count[name] == 1 else f"{name}-{count[name]}" for name in names]
        cell.source = mark_bodies(cell.source, exercises)
        cell.metadata["nbgrader"] = _metadata(names[0], solution=True)
        cells += [_grade_cell(n, one.points) for n, one in zip(names, exercises, strict=True)]
    nb.cells = cells
    return nb


def remove_solutions(text: str) -> str:
    """Take each fold-out whose summary says "Solution" out of Markdown, with all that is in it."""
    while opening := SOLUTION.search(text):
        depth, end = 0, len(text)  # one that is not closed goes to the end: it gives nothing away
        for tag in DETAILS.finditer(text, opening.start()):
            depth += -1 if tag[1] else 1
            if depth == 0:
                end = tag.end()
                break
        text = text[: opening.start()] + text[end:]
    return text


def _grade_cell(name: str, points: str) -> NotebookNode:
    from nbformat.v4 import new_code_cell

    cell = new_code_cell(points, id=f"grade-{name}"[:64])
    cell.metadata["nbgrader"] = _metadata(f"{name}-check", grade=True)
    return cell


def _metadata(identifier: str, *, solution: bool = False, grade: bool = False) -> dict[str, object]:
    """What nbgrader wants to know of a cell, in the third version of its schema."""
    told: dict[str, object] = {
        "grade_id": identifier,
        "solution": solution,
        "grade": grade,
        "locked": grade,
        "task": False,
        "cell_type": "code",
        "schema_version": 3,
    }
    return told | ({"points": 1} if grade else {})
