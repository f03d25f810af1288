"""Submit tasks to an executor, follow their records, and see that each record is closed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any

from nbkit.course.record import RUNNING, WAITING, Record
from nbkit.course.run.interrupts import ignore_interrupts
from nbkit.course.run.one_lesson import STOPPED, run_task
from nbkit.course.run.progress import Progress
from nbkit.course.run.tasks import Task
from nbkit.course.run.worker_watch import WorkerWatch

TICK_SECONDS = 0.05  # between two looks at the futures
STOP_SECONDS = 30  # for the lessons to record where they were stopped


def dispatch_tasks(
    tasks: Sequence[Task],
    executor: Any,
    progress: Progress,
    on_finish: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Run the tasks and return their records, in the order of the tasks.

    Args:
        tasks: in the order in which they are to begin.
        executor: from `open_executor`.
        progress: shows where the tasks are.
        on_finish: called with the record of each task that has ended.
    Raises:
        KeyboardInterrupt: after Ctrl-C, when all tasks have stopped and all records say so.
    """
    dispatch = Dispatch(tasks, executor, progress, on_finish)
    patience = max((task.timeout for task in tasks), default=0.0)
    watch = WorkerWatch(executor, patience, progress.show_sentence)
    try:
        dispatch.submit_tasks()
        while dispatch.futures:
            dispatch.collect_results()
            progress.read_records(dispatch.list_open_tasks())
            reason = watch.find_reason()
            if reason:
                dispatch.give_up(reason)
            sleep(TICK_SECONDS)
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C ends the waiting
            dispatch.stop_tasks()
        ignore_interrupts()  # a third one must not leave a record open
        dispatch.close_records()
        raise
    return [dispatch.records[task.name] for task in tasks]


class Dispatch:
    """Hold the futures of the tasks that have not ended, and the records of those that have.

    Args:
        tasks: in the order in which they are to begin.
        executor: from `open_executor`.
        progress: shows that a task has ended.
        on_finish: called with the record of each task that has ended.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        executor: Any,
        progress: Progress,
        on_finish: Callable[[Record], None],
    ) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.executor, self.progress, self.on_finish = executor, progress, on_finish
        self.futures: dict[str, Any] = {}  # an entry leaves when its task has ended
        self.records: dict[str, Record] = {}

    def submit_tasks(self) -> None:
        """Submit all tasks to the executor, which decides how many run at once."""
        for name, task in self.tasks.items():
            self.futures[name] = self.executor.submit(run_task, task)

    def list_open_tasks(self) -> list[Task]:
        """List the tasks that have not ended."""
        return [self.tasks[name] for name in self.futures]

    def collect_results(self, cancelled: str = "its executor cancelled it") -> None:
        """Take the record of each future that is done.

        Args:
            cancelled: the reason for the record of a future that was cancelled.
        """
        for name, future in list(self.futures.items()):
            if future.done():
                self.futures.pop(name)
                self._finish_task(_read_result(self.tasks[name], future, cancelled))

    def give_up(self, reason: str) -> None:
        """Cancel every task that has not ended, and record the reason."""
        for name in list(self.futures):
            self.futures.pop(name).cancel()
            self._finish_task(close_open_record(self.tasks[name], reason))

    def stop_tasks(self) -> None:
        """Stop the running tasks, cancel the waiting ones, and wait a while for their records."""
        for task in list(self.tasks.values())[:1]:  # all tasks have the same token
            if task.token is not None:
                # Running tasks stop when they find that the file has gone.
                task.token[0].unlink(missing_ok=True)
        for future in self.futures.values():
            future.cancel()
        end = monotonic() + STOP_SECONDS
        while self.futures and monotonic() < end:
            self.collect_results(cancelled=STOPPED)
            sleep(TICK_SECONDS)

    def close_records(self) -> None:
        """Close the records that are still open after Ctrl-C."""
        for name, task in self.tasks.items():
            late = name in self.futures and not self.futures[name].done()
            close_open_record(task, f"{STOPPED}, and has not answered" if late else STOPPED)

    def _finish_task(self, record: Record) -> None:
        self.records[record.name] = record
        self.progress.finish_lesson(record)
        self.on_finish(record)


def close_open_record(task: Task, reason: str) -> Record:
    """Close the record on disk with a reason if it still says `waiting` or `running`.

    A record that was running keeps the number of its cell.
    """
    record = Record.find(task.record_path) or task.make_record()
    if record.status == WAITING:
        reason = f"not begun: {reason}"
    if record.status in (WAITING, RUNNING):
        record.close(reason, record.cell)
        with contextlib.suppress(OSError):  # on a full disk the open record stays
            record.save(task.record_path)
    return record


def _read_result(task: Task, future: Any, cancelled: str) -> Record:
    """Return the record from a future; after an error, the record on disk with that error."""
    if future.cancelled():
        return close_open_record(task, cancelled)
    try:
        record: Record = future.result()
    except Exception as error:  # a worker died, or its machine does not see the folder
        return close_open_record(task, f"{type(error).__name__}: {error}")
    return record
