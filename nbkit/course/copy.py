"""Copies of the lessons to work in: as they are, or a student's version without the solutions."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from nbformat import NotebookNode

from nbkit.base.whole_file import write_new
from nbkit.course.lessons import read_notebook

SOLUTION = re.compile(r"<details><summary>Solution</summary>.*?</details>\s*", re.DOTALL)
# nbgrader cuts out what is between these two lines; to a student they say where to write.
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"


def copy_lessons(
    source: Path, folder: Path, *, solutions: bool = True
) -> tuple[list[str], list[str]]:
    """Copy the lessons into a folder; a file that is there already is somebody's work, and stays.

    Args:
        source: where the lessons are.
        folder: made if it is not there.
        solutions: with them, or as `without_solutions` leaves them.
    Returns:
        the names of those copied and of those kept.
    Raises:
        OSError: if the folder cannot be made or written.
    """
    read: Callable[[Path], bytes] = Path.read_bytes if solutions else _student_version
    folder.mkdir(parents=True, exist_ok=True)
    copied, kept = [], []
    for path in sorted(source.glob("*.ipynb")):
        if write_new(folder / path.name, read(path)):
            copied.append(path.name)
        else:
            kept.append(path.name)
    return copied, kept


def with_solutions(folder: Path, names: Iterable[str]) -> list[str]:
    """Which of a folder's notebooks have solutions in them."""
    texts = {name: (folder / name).read_text(encoding="utf-8", errors="replace") for name in names}
    return [name for name, text in texts.items() if "<summary>Solution</summary>" in text]


def _student_version(path: Path) -> bytes:
    import nbformat

    return nbformat.writes(without_solutions(read_notebook(path))).encode()


def without_solutions(nb: NotebookNode) -> NotebookNode:
    """A lesson as a student gets it: stubs, no solutions, no outputs; ready for nbgrader.

    Each exercise cell is marked as nbgrader's solution, and is followed by a cell that nbgrader
    grades: one point if the exercise passes its checks. The notebook is changed, and returned.
    """
    cells = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = SOLUTION.sub("", cell.source)
        else:
            cell.outputs, cell.execution_count = [], None
        cells.append(cell)
        named = re.match(r'@lesson\.exercise\("(\w+)"\)\n', cell.source)
        if named and cell.cell_type == "code":
            cell.source = _mark_body(cell.source)
            cell.metadata["nbgrader"] = _metadata(named[1], solution=True)
            cells.append(_grade_cell(named[1]))
    nb.cells = cells
    return nb


def _mark_body(source: str) -> str:
    """The same function, its body below the docstring between nbgrader's two lines."""
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    lines = source.splitlines()
    first = function.body[0].end_lineno if ast.get_docstring(function) else function.lineno
    assert first is not None and function.end_lineno is not None
    indent = " " * function.body[0].col_offset
    body = [indent + BEGIN, *lines[first : function.end_lineno], indent + END]
    return "\n".join([*lines[:first], *body, *lines[function.end_lineno :]])


def _grade_cell(name: str) -> NotebookNode:
    from nbformat.v4 import new_code_cell

    cell = new_code_cell(f'lesson.points("{name}")', id=f"grade-{name}"[:64])
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
