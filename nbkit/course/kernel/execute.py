"""Execute one notebook with papermill, and decide from its content whether it has succeeded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.engines import papermill_engines
from papermill.log import logger

from nbkit.base.whole_file import write_whole
from nbkit.course.kernel.cells import find_error, list_runnable_cells
from nbkit.course.kernel.client import CELL_SECONDS
from nbkit.course.kernel.engine import NbkitEngine
from nbkit.course.kernel.polling import Stopped
from nbkit.course.record import list_nonfinite, replace_nonfinite
from nbkit.lab.knobs import Value

SILENT = logging.NullHandler()
HTML_LOCK = Lock()  # warning filters belong to the process, so one thread at a time changes them


class Fault(NamedTuple):
    """Say why a notebook counts as failed.

    Attributes:
        reason: one sentence, often `ErrorName: message`.
        cell: number of the cell as in `In [ ]`; None if no single cell is at fault.
    """

    reason: str
    cell: int | None


def execute_notebook(
    path: Path,
    executed: Path,
    parameters: Mapping[str, Value] | None = None,
    *,
    timeout: float = CELL_SECONDS,
    progress: Callable[[int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    environment: Mapping[str, str] | None = None,
) -> NotebookNode:
    """Execute a notebook; if a cell fails, the returned notebook has the error in that cell.

    Args:
        path: the notebook; the kernel works in its folder.
        executed: file of the executed notebook, saved after each cell.
        parameters: checked values that replace those of the parameters cell.
        timeout: time limit of one cell, in seconds.
        progress: called with `(cell, cells)` before each of the cells that run.
        stopped: asked twice a second whether to stop.
        environment: variables for the kernel, in addition to the headless ones.
    Raises:
        Stopped: if the run was stopped; the notebook so far is in `executed`.
        Exception: papermill's error, if no notebook was saved that shows what went wrong.
    """
    papermill_engines.register("nbkit", NbkitEngine)  # a checkout has no installed entry point
    # The notebook holds what papermill logs, and its warnings about unknown parameters are wrong.
    logger.addHandler(SILENT)
    try:
        nb: NotebookNode = papermill.execute_notebook(
            _escape_braces(path),
            _escape_braces(executed),
            dict(parameters or {}),
            engine_name="nbkit",
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=timeout,
            progress=progress,
            stopped=stopped,
            environment=environment,
            resources={"metadata": {"path": str(path.parent)}},
        )
        return nb
    except Stopped:
        raise
    except Exception:
        partial = read_partial_notebook(executed)
        if partial is None or find_fault(partial) is None:
            raise
        return partial


def read_partial_notebook(path: Path) -> NotebookNode | None:
    """Read the notebook that a run has saved so far; None if it is missing or damaged."""
    try:
        nb: NotebookNode = nbformat.read(path, as_version=4)
        return nb
    except Exception:  # nbformat raises several kinds
        return None


def find_fault(nb: NotebookNode) -> Fault | None:
    """Find out why an executed notebook counts as failed; None if it has succeeded.

    A notebook has failed if a cell holds an error, if a cell did not run, or if NaN or infinity
    stands anywhere in it: JupyterLab could not open the file.
    """
    for number, index in enumerate(list_runnable_cells(nb), start=1):
        error = find_error(nb.cells[index])
        if error:
            return Fault(f"{error.ename}: {error.evalue}", number)
        if nb.cells[index].execution_count is None:
            return Fault("the cell did not run", number)
    for place in list_nonfinite(nb, "notebook"):
        return Fault(f"{place} is NaN or infinite: JSON has no such number", None)
    return None


def save_notebook(nb: NotebookNode, path: Path) -> None:
    """Write a notebook that JupyterLab can open, whole or not at all."""
    finite = nbformat.from_dict(replace_nonfinite(nb))
    text = nbformat.writes(finite)
    write_whole(path, text.rstrip("\n") + "\n")


def convert_to_html(nb: NotebookNode) -> str:
    """Convert a notebook to one HTML page that holds its pictures.

    Equations are set by MathJax, which a browser loads when it is online.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", require_js_url="", jquery_url="")
    with HTML_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for example about pictures without alternative text
        page, _ = exporter.from_notebook_node(nb)
    return str(page)


def _escape_braces(path: Path) -> str:
    """Double the braces of a path, which papermill would read as placeholders."""
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")
