"""Which lessons there are and what may be given to them: read from the text, without a kernel."""

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
    """A lesson that is not there, or that cannot be read."""


def find_lessons(names: Iterable[str], folder: Path) -> list[Path]:
    """The notebooks that the names mean, in their order and each one once; all without a name.

    Args:
        names: `1`, `01_lr_finder`, `lr_finder`, `0*_lr*`, or the path of a notebook.
        folder: where the course's lessons are.
    Raises:
        LessonError: if a name means no lesson, naming the nearest.
    """
    course = sorted(folder.glob("*.ipynb"))
    found = [path for name in names for path in _find(name, course)] if names else course
    if not found:
        raise LessonError(f"there is no lesson in {folder}.")
    return list(dict.fromkeys(path.resolve() for path in found))


def _find(name: str, course: list[Path]) -> list[Path]:
    if name.endswith(".ipynb") and _is_file(name):
        return [Path(name)]
    stem = name.removesuffix(".ipynb")
    found = [path for path in course if path.match(f"{stem}.ipynb") or _says(path.stem, stem)]
    if not found:
        known = [path.stem for path in course]
        near = difflib.get_close_matches(stem, known, n=1)
        near = [f"{name}.ipynb"] if _is_file(f"{name}.ipynb") else near
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise LessonError(
            f"no lesson {name!r}.{hint} There are: {', '.join(known) or 'none'}; the path of a "
            f"notebook is fine too."
        )
    return found


def _is_file(name: str) -> bool:
    """Whether there is such a file; a name that no disk takes is none."""
    try:
        return Path(name).is_file()
    except OSError:
        return False


def _says(stem: str, name: str) -> bool:
    """Whether `1`, `01` or `lr_finder` means `01_lr_finder`."""
    number, _, title = stem.partition("_")
    return name == title or (name.isdigit() and number.isdigit() and int(name) == int(number))


def read_notebook(path: Path) -> NotebookNode:
    """The notebook in a file.

    Raises:
        LessonError: if there is none, or it is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise LessonError(f"there is no notebook {path}.") from None
    except Exception as error:  # nbformat raises several kinds, none of them its own
        raise LessonError(f"{path} is not a notebook: {error}") from error


def read_knobs(nb: NotebookNode) -> dict[str, Knob]:
    """What a lesson lets be set: its parameters cell, with the ranges of the guard cell below it.

    Raises:
        KnobError: if one of the two is missing or holds something else.
    """
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    tagged = [n for n, cell in enumerate(code) if PARAMETERS_TAG in _tags(cell)]
    if not tagged:
        return {}
    if len(tagged) > 1 or tagged[0] + 1 == len(code):
        raise KnobError("a lesson has one cell tagged `parameters`, and its guard is the next one.")
    declared = read_parameters(code[tagged[0]].source)
    return with_ranges(declared, read_ranges(code[tagged[0] + 1].source))


def _tags(cell: NotebookNode) -> list[str]:
    tags = cell.metadata.get("tags", [])
    if not isinstance(tags, list):
        raise KnobError(f"the tags of a cell must be a list of words, got {tags!r}.")
    return tags


def check_parameters(path: Path, given: Mapping[str, object]) -> dict[str, Value]:
    """The given parameters as the lesson reads them; text is read by the declared type.

    Raises:
        KnobError: for a name, type or value that the lesson does not take, naming the lesson.
    """
    try:
        return check_values(given, read_knobs(read_notebook(path)))
    except KnobError as error:
        raise KnobError(f"{path.stem}: {error}") from None
