"""The files beside a notebook that it cannot run without: its claims, and modules of its own."""

from __future__ import annotations

import ast
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
