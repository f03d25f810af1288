"""Run one lesson: an executed notebook, the same as HTML, and a record that says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from jupyter_core.utils import ensure_event_loop
from nbformat import NotebookNode

import nbkit
from nbkit.base.whole_file import write_whole
from nbkit.course.kernel import fork_client as warm
from nbkit.course.kernel.client import CELL_SECONDS, Stopped, runnable_cells
from nbkit.course.kernel.execute import (
    as_html,
    execute_notebook,
    find_fault,
    read_left,
    save_notebook,
)
from nbkit.course.kernel.headless import headless_environment
from nbkit.course.lessons import LessonError, check_parameters
from nbkit.course.record import RUNNING, Record
from nbkit.course.record_shape import find_verdict_problem
from nbkit.course.run.exclusive import company, needs_quiet
from nbkit.course.run.gpu import lease
from nbkit.course.run.interrupts import ignore_interrupts, keep_handlers
from nbkit.course.run.tasks import Task, check_place, shorten_name
from nbkit.lab.knobs import KnobError
from nbkit.lab.machine import read_machine
from nbkit.lab.threads import read_thread_count

STOPPED = "stopped by Ctrl-C"


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
    values = check_parameters(path, with_profile(parameters, profile))
    name = shorten_name(path.stem)
    task = Task(path.absolute(), out.absolute(), name, values, timeout)
    check_place(task)
    return _run(task, progress or (lambda cell, cells: None))


def run_task(task: Task) -> Record:
    """Run one task of a run, here or wherever an executor has brought it.

    Raises:
        LessonError: if the lesson or the folder is not there, or nbkit is another version.
    """
    if task.nbkit != nbkit.__version__:
        raise LessonError(
            f"{platform.node()} has nbkit {nbkit.__version__}, the run {task.nbkit}: install that."
        )
    if not (task.path.exists() and task.out.exists()):
        raise LessonError(
            f"{platform.node()} does not see {task.path} or {task.out}: lessons and outputs have "
            f"to be in a folder that all machines share."
        )
    warm.start([task.path], task.environment)
    try:
        return _run(task, lambda cell, cells: None)
    finally:
        _close_loop()


def _close_loop() -> None:
    """Close this thread's event loop: nbclient makes one in each thread, and leaves it open."""
    loop = ensure_event_loop()
    for left in (tasks := asyncio.all_tasks(loop)):
        left.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def with_profile(parameters: Mapping[str, object] | None, profile: str | None) -> dict[str, object]:
    """The parameters with the profile among them.

    Raises:
        KnobError: if the two disagree.
    """
    given = dict(parameters or {})
    if profile is not None and given.setdefault("profile", profile) != profile:
        raise KnobError(f"the profile is given twice: {given['profile']!r} and {profile!r}.")
    return given


def _run(task: Task, progress: Callable[[int, int], None]) -> Record:
    """Run a task and keep its record up to date on disk, from before the first cell on."""
    task.clear()
    record = task.record()
    began = monotonic()

    def note(cell: int, cells: int) -> None:
        record.cell, record.cell_count = cell, cells
        record.seconds = round(monotonic() - began, 3)
        record.save(task.record_path)
        progress(cell, cells)

    interrupt = None
    nb, fault = None, None
    try:
        alone = needs_quiet(task.lesson)
        with company(alone, task.stopped), lease(task.per_gpu, task.stopped) as gpu:
            record, began = _open_record(task), monotonic()  # waiting is not running
            record.save(task.record_path)
            nb = execute_notebook(
                task.path,
                task.part,
                task.values,
                timeout=task.timeout,
                progress=note,
                stopped=task.stopped,
                environment={**task.environment, **gpu},
            )
        fault = find_fault(nb)
    except Stopped:
        waited = "" if record.status == RUNNING else "not begun: "
        nb, fault = read_left(task.part), (f"{waited}{STOPPED}", record.cell)
    except KeyboardInterrupt as error:
        nb, fault, interrupt = read_left(task.part), (STOPPED, record.cell), error
    except Exception as error:  # whatever it is, the lessons after this one still run
        nb, fault = read_left(task.part), (f"{type(error).__name__}: {error}", record.cell)
    with keep_handlers():
        if interrupt is not None:
            ignore_interrupts()  # a second Ctrl-C would leave the record open
        _close(task, record, nb, fault)
        record.seconds = round(monotonic() - began, 3)
        _save(task, record)
    if interrupt is not None:
        raise interrupt
    return record


def _close(
    task: Task, record: Record, nb: NotebookNode | None, fault: tuple[str, int | None] | None
) -> None:
    """Take what the notebook says into the record, and write notebook and page."""
    record.close(*fault or ())
    try:
        if nb is not None:
            record.cells, verdicts = _cells(nb), _verdicts(nb)
            problems = [find_verdict_problem(verdict) for verdict in verdicts]
            pairs = zip(verdicts, problems, strict=True)
            record.verdicts = [verdict for verdict, problem in pairs if problem is None]
            if record.ok and (odd := next(filter(None, problems), None)):
                record.close(f"a verdict that the lesson has shown cannot be read: {odd}")
            record.peak_bytes = nb.metadata.papermill.pop("peak_bytes", None)
            save_notebook(nb, task.notebook)
            write_whole(task.page, as_html(nb))
    except Exception as error:
        if record.ok:  # otherwise it has failed for a better reason
            record.close(f"{type(error).__name__}: {error}")
    task.part.unlink(missing_ok=True)


def _save(task: Task, record: Record) -> None:
    """Write the record; on a full disk this lesson's own files make room for it."""
    try:
        record.save(task.record_path)
    except OSError as error:
        if record.ok:
            record.close(f"{type(error).__name__}: {error}")
        task.clear()
        with contextlib.suppress(OSError):  # what stands there says in which cell it was running
            record.save(task.record_path)


def _open_record(task: Task) -> Record:
    environment = {**headless_environment(""), **task.environment}
    threads = read_thread_count("OMP_NUM_THREADS", environment["OMP_NUM_THREADS"])
    return task.record(
        status=RUNNING,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=read_machine().to_dict() | {"threads": threads},  # the kernel's, not this process's
        worker={"host": platform.node(), "pid": os.getpid()},
    )


def _cells(nb: NotebookNode) -> list[dict[str, Any]]:
    """What became of each cell that was to run, and its seconds."""
    states = [nb.cells[index].metadata.papermill for index in runnable_cells(nb)]
    return [
        {"cell": number, "status": state.status, "seconds": state.duration}
        for number, state in enumerate(states, start=1)
    ]


def _verdicts(nb: NotebookNode) -> list[dict[str, Any]]:
    """The verdicts that ride in the metadata of the outputs."""
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    carried = [output.get("metadata", {}).get("nbkit", {}) for output in outputs]
    return [dict(numbers) for numbers in carried if numbers.get("kind") == "verdict"]
