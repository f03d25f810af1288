"""Find lessons and read their parameters from the text of the notebook, without a kernel."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nbkit.lab.knob_cells import read_parameters, read_ranges
from nbkit.lab.knobs import Knob, KnobError, Value, check_values, with_ranges

if TYPE_CHECKING:
    from nbformat import NotebookNode

PARAMETERS_TAG = "parameters"


class LessonError(ValueError):
    """Raised for a lesson that does not exist or cannot be read."""


def find_lessons(names: Iterable[str], folder: Path) -> list[Path]:
    """Find the notebooks that the names mean, each one once, in the order of the names.

    Args:
        names: `1`, `01_lr_finder`, `lr_finder`, `0*_lr*`, or the path of a notebook; without names,
            all lessons.
        folder: the folder of the course's lessons.
    Raises:
        LessonError: if a name means no lesson; the message suggests the nearest name.
    """
    course = sorted(folder.glob("*.ipynb"))
    paths = []
    for name in names:
        paths += _find_matches(name, course)
    if not names:
        paths = course
    if not paths:
        raise LessonError(f"there is no lesson in {folder}.")
    found: list[Path] = []
    for path in paths:
        # Two names may mean one lesson: `1 lr_finder`.
        if path.resolve() not in found:
            found.append(path.resolve())
    return found


def _find_matches(name: str, course: list[Path]) -> list[Path]:
    """Find the notebooks that one name means."""
    if name.endswith(".ipynb") and _is_file(name):
        return [Path(name)]
    stem = name.removesuffix(".ipynb")
    found = []
    for path in course:
        if path.match(f"{stem}.ipynb") or _is_name_of(path.stem, stem):
            found.append(path)
    if not found:
        known = [path.stem for path in course]
        near = difflib.get_close_matches(stem, known, n=1)
        # A path without its ending is nearer than any lesson of the course.
        near = [f"{name}.ipynb"] if _is_file(f"{name}.ipynb") else near
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LessonError(
            f"no lesson {name!r}.{hint} There are: {', '.join(known) or 'none'}; the path of a "
            f"notebook is fine too."
        )
    return found


def _is_file(name: str) -> bool:
    """Return whether there is such a file; a name that no disk accepts is no file."""
    try:
        return Path(name).is_file()
    except OSError:
        return False


def _is_name_of(stem: str, name: str) -> bool:
    """Return whether `1`, `01` or `lr_finder` means `01_lr_finder`."""
    number, _, title = stem.partition("_")
    return name == title or (name.isdigit() and number.isdigit() and int(name) == int(number))


def read_notebook(path: Path) -> NotebookNode:
    """Read the notebook in a file.

    Raises:
        LessonError: if there is no file, or it is not a notebook.
    """
    import nbformat

    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
        return notebook
    except FileNotFoundError:
        raise LessonError(f"there is no notebook {path}.") from None
    except Exception as error:  # nbformat raises various exceptions for files that it cannot read
        raise LessonError(f"{path} is not a notebook: {error}") from error


def read_knobs(nb: NotebookNode) -> dict[str, Knob]:
    """Read the parameters of a lesson from its parameters cell and the guard cell below it.

    Raises:
        KnobError: if one of the two cells is missing or holds something else.
    """
    code: list[NotebookNode] = []
    tagged: list[int] = []
    for cell in nb.cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if PARAMETERS_TAG in _read_tags(cell):
            tagged.append(len(code))
        code.append(cell)
    # A notebook without parameters is a lesson too.
    if not tagged:
        return {}
    if len(tagged) > 1 or tagged[0] + 1 == len(code):
        raise KnobError("a lesson has one cell tagged `parameters`, and its guard is the next one.")
    # The parameters cell has names, types and defaults; the guard cell has the ranges.
    declared = read_parameters(code[tagged[0]].source)
    return with_ranges(declared, read_ranges(code[tagged[0] + 1].source))


def _read_tags(cell: NotebookNode) -> list[str]:
    tags: object = cell.metadata.get("tags", [])
    if not isinstance(tags, list):
        raise KnobError(f"the tags of a cell must be a list of words, got {tags!r}.")
    return tags


def check_parameters(path: Path, given: Mapping[str, object]) -> dict[str, Value]:
    """Convert the given parameters to the types that the lesson declares.

    Raises:
        KnobError: for a name, type or value that the lesson does not accept; it names the lesson.
    """
    try:
        return check_values(given, read_knobs(read_notebook(path)))
    except KnobError as error:
        raise KnobError(f"{path.stem}: {error}") from None
