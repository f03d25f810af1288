"""Run one lesson: write the executed notebook, an HTML copy and a record of how it went."""

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
from nbkit.course.kernel.cells import list_runnable_cells
from nbkit.course.kernel.client import CELL_SECONDS
from nbkit.course.kernel.execute import (
    Fault,
    convert_to_html,
    execute_notebook,
    find_fault,
    read_partial_notebook,
    save_notebook,
)
from nbkit.course.kernel.fork_client import start_fork_server
from nbkit.course.kernel.headless import headless_environment
from nbkit.course.kernel.polling import Stopped
from nbkit.course.lessons import LessonError, check_parameters
from nbkit.course.record import RUNNING, Record
from nbkit.course.record_shape import find_prediction_problem, find_verdict_problem
from nbkit.course.run.exclusive import hold_machine, needs_machine_alone
from nbkit.course.run.gpu import lease_gpu
from nbkit.course.run.grid import shorten_name
from nbkit.course.run.interrupts import ignore_interrupts, keep_handlers
from nbkit.course.run.tasks import Task, check_output_files
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
        parameters: values by name; text is converted to the declared type.
        profile: short for the parameter of that name.
        timeout: time limit of one cell, in seconds.
        progress: called with `(cell, cells)` before each of the cells that run.
    Returns:
        the record; it says whether the lesson failed, and why. A failure raises nothing.
    Raises:
        KnobError: if the lesson does not accept one of the parameters; it has not been started.
        LessonError: if a file that would be overwritten was not written by a run.
    """
    values = check_parameters(path, merge_profile(parameters, profile))
    name = shorten_name(path.stem)
    task = Task(path.absolute(), out.absolute(), name, values, timeout)
    check_output_files(task)
    return _execute_task(task, progress or (lambda cell, cells: None))


def run_task(task: Task) -> Record:
    """Run one task of a run, in this process or in a worker of an executor.

    Raises:
        LessonError: if this machine does not see the lesson or the folder, or has another version
            of nbkit.
    """
    # Two versions would mix their records in one folder, and the ledger could not compare them.
    if task.nbkit != nbkit.__version__:
        raise LessonError(
            f"{platform.node()} has nbkit {nbkit.__version__}, but the run needs {task.nbkit}: "
            f"install that version there."
        )
    if not (task.path.exists() and task.out.exists()):
        raise LessonError(
            f"{platform.node()} does not see {task.path} or {task.out}: lessons and outputs have "
            f"to be in a folder that all machines share."
        )
    # In the process that runs the course this has been done: there, it does nothing.
    start_fork_server([task.path], task.environment)
    try:
        return _execute_task(task, lambda cell, cells: None)
    finally:
        _close_event_loop()


def merge_profile(
    parameters: Mapping[str, object] | None, profile: str | None
) -> dict[str, object]:
    """Merge the profile into the parameters.

    Raises:
        KnobError: if the parameters already hold a different profile.
    """
    given = dict(parameters or {})
    if profile is not None and given.setdefault("profile", profile) != profile:
        raise KnobError(f"the profile is given twice: {given['profile']!r} and {profile!r}.")
    return given


def _close_event_loop() -> None:
    """Close this thread's event loop, which nbclient creates and leaves open."""
    # nbclient made this loop when it first waited for the kernel in this thread.
    loop = ensure_event_loop()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    # A cancelled task ends only while the loop runs.
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


class Attempt:
    """Execute a task once, and keep its record on disk up to date meanwhile.

    Args:
        task: what to execute.
        progress: called with `(cell, cells)` before each of the cells that run.
    """

    def __init__(self, task: Task, progress: Callable[[int, int], None]) -> None:
        self.task, self.progress = task, progress
        self.record = task.make_record()
        self.began = monotonic()

    def execute_lesson(self) -> NotebookNode:
        """Wait for the machine and a GPU, then execute the notebook.

        Raises:
            Stopped: if the run was stopped, while waiting or in a cell.
        """
        task = self.task
        alone = needs_machine_alone(task.lesson)
        with (
            hold_machine(alone, task.is_stopped),
            lease_gpu(task.per_gpu, task.is_stopped) as gpu,
        ):
            # The time of waiting does not count as the lesson's.
            self.record, self.began = _open_record(task), monotonic()
            self.record.save(task.record_path)
            return execute_notebook(
                task.path,
                task.part_path,
                task.values,
                timeout=task.timeout,
                progress=self.note_cell,
                stopped=task.is_stopped,
                environment={**task.environment, **gpu},
            )

    def note_cell(self, cell: int, cells: int) -> None:
        """Save that a cell begins: after a power cut, the record says where the lesson was."""
        self.record.cell, self.record.cell_count = cell, cells
        self.note_seconds()
        self.record.save(self.task.record_path)
        self.progress(cell, cells)

    def note_seconds(self) -> None:
        """Note the seconds so far in the record."""
        self.record.seconds = round(monotonic() - self.began, 3)

    def make_fault(self, reason: str) -> Fault:
        """Make a fault in the cell that runs."""
        return Fault(reason, self.record.cell)


