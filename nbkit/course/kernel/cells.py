"""Find the cells of a notebook that a run executes, and read or add the errors in their outputs."""

from __future__ import annotations

from collections.abc import Sequence

from nbformat import NotebookNode
from nbformat.v4 import new_output

SKIP_TAG = "skip-execution"  # nbclient leaves cells with this tag alone


def list_runnable_cells(nb: NotebookNode) -> list[int]:
    """List the indices of the cells to execute: code that is neither empty nor tagged to skip."""
    indices = []
    for index, cell in enumerate(nb.cells):
        skipped = SKIP_TAG in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and cell.source.strip() and not skipped:
            indices.append(index)
    return indices


def find_error(cell: NotebookNode) -> NotebookNode | None:
    """Return the first error among a cell's outputs; None if there is none."""
    outputs: list[NotebookNode] = cell.get("outputs", [])
    for output in outputs:
        if output.output_type == "error":
            return output
    return None


def add_error(cell: NotebookNode, name: str, message: str, traceback: Sequence[str] = ()) -> None:
    """Insert an error before a code cell's other outputs.

    papermill raises the first error that it finds, and a reader sees it without scrolling.
    """
    if cell.cell_type != "code":
        return
    lines = [*traceback, f"{name}: {message}"]
    error = new_output("error", ename=name, evalue=message, traceback=lines)
    cell.outputs.insert(0, error)
