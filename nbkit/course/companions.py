"""The files beside a notebook that it needs: its claims, and modules that it imports.

`find_companions` reads what the text names, to copy it. `list_companions` takes everything that an
import could reach, to notice a change: rather one file too many than a result that is out of date.
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
    """Find the files in a notebook's folder that its text names.

    Those are the file in `Lesson(..., claims="own.toml")`, the modules that its cells import, and
    the modules that these import.

    Raises:
        LessonError: if it is not a notebook.
    """
    folder, found = path.parent, dict[Path, None]()
    waiting = list(_parse_cells(path))
    while waiting:
        tree = waiting.pop()
        for name in _find_claims(tree):
            file = folder / name
            if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
                found[file] = None
        for module in _find_imports(tree):
            for file in _find_files(folder, module):
                if file not in found:
                    found[file] = None
                    waiting.extend(_parse_file(file))
    return sorted(found)


def _parse_cells(path: Path) -> Iterator[ast.AST]:
    for cell in read_notebook(path).cells:
        if cell.cell_type == "code":
            try:
                yield parse_cell(cell.source)
            except CellError:  # it imports nothing either
                continue


def _parse_file(file: Path) -> Iterator[ast.AST]:
    try:
        yield ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # to be found where it is run
        return


def _find_claims(tree: ast.AST) -> Iterator[str]:
    """The files in `Lesson(..., claims="own.toml")` and `claims=Path("own.toml")`."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        for word in call.keywords:
            value = word.value
            if isinstance(value, ast.Call) and len(value.args) == 1:
                value = value.args[0]
            if word.arg == "claims" and isinstance(value, ast.Constant):
                yield str(value.value)


def _find_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _find_files(folder: Path, module: str) -> list[Path]:
    """The files of a module, or of a package, that lies in the folder."""
    if (folder / module / "__init__.py").is_file():
        return sorted((folder / module).rglob("*.py"))
    return [file for file in [folder / f"{module}.py"] if file.is_file()]


def list_companions(path: Path) -> list[Path]:
    """The `*.toml` and `*.py` beside a notebook, and the `*.py` in each folder that they name.

    A folder counts when its name is a word in the notebook's code, or in that of a module found so
    far: rather one import too many than a result that is out of date.
    """
    folder = path.parent
    found = [*folder.glob("*.toml"), *folder.glob("*.py")]
    folders = {each.name: each for each in folder.iterdir() if each.is_dir()}
    unread = [path, *found] if folders else []
    while unread:
        words = set(re.findall(r"\w+", _read_code(unread.pop())))
        for name in words & folders.keys():
            modules = list(folders.pop(name).rglob("*.py"))
            found += modules
            unread += modules
    return sorted(file for file in found if file.is_file())


def _read_code(file: Path) -> str:
    """The text of a file; of a notebook, that of its code cells."""
    text = read_bytes(file).decode(errors="replace")
    if file.suffix != ".ipynb":
        return text
    try:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return "\n".join("".join(cell["source"]) for cell in cells)
    except (ValueError, KeyError, TypeError):  # an older format: then its outputs are read too
        return text


def read_bytes(file: Path) -> bytes:
    """What is in a file; nothing if it cannot be read, which its importer will say."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
