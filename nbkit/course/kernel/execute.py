"""Execute one notebook with papermill, and judge by what it left whether it has succeeded."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.engines import papermill_engines
from papermill.log import logger

from nbkit.base.whole_file import write_whole
from nbkit.course.kernel.client import CELL_SECONDS, Stopped, find_error, runnable_cells
from nbkit.course.kernel.engine import NbkitEngine
from nbkit.course.record import list_nonfinite, replace_nonfinite
from nbkit.lab.knobs import Value

SILENT = logging.NullHandler()
ONE_AT_A_TIME = Lock()  # the filters of warnings belong to all threads


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
    """Execute a notebook; one that fails comes back too, with the error in the cell it happened in.

    Args:
        path: the notebook; the kernel works in its folder.
        executed: where the executed notebook grows, saved after each cell.
        parameters: checked values, put in the place of the parameters cell's.
        timeout: seconds that one cell may take.
        progress: called with `(cell, cells)` before each of the cells that run.
        stopped: asked twice a second whether to stop.
        environment: variables for the kernel on top of the headless ones.
    Raises:
        Stopped: if it was stopped; the notebook so far is in `executed`.
        Exception: papermill's own, if no notebook came of it that says what is wrong.
    """
    papermill_engines.register("nbkit", NbkitEngine)  # in a checkout nobody has installed us
    logger.addHandler(SILENT)  # what it has to say is in the notebook; its warnings err on names
    try:
        return papermill.execute_notebook(
            _literal(path),
            _literal(executed),
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
    except Stopped:
        raise
    except Exception:
        nb = read_left(executed)
        if nb is None or find_fault(nb) is None:
            raise
        return nb


def read_left(path: Path) -> NotebookNode | None:
    """What a run has left; None if that is nothing, or half a file."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception:  # nbformat raises several kinds
        return None


def find_fault(nb: NotebookNode) -> tuple[str, int | None] | None:
    """Why an executed notebook counts as failed, with the number of the cell; None if it does not.

    The number counts the cells that run, as `In [ ]` does. What counts: an error in a cell, a cell
    that did not run, and NaN or infinity anywhere, with which JupyterLab cannot open the file.
    """
    for number, index in enumerate(runnable_cells(nb), start=1):
        error = find_error(nb.cells[index])
        if error:
            return f"{error.ename}: {error.evalue}", number
        if nb.cells[index].execution_count is None:
            return "the cell did not run", number
    for where in list_nonfinite(nb, "notebook"):
        return f"{where} is NaN or infinite: JSON has no such number", None
    return None


def save_notebook(nb: NotebookNode, path: Path) -> None:
    """Write a notebook that JupyterLab can open, whole or not at all."""
    text = nbformat.writes(nbformat.from_dict(replace_nonfinite(nb)))
    write_whole(path, text.rstrip("\n") + "\n")


def as_html(nb: NotebookNode) -> str:
    """The notebook as one HTML page: pictures inside; equations are set by MathJax when online."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", require_js_url="", jquery_url="")
    with ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pictures without alternative text, and the like
        return exporter.from_notebook_node(nb)[0]


def _literal(path: Path) -> str:
    """The path as papermill takes it, who reads braces as placeholders."""
    return str(path.resolve()).replace("{", "{{").replace("}", "}}")
