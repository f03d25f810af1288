"""Run lessons headless, one after another; one that fails does not stop the next.

Each leaves three files: the executed notebook, the same as HTML, and a record for programs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from nbformat import NotebookNode

import nbkit
from nbkit.course.client import CELL_SECONDS, runnable_cells
from nbkit.course.execute import as_html, execute, find_fault, save_notebook
from nbkit.course.headless import headless_environment
from nbkit.course.ledger import find_flips, keep, ledger_dir
from nbkit.course.lessons import LessonError, check_parameters, read_notebook
from nbkit.course.progress import Progress
from nbkit.course.record import Record, write_whole
from nbkit.course.report import table, write_page
from nbkit.lab.knobs import KnobError, Value
from nbkit.lab.machine import machine

PAGE = "index.html"


def run(
    lessons: Sequence[Path],
    out: Path,
    parameters: Mapping[str, object] | None = None,
    profile: str | None = None,
    timeout: float = CELL_SECONDS,
    to_ledger: bool = False,
) -> list[Record]:
    """Run the lessons, showing progress; print the table, write the page.

    Args:
        lessons: paths of notebooks.
        out: the folder for what they leave; made if it is not there.
        parameters: for each of the lessons; text is read by the declared type.
        profile: `smoke`, `lesson` or `full`: short for the parameter of that name.
        timeout: seconds that one cell may take.
        to_ledger: write the record of each lesson that ran into the ledger too.
    Raises:
        KnobError: if a lesson does not take one of the parameters; none has been started.
        LessonError: if two lessons, or a lesson and somebody's notebook, would share a file.
    """
    checked = _check(lessons, out, _with_profile(parameters, profile))

    out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    try:
        with Progress(len(lessons)) as progress:
            for path, values in zip(lessons, checked, strict=True):
                progress.start(path.stem)
                record = run_lesson(path, out, values, timeout=timeout, progress=progress.cell)
                progress.finish(record)
                records.append(record)
                if to_ledger and record.ok:
                    keep(record, ledger_dir())
    finally:  # what has run is reported after Ctrl-C too
        print(table(records))
        write_page(records, out / PAGE)
        print(f"\nEverything on one page: {out / PAGE}")
    return records


def run_lesson(
    path: Path,
    out: Path,
    parameters: Mapping[str, object] | None = None,
    profile: str | None = None,
    timeout: float = CELL_SECONDS,
    progress: Callable[[int, int], None] | None = None,
) -> Record:
    """Run one lesson and write `<lesson>.ipynb`, `.html` and `.json` into the folder `out`.

    Args:
        path: the notebook.
        out: an existing folder; the lesson's files of an earlier run are removed first.
        parameters: values by name; text is read by the declared type.
        profile: short for the parameter of that name.
        timeout: seconds that one cell may take.
        progress: called with `(cell, cells)` before each of the cells that run.
    Returns:
        the record: a lesson that fails is a record that says so, not an exception.
    Raises:
        KnobError: if the lesson does not take one of the parameters; it has not been started.
        LessonError: if a notebook that is of no run is in the way.
    """
    values = check_parameters(path, _with_profile(parameters, profile))
    _check_place(path, out)

    notebook, page, account = (out / f"{path.stem}{end}" for end in (".ipynb", ".html", ".json"))
    for earlier in (notebook, page, account):
        earlier.unlink(missing_ok=True)
    record = _open_record(path, values)
    began = monotonic()
    try:
        nb = execute(path, notebook, values, timeout=timeout, progress=progress)
        record.cells, record.verdicts = _cells(nb), _verdicts(nb)
        record.flips = find_flips(record, ledger_dir())
        fault = find_fault(nb)
        save_notebook(nb, notebook)
        write_whole(page, as_html(nb))
        record.close(*fault or ())
    except KeyboardInterrupt:
        record.close("stopped by Ctrl-C")
        raise
    except Exception as error:  # whatever it is, the lessons after this one still run
        record.close(f"{type(error).__name__}: {error}")
    finally:
        record.seconds = round(monotonic() - began, 3)
        _save(record, account)
    return record


def _check(
    lessons: Sequence[Path], out: Path, given: Mapping[str, object]
) -> list[dict[str, Value]]:
    """Everything that can be known to fail before the first kernel starts."""
    names = [path.stem for path in lessons]
    for path in lessons:
        _check_place(path, out)
        if names.count(path.stem) > 1:
            raise LessonError(f"two lessons are called {path.stem}: run them one after the other.")
    if out.exists() and not out.is_dir():
        raise LessonError(f"{out} is a file: choose a folder for the outputs.")
    return [check_parameters(path, given) for path in lessons]


def _check_place(path: Path, out: Path) -> None:
    """Refuse to write over a notebook that no run has made: it is a lesson, or somebody's work."""
    there = out / f"{path.stem}.ipynb"
    if not there.exists():
        return
    if there.samefile(path) or "papermill" not in read_notebook(there).metadata:
        raise LessonError(f"{there} is not a run's and would be lost: choose another folder.")


def _save(record: Record, path: Path) -> None:
    """Write the record; a full disk fails this lesson, and the next one is tried."""
    try:
        record.save(path)
    except OSError as error:
        record.close(f"{type(error).__name__}: {error}")


def _with_profile(
    parameters: Mapping[str, object] | None, profile: str | None
) -> dict[str, object]:
    given = dict(parameters or {})
    if profile is not None and given.setdefault("profile", profile) != profile:
        raise KnobError(f"the profile is given twice: {given['profile']!r} and {profile!r}.")
    return given


def _open_record(path: Path, values: dict[str, Value]) -> Record:
    threads = headless_environment("")["OMP_NUM_THREADS"]
    return Record(
        lesson=path.stem,
        parameters=dict(values),
        nbkit=nbkit.__version__,
        notebook_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine()
        | {"threads": int(threads.split(",")[0])},  # the kernel's, not this process's
    )


def _cells(nb: NotebookNode) -> list[dict[str, Any]]:
    """What became of each cell that was to run, and its seconds."""
    accounts = [nb.cells[index].metadata.papermill for index in runnable_cells(nb)]
    return [
        {"cell": number, "status": account.status, "seconds": account.duration}
        for number, account in enumerate(accounts, start=1)
    ]


def _verdicts(nb: NotebookNode) -> list[dict[str, Any]]:
    """The verdicts that ride in the metadata of the outputs."""
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    carried = [output.get("metadata", {}).get("nbkit", {}) for output in outputs]
    return [dict(numbers) for numbers in carried if numbers.get("kind") == "verdict"]
