"""Start a lesson: `nbkit new lesson WORD` writes a skeleton that runs before it is filled in."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from pathlib import Path

from nbkit.base.whole_file import write_whole
from nbkit.course.lessons import LessonError
from nbkit.course.lists import write_lists
from nbkit.lab.curriculum import read_course

TEMPLATE = Path(__file__).parent / "template"
CELL = re.compile(r"^# %%( \[markdown\])? (\S+)\n", re.MULTILINE)
# For each template, where its file goes in a checkout.
FILES = {
    "__init__.py": "nbkit/lessons/{word}/__init__.py",
    "claims.toml": "nbkit/lessons/{word}/claims.toml",
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

    Args:
        word: the lesson's name, lower-case words joined by underscores: `label_smoothing`.
        root: the checkout.
    Returns:
        the files that were written or changed.
    Raises:
        LessonError: if the word is no such name or is taken, or the folder is no checkout; nothing
            has been written.
    """
    course = root / "nbkit/lessons/course.toml"
    if not course.is_file() or not (root / "pyproject.toml").is_file():
        raise LessonError(
            f"expected a checkout of nbkit, with pyproject.toml and nbkit/lessons; got {root}. "
            f"Clone the repository and run `nbkit new` in it. A lesson of your own needs none of "
            f"this: see the README."
        )
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", word) or keyword.iskeyword(word):
        raise LessonError(
            f"expected a lesson's name of lower-case words joined by underscores, such as "
            f"label_smoothing; got {word!r}."
        )
    entries = read_course(course)
    names = {
        "word": word,
        "id": word.replace("_", "-"),
        "title": word.replace("_", " ").capitalize(),
        "number": len(entries),
        "part": entries[-1].part,
    }
    paths = {name: root / where.format(**names) for name, where in FILES.items()}
    taken = [str(path.relative_to(root)) for path in paths.values() if path.exists()]
    if taken or any(entry.word == word for entry in entries):
        where = ", ".join(taken) or course.name
        raise LessonError(f"there is a lesson {word!r} already ({where}): choose another name.")

    for name, path in paths.items():
        text = (TEMPLATE / f"{name}.txt").read_text(encoding="utf-8").format(**names)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _as_notebook(text) if path.suffix == ".ipynb" else text)
    write_whole(course, course.read_text(encoding="utf-8") + ENTRY.format(**names))
    return [*paths.values(), course, *write_lists(root)]


def _as_notebook(text: str) -> str:
    """Turn the notebook's template into JSON; a line `# %% [markdown] id` starts a cell."""
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

    notebook = new_notebook(cells=[], metadata=_kernel_metadata())
    for is_markdown, name, source in _split_cells(text):
        new_cell = new_markdown_cell if is_markdown else new_code_cell
        cell = new_cell(source, id=name)
        if name == "parameters":
            cell.metadata["tags"] = ["parameters"]
        notebook.cells.append(cell)
    return str(writes(notebook)) + "\n"


def _split_cells(text: str) -> Iterator[tuple[bool, str, str]]:
    """Yield (is it markdown, id, source) for each cell of the template."""
    _, *parts = CELL.split(text)
    for kind, name, source in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        yield kind is not None, name, source.rstrip("\n")


def _kernel_metadata() -> dict[str, object]:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"kernelspec": kernel, "language_info": {"name": "python"}}
