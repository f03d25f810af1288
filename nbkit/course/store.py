"""Execute lessons and store their outputs: `python -m nbkit.course.store [LESSON ...]`.

The stored outputs are the ones that a reader sees and nbval compares, without times and widgets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from nbformat import NotebookNode

from nbkit.course.console import print_line, write_text
from nbkit.course.kernel.execute import execute_notebook, find_fault, save_notebook
from nbkit.course.lessons import LessonError, find_lessons
from nbkit.lab.shipped import lessons_dir


def store_outputs(path: Path) -> None:
    """Execute a lesson with its default parameters and write the outputs into its file.

    Raises:
        LessonError: if it fails, with the cell and the reason; the file is unchanged.
    """
    # The run writes into another folder, so that a lesson that fails keeps its file.
    with TemporaryDirectory(prefix="nbkit-store-") as folder:
        nb = execute_notebook(path, Path(folder, path.name))
    fault = find_fault(nb)
    if fault:
        raise LessonError(f"{path.name} is left as it was: cell {fault[1]}, {fault[0]}")
    _remove_variable_parts(nb)
    save_notebook(nb, path)


def _remove_variable_parts(nb: NotebookNode) -> None:
    """Remove what differs from run to run and from machine to machine."""
    for key in ("papermill", "widgets"):
        nb.metadata.pop(key, None)
    nb.metadata.get("language_info", {}).pop("version", None)
    for cell in nb.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        # papermill adds an empty list of tags to each cell.
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)


def store_lessons(names: Sequence[str]) -> int:
    """Store the outputs of the named lessons; without names, of all lessons.

    Returns:
        the exit status: 0 all stored, 1 a lesson failed, 2 no such lesson.
    """
    try:
        lessons = find_lessons(names, lessons_dir())
    except LessonError as error:
        write_text(sys.stderr, f"{error}\n")
        return 2
    failed = 0
    for path in lessons:
        try:
            store_outputs(path)
            print_line(f"stored {path}")
        except LessonError as error:
            write_text(sys.stderr, f"{error}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(store_lessons(sys.argv[1:]))