def _execute_task(task: Task, progress: Callable[[int, int], None]) -> Record:
    """Execute a task; write the notebook, the page and the record, whatever ends the execution."""
    # A run that breaks off must not leave the notebook of an earlier one beside its record.
    task.remove_outputs()
    attempt = Attempt(task, progress)
    interrupt = None
    nb, fault = None, None
    try:
        nb = attempt.execute_lesson()
        fault = find_fault(nb)
    except Stopped:
        # The run has ended here or on another machine; the lesson may still wait for its turn.
        waited = "" if attempt.record.status == RUNNING else "not begun: "
        fault = attempt.make_fault(f"{waited}{STOPPED}")
        nb = read_partial_notebook(task.part_path)
    except KeyboardInterrupt as error:
        fault, interrupt = attempt.make_fault(STOPPED), error
        nb = read_partial_notebook(task.part_path)
    except Exception as error:  # of any kind: the other lessons still run
        fault = attempt.make_fault(f"{type(error).__name__}: {error}")
        nb = read_partial_notebook(task.part_path)
    # Everything below is done after Ctrl-C as well: the files say where the lesson was.
    with keep_handlers():
        if interrupt is not None:
            ignore_interrupts()  # a second Ctrl-C would leave the record open
        _write_outputs(task, attempt.record, nb, fault)
        attempt.note_seconds()
        _save_record(task, attempt.record)
    if interrupt is not None:
        raise interrupt
    return attempt.record


def _write_outputs(
    task: Task, record: Record, nb: NotebookNode | None, fault: Fault | None
) -> None:
    """Fill the record from the notebook, and write the notebook and the page.

    An error on the way makes a successful record a failed one.
    """
    if fault is None:
        record.close()
    else:
        record.close(fault.reason, fault.cell)
    try:
        if nb is not None:
            record.cells = _list_cell_states(nb)
            _note_verdicts(record, nb)
            # The client noted it in the notebook, where it does not belong.
            record.peak_bytes = nb.metadata.papermill.pop("peak_bytes", None)
            save_notebook(nb, task.notebook_path)
            write_whole(task.page_path, convert_to_html(nb))
    except Exception as error:
        if record.ok:  # a failed lesson keeps its first reason
            record.close(f"{type(error).__name__}: {error}")
    task.part_path.unlink(missing_ok=True)


def _note_verdicts(record: Record, nb: NotebookNode) -> None:
    """Put verdicts and predictions into the record; an unreadable one fails a successful lesson."""
    record.verdicts, record.predictions = [], []
    for kind, find_problem, found in (
        ("prediction", find_prediction_problem, record.predictions),
        ("verdict", find_verdict_problem, record.verdicts),
    ):
        for numbers in _list_numbers(nb, kind):
            problem = find_problem(numbers)
            if problem is None:
                found.append(numbers)
            elif record.ok:
                record.close(f"a {kind} that the lesson has shown cannot be read: {problem}")


def _save_record(task: Task, record: Record) -> None:
    """Write the record; on a full disk, make room by removing the lesson's other files."""
    try:
        record.save(task.record_path)
    except OSError as error:
        if record.ok:
            record.close(f"{type(error).__name__}: {error}")
        task.remove_outputs()
        with contextlib.suppress(OSError):  # the record on disk still says in which cell it was
            record.save(task.record_path)


def _open_record(task: Task) -> Record:
    """Make a record that says that the task runs, since when and where."""
    # The same environment as the kernel gets, so that the record has its thread count.
    environment = {**headless_environment(""), **task.environment}
    threads = read_thread_count("OMP_NUM_THREADS", environment["OMP_NUM_THREADS"])
    return task.make_record(
        status=RUNNING,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=read_machine().to_dict() | {"threads": threads},
        worker={"host": platform.node(), "pid": os.getpid()},
    )


def _list_cell_states(nb: NotebookNode) -> list[dict[str, Any]]:
    """List the number, papermill's status and the seconds of each cell that was to run."""
    states = []
    for number, index in enumerate(list_runnable_cells(nb), start=1):
        state = nb.cells[index].metadata.papermill
        states.append({"cell": number, "status": state.status, "seconds": state.duration})
    return states


def _list_numbers(nb: NotebookNode, kind: str) -> list[dict[str, Any]]:
    """List what a lesson stored of one kind ("verdict") in the metadata of its outputs."""
    found = []
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            numbers = output.get("metadata", {}).get("nbkit", {})
            if numbers.get("kind") == kind:
                found.append(dict(numbers))
    return found
