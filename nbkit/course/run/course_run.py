"""Run lessons headless, one after another or side by side; a failed lesson does not stop the rest.

For each lesson, a run writes the executed notebook, an HTML copy and a machine-readable record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbkit.course.console import print_line
from nbkit.course.kernel.fork_client import start_fork_server, stop_fork_server
from nbkit.course.kernel.headless import share_threads
from nbkit.course.ledger import find_flips, keep_record, ledger_dir, list_kept
from nbkit.course.lessons import LessonError
from nbkit.course.record import Record
from nbkit.course.report.write import PAGE, check_page, format_table, write_reports
from nbkit.course.run.dispatch import dispatch_tasks
from nbkit.course.run.exclusive import needs_machine_alone
from nbkit.course.run.executors import LOCAL, open_executor
from nbkit.course.run.folder_lock import hold_folder
from nbkit.course.run.interrupts import keep_handlers
from nbkit.course.run.one_lesson import merge_profile, run_lesson
from nbkit.course.run.options import RunOptions
from nbkit.course.run.progress import Progress
from nbkit.course.run.tasks import Task, plan_tasks
from nbkit.course.run.time_left import ExpectedTimes, find_expected_times

__all__ = ["run_lesson", "run_lessons"]

MAX_SHOWN_PATH = 200  # characters of a path in a message


class LedgerError(Exception):
    """Report that the ledger could not be read or written; the lessons ran and are reported."""


def run_lessons(
    lessons: Sequence[Path],
    out: Path,
    parameters: Mapping[str, object] | None = None,
    profile: str | None = None,
    grid: Mapping[str, Sequence[object]] | None = None,
    options: RunOptions | None = None,
) -> list[Record]:
    """Run the lessons, show the progress, print the table of results and write the page.

    Args:
        lessons: paths of notebooks.
        out: output folder; created if it does not exist.
        parameters: values by name for every lesson; text is converted to the declared type.
        profile: `smoke`, `lesson` or `full`; short for the parameter of that name.
        grid: values by parameter; each lesson runs once for each combination.
        options: time limit, number of jobs, executor and the like; default `RunOptions()`.
    Returns:
        one record for each lesson and grid point, in their order.
    Raises:
        KnobError: if a lesson does not accept one of the parameters; no lesson has been started.
        LessonError: if two lessons would write the same file, a file in the output folder was not
            written by a run, or another run uses the folder.
        LedgerError: if the ledger cannot be read or written; all lessons have run and are reported.
    """
    options = options or RunOptions()
    if options.to_ledger and grid:
        raise LessonError(
            "the ledger keeps one result per lesson, got --record together with --grid: "
            "record without a grid."
        )
    environment = _share_cores(options)
    given = merge_profile(parameters, profile)
    tasks = _plan_run(lessons, out, given, grid, options, environment)
    if options.executor == LOCAL:
        # torch is imported in the background while the executor and the folder are prepared.
        start_fork_server([task.path for task in tasks], environment)
    try:
        with (
            open_executor(options.executor, options.jobs) as pool,
            hold_folder(out) as token,
            keep_handlers(),
        ):
            # The token exists only now; workers read it to learn whether the run goes on.
            tasks = [replace(task, token=token) for task in tasks]
            return _run_tasks(tasks, pool, out, options)
    finally:
        stop_fork_server()


def _share_cores(options: RunOptions) -> dict[str, str]:
    """Return the variables that give each local kernel its share of the cores.

    Workers on other machines may have other cores: their kernels keep the settings there.
    """
    if options.executor != LOCAL:
        return {}
    try:
        return share_threads(options.jobs)
    except ValueError as error:  # a variable that counts threads is no number
        raise LessonError(str(error)) from error


def _plan_run(
    lessons: Sequence[Path],
    out: Path,
    given: Mapping[str, object],
    grid: Mapping[str, Sequence[object]] | None,
    options: RunOptions,
    environment: Mapping[str, str],
) -> list[Task]:
    """Plan the tasks, and check that a run can write its files; raise a LessonError otherwise."""
    try:
        tasks = plan_tasks(
            lessons,
            out,
            given,
            grid,
            timeout=options.timeout,
            environment=environment,
            per_gpu=options.per_gpu,
        )
        check_page(out)
    except OSError as error:  # the name is too long, or the folder is not readable
        path = str(error.filename or out)
        # A name that is too long for the file system would fill the screen.
        shown = path if len(path) < MAX_SHOWN_PATH else f"{path[:MAX_SHOWN_PATH]}..."
        raise LessonError(
            f"{shown} cannot be used: {error.strerror}. Choose another --out."
        ) from error
    return tasks


def _run_tasks(tasks: list[Task], pool: Any, out: Path, options: RunOptions) -> list[Record]:
    """Run the tasks that are not finished yet, then report all of them."""
    # With resume, a finished result is kept only if it is from the same lesson and parameters.
    kept = _find_finished(tasks) if options.resume else {}
    missing = [task for task in tasks if task.name not in kept]
    expected = {task.name: find_expected_times(task) for task in tasks}
    # Records of all tasks exist from the start, so that a run that is killed leaves a full list.
    for task in missing:
        _write_waiting_record(task)

    problems: list[str] = []
    notes: list[str] = []
    paths = {task.name: task.record_path for task in tasks}

    def check_ledger(record: Record) -> None:
        problem = _compare_with_ledger(record, paths[record.name], options.to_ledger)
        if problem:
            problems.append(problem)
        elif options.to_ledger and record.ok:
            notes.extend(list_kept(record, ledger_dir()))

    # A kept result is compared again: the ledger may have changed since.
    for record in kept.values():
        check_ledger(record)
    try:
        with Progress(len(missing), jobs=options.jobs, expected=expected) as progress:
            dispatch_tasks(
                _order_tasks(missing, expected, options.jobs), pool, progress, check_ledger
            )
    finally:  # after Ctrl-C too, everything that has run is reported
        if kept:
            print_line(f"done before, and kept: {', '.join(kept)}")
        records = [_read_final_record(task) for task in tasks]
        _report_records(records, out)
        for line in [*problems, *notes]:
            print_line(f"ledger: {line}")
    if problems:
        raise LedgerError("; ".join(problems))
    return records


def _find_finished(tasks: Sequence[Task]) -> dict[str, Record]:
    """Map the name of each task that an earlier run has finished to its record."""
    kept = {}
    for task in tasks:
        record = task.find_finished_record()
        if record is not None:
            kept[task.name] = record
    return kept


def _compare_with_ledger(record: Record, path: Path, to_ledger: bool) -> str | None:
    """Note flipped verdicts in the record, and write it into the ledger if `to_ledger`.

    Args:
        record: of a lesson that has ended; its `flips` are updated.
        path: the file of the record, rewritten if the flips have changed.
        to_ledger: whether to record the verdicts.
    Returns:
        why the ledger could not be read or written, else None. Such a problem does not fail the
        lesson.
    """
    if not record.machine:  # the lesson has not begun
        return None
    problem, before = None, record.flips
    try:
        record.flips = find_flips(record, ledger_dir())
        if record.flips != before:
            record.save(path)
    except (OSError, ValueError) as error:
        problem = str(error) if record.ok else None
    if not (to_ledger and record.ok):
        return problem
    # Recording replaces a damaged ledger file, so an error of reading it no longer matters.
    try:
        keep_record(record, ledger_dir())
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _write_waiting_record(task: Task) -> None:
    """Write a record with the status `waiting`, and remove the outputs of earlier runs."""
    record = task.make_record()  # built first: it counts the attempts of the earlier record
    task.remove_outputs()
    try:
        record.save(task.record_path)
    except OSError as error:
        raise LessonError(
            f"{task.record_path} cannot be written: {error.strerror}. "
            f"Free some space, or choose another --out."
        ) from error


def _order_tasks(
    tasks: list[Task], expected: Mapping[str, ExpectedTimes | None], jobs: int
) -> list[Task]:
    """Order the tasks so that no core is idle for long; a single job keeps their order.

    Lessons that need the machine alone go first, then the longest lessons, so that none of these
    is left over at the end.
    """
    if jobs == 1:
        return tasks

    def rank_task(task: Task) -> tuple[bool, float]:
        times = expected[task.name]
        # An unknown duration counts as long.
        seconds = times.seconds if times else float("inf")
        # False sorts before True: lessons that run alone come first.
        return not needs_machine_alone(task.lesson), -seconds

    return sorted(tasks, key=rank_task)


def _read_final_record(task: Task) -> Record:
    """Read the record of a task from disk; a missing or damaged one counts as a failure."""
    gone = "its record was removed or damaged while the run was going on"
    return Record.find(task.record_path) or task.make_record(status="failed", reason=gone)


def _report_records(records: Sequence[Record], out: Path) -> None:
    """Write the page, then print the table.

    The page comes first: printing may fail if the reader of the output has gone.
    """
    last_line = f"Everything on one page: {out / PAGE}"
    try:
        write_reports(records, out)
    except OSError as error:
        last_line = f"{out / PAGE} cannot be written: {error.strerror}."
    print_line(f"{format_table(records)}\n\n{last_line}")
