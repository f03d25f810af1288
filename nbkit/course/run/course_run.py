"""Run lessons headless; one that fails does not stop the next.

Each leaves three files: the executed notebook, the same as HTML, and a record for programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nbkit.course.console import print_line
from nbkit.course.kernel import fork_client as warm
from nbkit.course.kernel.client import CELL_SECONDS
from nbkit.course.kernel.headless import share_threads
from nbkit.course.ledger import find_flips, keep_record, ledger_dir
from nbkit.course.lessons import LessonError
from nbkit.course.record import Record
from nbkit.course.report.write import PAGE, check_page, format_table, write_reports
from nbkit.course.run.dispatch import drive
from nbkit.course.run.exclusive import needs_quiet
from nbkit.course.run.executors import LOCAL, open_executor
from nbkit.course.run.folder_lock import hold_folder
from nbkit.course.run.interrupts import keep_handlers
from nbkit.course.run.one_lesson import run_lesson, with_profile
from nbkit.course.run.progress import Progress
from nbkit.course.run.tasks import Task, plan
from nbkit.course.run.time_left import Expected, expect

__all__ = ["run", "run_lesson"]


class LedgerError(Exception):
    """The lessons ran, and are reported; the ledger could not be read or written."""


def run(
    lessons: Sequence[Path],
    out: Path,
    parameters: Mapping[str, object] | None = None,
    profile: str | None = None,
    timeout: float = CELL_SECONDS,
    to_ledger: bool = False,
    *,
    grid: Mapping[str, Sequence[object]] | None = None,
    jobs: int = 1,
    resume: bool = False,
    executor: str = LOCAL,
    per_gpu: int = 1,
) -> list[Record]:
    """Run the lessons, showing progress; print the table, write the page.

    Args:
        lessons: paths of notebooks.
        out: the folder for what they leave; made if it is not there.
        parameters: for each of the lessons; text is read by the declared type.
        profile: `smoke`, `lesson` or `full`: short for the parameter of that name.
        timeout: seconds that one cell may take.
        to_ledger: write the record of each lesson that ran into the ledger too.
        grid: values by parameter: each lesson runs at each combination.
        jobs: how many run at a time; they share the cores.
        resume: keep what an earlier run in this folder has done: same parameters, lesson and nbkit.
        executor: where: `local`, `dask:ADDRESS`, or `module:callable`.
        per_gpu: how many may share a GPU; 0 leaves the GPUs to all of them.
    Returns:
        the records, in the order of the lessons and points.
    Raises:
        KnobError: if a lesson does not take one of the parameters; none has been started.
        LessonError: if two lessons, or a lesson and somebody's work, would share a file, or
            another run is at work in the folder.
        LedgerError: if the ledger cannot be read or written; after all have run and are reported.
    """
    if to_ledger and grid:
        raise LessonError("the ledger holds one run of a lesson: record without a grid.")
    environment = share_threads(jobs) if executor == LOCAL else {}
    try:
        tasks = plan(
            *(lessons, out, with_profile(parameters, profile), grid, timeout),
            environment=environment,
            per_gpu=per_gpu,
        )
        check_page(out)
    except OSError as error:  # a name that is too long, a folder that nobody may look into
        where = str(error.filename or out)
        where = where if len(where) < 200 else f"{where[:200]}..."
        raise LessonError(f"{where} cannot be used: {error.strerror}.") from error
    if executor == LOCAL:
        warm.start([task.path for task in tasks], environment)  # meanwhile the rest is got ready
    try:
        with open_executor(executor, jobs) as pool, hold_folder(out) as token, keep_handlers():
            tasks = [replace(task, token=token) for task in tasks]
            return _run(tasks, pool, out, jobs, resume, to_ledger)
    finally:
        warm.stop()


def _run(
    tasks: list[Task], pool: object, out: Path, jobs: int, resume: bool, to_ledger: bool
) -> list[Record]:
    kept = {task.name: done for task in tasks if resume and (done := task.done())}
    missing = [task for task in tasks if task.name not in kept]
    expected = {task.name: expect(task) for task in tasks}
    for task in missing:
        _wait(task)

    problems: list[str] = []
    places = {task.name: task.record_path for task in tasks}

    def finished(record: Record) -> None:
        problems.extend(_hold_against_ledger(record, places[record.name], to_ledger))

    for record in kept.values():
        finished(record)  # it may have been recorded since
    try:
        with Progress(len(missing), jobs=jobs, expected=expected) as progress:
            drive(_in_order(missing, expected, jobs), pool, progress, finished)
    finally:  # what has run is reported after Ctrl-C too
        if kept:
            print_line(f"done before, and kept: {', '.join(kept)}")
        records = [_stands(task) for task in tasks]
        _report(records, out)
        for problem in problems:
            print_line(f"ledger: {problem}")
    if problems:
        raise LedgerError("; ".join(problems))
    return records


def _hold_against_ledger(record: Record, path: Path, to_ledger: bool) -> list[str]:
    """Note what has flipped, and record the verdicts if that is wanted; what went wrong with it.

    A ledger that cannot be read or written is nothing that is wrong with the lesson, or the others.
    """
    if not record.machine:  # it has not begun
        return []
    problems, before = [], record.flips
    try:
        record.flips = find_flips(record, ledger_dir())
        if record.flips != before:
            record.save(path)
    except (OSError, ValueError) as error:
        problems = [str(error)] if record.ok else []
    if not (to_ledger and record.ok):
        return problems
    try:
        keep_record(record, ledger_dir())
    except (OSError, ValueError) as error:
        return [str(error)]
    return []


def _wait(task: Task) -> None:
    """Put a record there that says that it has not begun, and remove what earlier runs left."""
    record = task.record()
    task.clear()
    try:
        record.save(task.record_path)
    except OSError as error:
        raise LessonError(f"{task.record_path} cannot be written: {error.strerror}.") from error


def _in_order(tasks: list[Task], expected: Mapping[str, Expected | None], jobs: int) -> list[Task]:
    """In an order that leaves no core idle for long: the lessons that run alone go first.

    After them the longest, so that none of these is left over at the end.
    """
    if jobs == 1:
        return tasks
    seconds = {name: times.seconds if times else float("inf") for name, times in expected.items()}
    shared = {task.name: not needs_quiet(task.lesson) for task in tasks}
    return sorted(tasks, key=lambda task: (shared[task.name], -seconds[task.name]))


def _stands(task: Task) -> Record:
    """The record as it is on disk."""
    gone = "its record is gone, or is no record any more"
    return Record.find(task.record_path) or task.record(status="failed", reason=gone)


def _report(records: Sequence[Record], out: Path) -> None:
    """Write the page, then print the table: whoever reads that may be gone already."""
    told = f"Everything on one page: {out / PAGE}"
    try:
        write_reports(records, out)
    except OSError as error:
        told = f"{out / PAGE} cannot be written: {error.strerror}."
    print_line(f"{format_table(records)}\n\n{told}")
