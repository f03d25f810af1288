"""Copy lessons to a folder to work in.

There are three versions: for learners, without outputs and answers; for students, without solutions
too, and ready for nbgrader; and as the lessons were executed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nbformat import NotebookNode

from nbkit.base.whole_file import write_new
from nbkit.course.answer_cells import remove_choices
from nbkit.course.companions import find_companions
from nbkit.course.exercise_cells import find_exercises, mark_bodies
from nbkit.course.lessons import LessonError, find_lessons, read_notebook
from nbkit.lab.cell_text import CellError

Version = Callable[[NotebookNode], NotebookNode]
# The summary of a fold-out in Markdown: "Solution", "A solution", "The solutions ...".
SUMMARY = r"<summary[^>]*>(?:\s|<[^>]+>)*(?:(?:a|one|the|my)\s+)?solutions?\b"
SOLUTION = re.compile(rf"<details[^>]*>\s*{SUMMARY}", re.IGNORECASE)
DETAILS = re.compile(r"<(/?)details\b[^>]*>\s*", re.IGNORECASE)


def copy_lessons(
    source: Path,
    folder: Path,
    *,
    solutions: bool = True,
    outputs: bool = False,
    names: Sequence[str] = (),
) -> tuple[list[str], list[str]]:
    """Copy lessons into a folder; existing files are kept, because they hold somebody's work.

    Args:
        source: the folder of the course's lessons.
        folder: the folder to copy to; created if it does not exist.
        solutions: False copies the version that `make_student_version` makes.
        outputs: True copies the lessons as they were executed; by default a copy is the version
            that `make_learner_version` makes.
        names: the lessons, as `find_lessons` takes them; without names, all lessons of the course.
            For a notebook that is named by its path, its claims file and its modules are copied
            too.
    Returns:
        the names of the copied files, and of the files that were kept.
    Raises:
        LessonError: if a name means no lesson, two lessons have one name, or a lesson cannot be
            read; nothing has been copied.
        ValueError: if outputs are asked for without solutions: they would show the solutions.
        OSError: if the folder cannot be made or written.
    """
    if outputs and not solutions:
        raise ValueError("expected outputs or no solutions, got both: outputs show solutions.")
    versions = {True: make_learner_version, False: make_student_version}
    files = _read_files(source, names, None if outputs else versions[solutions])
    folder.mkdir(parents=True, exist_ok=True)
    copied, kept = [], []
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if write_new(folder / name, data):
            copied.append(name)
        else:
            kept.append(name)
    return copied, kept


def _read_files(
    source: Path, names: Sequence[str], make_version: Version | None
) -> dict[str, bytes]:
    """Read everything that will be copied, so that an error comes before the first file."""
    paths = find_lessons(names, source) if names else sorted(source.glob("*.ipynb"))
    files: dict[str, bytes] = {}
    for path in paths:
        if path.name in files:
            raise LessonError(f"two lessons are called {path.name}: copy one of them by itself.")
        files[path.name] = _read_version(path, make_version)
        if names:  # the course's lessons have their companions in the package
            for file in find_companions(path):
                files[file.relative_to(path.parent).as_posix()] = file.read_bytes()
    return files


def find_solved(folder: Path, names: Iterable[str]) -> list[str]:
    """Find the files of a folder that contain solutions."""
    solved = []
    for name in names:
        text = (folder / name).read_text(encoding="utf-8", errors="replace")
        if re.search(SUMMARY, text, re.IGNORECASE):
            solved.append(name)
    return solved


def _read_version(path: Path, make_version: Version | None) -> bytes:
    if make_version is None:  # as it was executed, byte for byte
        return path.read_bytes()
    import nbformat

    try:
        text: str = nbformat.writes(make_version(read_notebook(path)))
    except CellError as error:
        line = "" if error.line is None else f", line {error.line} of the cell"
        raise LessonError(
            f"{path.name}: a cell with an exercise or an answer cannot be read{line}: {error}"
        ) from error
    return text.encode()


def make_learner_version(nb: NotebookNode) -> NotebookNode:
    """Turn a lesson into the version to work in: nothing has run, and nothing is answered yet.

    Outputs, execution counts, the state of widgets, typed predictions and the letters of answers
    are removed. Text, pictures in the text, and solutions that fold out stay. The notebook is
    changed in place, and returned.

    Raises:
        CellError: if a cell with a prediction or an answer is not Python.
    """
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = remove_choices(cell.source)
            cell.outputs, cell.execution_count = [], None
    return nb


def make_student_version(nb: NotebookNode) -> NotebookNode:
    """Turn a lesson into the version for students: as for learners, and without solutions.

    Each exercise cell is marked as nbgrader's solution, and is followed by a cell that nbgrader
    grades: one point if the exercise passes its checks. A cell that its author has marked for
    nbgrader stays as it is. The notebook is changed in place, and returned.

    Raises:
        CellError: if a cell with an exercise or an answer is not Python.
    """
    cells, seen = [], Counter[str]()
    for cell in make_learner_version(nb).cells:
        if cell.cell_type == "markdown":
            cell.source = remove_solutions(cell.source)
        cells.append(cell)
        if cell.cell_type == "code" and "nbgrader" not in cell.metadata:
            cells += _prepare_for_nbgrader(cell, seen)
    nb.cells = cells
    return nb


def _prepare_for_nbgrader(cell: NotebookNode, seen: Counter[str]) -> list[NotebookNode]:
    """Mark the exercises in a cell, and return the cells that grade them.

    `seen` counts the exercises of each name so far: nbgrader refuses an id that occurs twice.
    """
    exercises = find_exercises(cell.source)
    if not exercises:
        return []
    grading: list[NotebookNode] = []
    seen.update([exercise.name for exercise in exercises])
    for exercise in exercises:
        number = seen[exercise.name]
        name = exercise.name if number == 1 else f"{exercise.name}-{number}"
        if not grading:
            cell.metadata["nbgrader"] = _make_metadata(name, solution=True)
        grading.append(_make_grading_cell(name, exercise.points))
    cell.source = mark_bodies(cell.source, exercises)
    return grading


def remove_solutions(text: str) -> str:
    """Remove each fold-out whose summary says "Solution" from Markdown, with its whole content."""
    while opening := SOLUTION.search(text):
        # A fold-out that is never closed is removed up to the end, to give nothing away.
        depth, end = 0, len(text)
        for tag in DETAILS.finditer(text, opening.start()):
            depth += -1 if tag[1] else 1
            if depth == 0:  # fold-outs nest: this is the one that was opened first
                end = tag.end()
                break
        text = text[: opening.start()] + text[end:]
    return text


def _make_grading_cell(name: str, points: str) -> NotebookNode:
    from nbformat.v4 import new_code_cell

    # The notebook format allows 64 letters in a cell's id.
    cell: NotebookNode = new_code_cell(points, id=f"grade-{name}"[:64])
    cell.metadata["nbgrader"] = _make_metadata(f"{name}-check", grade=True)
    return cell


def _make_metadata(
    identifier: str, *, solution: bool = False, grade: bool = False
) -> dict[str, object]:
    """Make the metadata that nbgrader reads from a cell, version 3 of its schema."""
    metadata: dict[str, object] = {
        "grade_id": identifier,
        "solution": solution,
        "grade": grade,
        "locked": grade,
        "task": False,
        "cell_type": "code",
        "schema_version": 3,
    }
    if grade:
        metadata["points"] = 1
    return metadata
