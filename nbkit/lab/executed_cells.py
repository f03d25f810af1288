"""Read which parameters a notebook declares from the cells that its kernel has executed.

In a kernel that has been used, the variables of other cells and of earlier versions of the
parameters cell are still there. Only the text of the cells tells them from parameters.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbkit.lab.cell_text import is_magic

INJECTED = "# Parameters"  # the first line of the cell that papermill adds


@dataclass(frozen=True)
class DeclaredNames:
    """What the executed cells say about parameters.

    `current` are the names of the newest parameters cell, and of the cells that papermill injected
    below it. `stale` are names that only cells above it have bound, such as an earlier version.
    """

    current: frozenset[str]
    stale: frozenset[str]


def read_history(namespace: Mapping[str, Any]) -> list[str]:
    """Return the cells that the kernel has executed, oldest first, as IPython keeps them."""
    history = namespace.get("In")
    # A cell may have bound `In` to something else.
    if not isinstance(history, list):
        return []
    return [cell for cell in history if isinstance(cell, str)]


def find_declared_names(cells: Sequence[str], known: Collection[str]) -> DeclaredNames | None:
    """Find the newest parameters cell among executed cells; None if there is none.

    A cell counts as one if it does nothing but assign, declares a type, and binds at least half of
    the known names: a cell in which somebody has only tried another `lr` does not count.

    Args:
        cells: the text of each executed cell, oldest first.
        known: the parameters that the guard names.
    """
    for index in range(len(cells) - 1, -1, -1):
        names = _read_declarations(cells[index])
        if not names or len(names & set(known)) < (len(known) + 1) // 2:
            continue
        for injected in cells[index + 1 :]:
            if injected.lstrip().startswith(INJECTED):
                names |= _read_bound_names(injected)
        above: set[str] = set()
        for earlier in cells[:index]:
            above |= _read_bound_names(earlier)
        return DeclaredNames(frozenset(names), frozenset(above - names))
    return None


def _read_declarations(cell: str) -> set[str]:
    """Return the names that a cell of declarations binds; none if it does anything else."""
    names, has_types = set(), False
    for statement in _parse_executed(cell):
        if is_magic(statement):
            continue
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            return set()
        has_types = has_types or isinstance(statement, ast.AnnAssign)
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if not isinstance(target, ast.Name):
                return set()
            names.add(target.id)
    return names if has_types else set()


def _read_bound_names(cell: str) -> set[str]:
    """Return every name that a cell binds by an assignment, a loop or a `with`."""
    names = set()
    for statement in _parse_executed(cell):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def _parse_executed(cell: str) -> list[ast.stmt]:
    """Parse a cell as IPython executed it, its magics turned into calls; empty if it is broken."""
    try:
        return ast.parse(cell).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
