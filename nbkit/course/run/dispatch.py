"""Hand the tasks to an executor, watch their records grow, and see to it that each has an end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep
from typing import Any

from nbkit.course.record import RUNNING, WAITING, Record
from nbkit.course.run.interrupts import ignore_interrupts
from nbkit.course.run.one_lesson import STOPPED, run_task
from nbkit.course.run.progress import Progress
from nbkit.course.run.tasks import Task
from nbkit.course.run.worker_watch import WorkerWatch

TICK_SECONDS = 0.05
STOP_SECONDS = 30  # for the lessons to note where they were stopped


def drive(
    tasks: Sequence[Task],
    executor: Any,
    progress: Progress,
    finished: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Run the tasks; a record of each, in their order, whichever ended first.

    Args:
        tasks: in the order in which they are to begin.
        executor: as `open_executor` gives it.
        progress: is shown what is on disk.
        finished: called with each record.
    Raises:
        KeyboardInterrupt: after Ctrl-C, when all that ran has stopped and all records say so.
    """
    futures: dict[str, Any] = {}
    records: dict[str, Record] = {}
    by_name = {task.name: task for task in tasks}

    def collect(reason: str | None = None) -> None:
        for name, future in list(futures.items()):
            if future.done():
                futures.pop(name)
                note(_result(by_name[name], future, reason))

    def note(record: Record) -> None:
        records[record.name] = record
        progress.finish(record)
        finished(record)

    patience = max((task.timeout for task in tasks), default=0.0)
    watch = WorkerWatch(executor, patience, progress.tell)
    try:
        for task in tasks:
            futures[task.name] = executor.submit(run_task, task)
        while futures:
            collect()
            progress.look([by_name[name] for name in futures])
            if reason := watch.find_reason():
                for name in list(futures):
                    futures.pop(name).cancel()
                    note(mark(by_name[name], reason))
            sleep(TICK_SECONDS)
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C: wait no longer
            _stop(tasks, futures, lambda: collect(STOPPED))
        ignore_interrupts()  # what has happened is written down, however often it is pressed
        for task in tasks:
            late = task.name in futures and not futures[task.name].done()
            mark(task, f"{STOPPED}, and has not answered" if late else STOPPED)
        raise
    return [records[task.name] for task in tasks]


def _stop(tasks: Sequence[Task], futures: Mapping[str, Any], collect: Callable[[], None]) -> None:
    """Stop what runs, drop what waits, and wait until all have said so, but not for ever."""
    for task in tasks[:1]:
        if task.token is not None:
            task.token[0].unlink(missing_ok=True)  # this is what stops them
    for future in futures.values():
        future.cancel()
    end = monotonic() + STOP_SECONDS
    while futures and monotonic() < end:
        collect()
        sleep(TICK_SECONDS)


def mark(task: Task, reason: str) -> Record:
    """Close the record on disk with a reason; where it was running, it says in which cell."""
    record = Record.find(task.record_path) or task.record()
    if record.status == WAITING:
        reason = f"not begun: {reason}"
    if record.status in (WAITING, RUNNING):
        record.close(reason, record.cell)
        with contextlib.suppress(OSError):  # a full disk: what stands there is as true as before
            record.save(task.record_path)
    return record


def _result(task: Task, future: Any, reason: str | None) -> Record:
    """The record that a future brings; one that brings an error is marked with it."""
    if future.cancelled():
        return mark(task, reason or "its executor cancelled it")
    try:
        return future.result()
    except Exception as error:  # a worker that died, a machine without the folder, ...
        return mark(task, f"{type(error).__name__}: {error}")
