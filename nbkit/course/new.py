"""Start a lesson: `nbkit new lesson WORD` writes a skeleton that runs before it is filled in."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from nbkit.base.whole_file import write_whole
from nbkit.course.lessons import LessonError
from nbkit.course.lists import format_lists, write_lists
from nbkit.lab.curriculum import CourseEntry, read_course

TEMPLATE = Path(__file__).parent / "template"
CELL = re.compile(r"^# %%( \[markdown\])? (\S+)( folded)?\n", re.MULTILINE)
FOLDED = {"source_hidden": True}  # JupyterLab shows three dots in place of the code
WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
LONGEST = 30  # letters: with a longer word, lines of the skeleton would have over 100
COURSE = "nbkit/lessons/course.toml"
CLAIMS = "claims.toml"
# Each template, and the file that is made from it.
FILES = {
    "__init__.py": "nbkit/lessons/{word}/__init__.py",
    CLAIMS: "nbkit/lessons/{word}/claims.toml",
    "exercise.py": "nbkit/lessons/{word}/exercise.py",
    "task.py": "nbkit/lessons/{word}/task.py",
    "pictures.py": "nbkit/lessons/{word}/pictures.py",
    "test_exercise.py": "tests/lessons/test_exercise_{word}.py",
    "test_lesson.py": "tests/lessons/test_lesson_{word}.py",
    "notebook.py": "notebooks/{number:02}_{word}.ipynb",
}
ENTRY = """
[[lesson]]
word = "{word}"
title = "{title}"
question = "FILL IN: the question that this lesson answers"
teaser = "FILL IN: why one should go on to it"
part = "{part}"
minutes = 20
needs = "a CPU"
"""


def create_lesson(word: str, root: Path) -> list[Path]:
    """Write the skeleton of a lesson into a checkout, at the end of the course.

    Claims that have been stated for this word stay, in front of the skeleton's claim.

    Args:
        word: the lesson's name, lower-case words joined by underscores: `label_smoothing`.
        root: the checkout.
    Returns:
        the files that were written or changed.
    Raises:
        LessonError: if the word is not such a name or is taken, or the folder is not a whole
            checkout; nothing has been written.
        OSError: if a file cannot be written.
    """
    _check_word(word)
    _check_checkout(root)
    entries = read_course(root / COURSE)
    names = _make_names(word, entries)
    paths = {template: root / place.format(**names) for template, place in FILES.items()}
    _check_free(word, entries, paths, root)

    for template, path in paths.items():
        text = (TEMPLATE / f"{template}.txt").read_text(encoding="utf-8").format(**names)
        if template == "notebook.py":
            text = _format_as_notebook(text)
        if template == CLAIMS and path.exists():
            text = _append_claim(path.read_text(encoding="utf-8"), text)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    course = (root / COURSE).read_text(encoding="utf-8")
    write_whole(root / COURSE, course + ENTRY.format(**names))
    # The new notebook is among the changed lists: its "Next" is written there.
    lists = [path for path in write_lists(root) if path not in paths.values()]
    return [*paths.values(), root / COURSE, *lists]


def _check_word(word: str) -> None:
    if not WORD.fullmatch(word) or keyword.iskeyword(word) or len(word) > LONGEST:
        raise LessonError(
            f"expected a lesson's name of lower-case words joined by underscores, with at most "
            f"{LONGEST} letters, such as label_smoothing; got {word!r}."
        )


def _check_checkout(root: Path) -> None:
    """Check that a folder is a checkout whose lists can be written."""
    if not (root / COURSE).is_file() or not (root / "pyproject.toml").is_file():
        raise LessonError(
            f"expected a checkout of nbkit, with pyproject.toml and nbkit/lessons; got {root}. "
            f"Clone the repository and run `nbkit new` in it. A lesson of your own needs none of "
            f"this: see the README."
        )
    try:
        format_lists(root)
    except (OSError, ValueError) as error:
        raise LessonError(
            f"expected a whole checkout of nbkit, whose README and notebooks have the lists of "
            f"lessons; got {error} Take the file back from git."
        ) from error


def _make_names(word: str, entries: Sequence[CourseEntry]) -> dict[str, object]:
    """Make the names that the templates use, for a lesson at the end of the course."""
    return {
        "word": word,
        "id": word.replace("_", "-"),
        "title": word.replace("_", " ").capitalize(),
        "number": len(entries),
        "part": entries[-1].part,
    }


def _check_free(
    word: str, entries: Sequence[CourseEntry], paths: dict[str, Path], root: Path
) -> None:
    """Check that no lesson has this word, and that no file would be overwritten."""
    taken = []
    for template, path in paths.items():
        # Claims may be stated long before there is a lesson that measures them.
        if path.exists() and template != CLAIMS:
            taken.append(str(path.relative_to(root)))
    if taken or any(entry.word == word for entry in entries):
        where = ", ".join(taken) or COURSE
        raise LessonError(f"there is a lesson {word!r} already ({where}): choose another name.")


def _append_claim(stated: str, text: str) -> str:
    """Append the template's claim to the claims that have been stated before."""
    claim = text[text.index("[") :]  # without the comment above it
    heading = claim.partition("\n")[0]
    if heading in stated.splitlines():
        return stated
    return f"{stated.rstrip()}\n\n{claim}"


def _format_as_notebook(text: str) -> str:
    """Turn the notebook's template into JSON.

    A line `# %% id`, `# %% id folded` or `# %% [markdown] id` starts a cell.
    """
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    cells = []
    for is_markdown, name, is_folded, source in _split_cells(text):
        cell = new_markdown_cell(source, id=name) if is_markdown else new_code_cell(source, id=name)
        if is_folded:
            cell.metadata["jupyter"] = dict(FOLDED)
        # The tag tells papermill and nbkit which cell declares the parameters.
        if name == "parameters":
            cell.metadata["tags"] = ["parameters"]
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = new_notebook(cells=cells, metadata=metadata)
    return str(nbformat.writes(notebook)) + "\n"


def _split_cells(text: str) -> Iterator[tuple[bool, str, bool, str]]:
    """Yield (is it markdown, id, is it folded, source) for each cell of the template."""
    # `split` returns the text before the first cell, then (kind, id, fold, source) for each cell.
    _, *parts = CELL.split(text)
    groups = zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True)
    for kind, name, fold, source in groups:
        yield kind is not None, name, fold is not None, source.rstrip("\n")
