"""Find the files beside a notebook that it needs: its claims, and the modules that it imports.

`find_companions` finds the files that the code names, to copy them. `list_companions` lists every
file that an import could reach, to notice a change: a file too many costs a rerun, a file too few
leaves a result that is out of date.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from nbkit.course.lessons import read_notebook
from nbkit.lab.cell_text import CellError, parse_cell


def find_companions(path: Path) -> list[Path]:
    """Find the files in a notebook's folder that its code names.

    They are the file in `Lesson(..., claims="own.toml")`, the modules that its cells import, and
    the modules that those modules import.

    Raises:
        LessonError: if it is not a notebook.
    """
    folder, found = path.parent, set[Path]()
    waiting = list(_parse_cells(path))
    while waiting:
        tree = waiting.pop()
        for name in _find_claims(tree):
            file = folder / name
            # A file above the folder is not the lesson's to hand on.
            if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
                found.add(file)
        for module in _find_imports(tree):
            for file in _find_files(folder, module):
                if file not in found:  # modules may import each other in a circle
                    found.add(file)
                    waiting.extend(_parse_file(file))
    return sorted(found)


def _parse_cells(path: Path) -> Iterator[ast.AST]:
    for cell in read_notebook(path).cells:
        if cell.cell_type == "code":
            try:
                yield parse_cell(cell.source)
            except CellError:  # a cell that is not Python imports nothing
                continue


def _parse_file(file: Path) -> Iterator[ast.AST]:
    try:
        yield ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # the run will report it, with the place
        return


def _find_claims(tree: ast.AST) -> Iterator[str]:
    """Yield the file names in `Lesson(..., claims="own.toml")` and `claims=Path("own.toml")`."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        for word in call.keywords:
            value = word.value
            # Of `Path("own.toml")`, take the argument.
            if isinstance(value, ast.Call) and len(value.args) == 1:
                value = value.args[0]
            if word.arg == "claims" and isinstance(value, ast.Constant):
                yield str(value.value)


def _find_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level name of each imported module; relative imports stay in their package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _find_files(folder: Path, module: str) -> list[Path]:
    """Find the files of a module or a package in the folder; none if it is installed elsewhere."""
    # Python prefers a package to a module of the same name.
    if (folder / module / "__init__.py").is_file():
        return sorted((folder / module).rglob("*.py"))
    file = folder / f"{module}.py"
    return [file] if file.is_file() else []


def list_companions(path: Path) -> list[Path]:
    """List the `*.toml` and `*.py` beside a notebook, and the `*.py` in each folder that they name.

    A folder counts if its name is a word in the notebook's code, or in a module found so far.
    """
    folder = path.parent
    found = [*folder.glob("*.toml"), *folder.glob("*.py")]
    folders = {each.name: each for each in folder.iterdir() if each.is_dir()}
    # Without folders there is nothing to look up, and no need to read anything.
    unread = [path, *found] if folders else []
    while unread:
        words = set(re.findall(r"\w+", _read_source_text(unread.pop())))
        for name in words & folders.keys():
            modules = list(folders.pop(name).rglob("*.py"))  # each folder counts once
            found += modules
            unread += modules
    return sorted(file for file in found if file.is_file())


def _read_source_text(file: Path) -> str:
    """Read the text of a file; of a notebook, the text of its code cells."""
    text = read_bytes(file).decode(errors="replace")
    if file.suffix != ".ipynb":
        return text
    try:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n".join("".join(cell["source"]) for cell in cells)
    except (ValueError, KeyError, TypeError):
        # A notebook of an older format: read all of it, its outputs too.
        return text


def read_bytes(file: Path) -> bytes:
    """Read a file; empty if it cannot be read, an error that the import of the file will report."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
