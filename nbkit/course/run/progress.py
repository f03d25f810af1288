"""Show where a run is: `1 of 3 done, about 40 s left  02_b cell 12 of 27, about 20 s left`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TextIO

from nbkit.course.console import write_text
from nbkit.course.record import RUNNING, Record
from nbkit.course.run.tasks import Task
from nbkit.course.run.time_left import (
    ExpectedTimes,
    estimate_lesson_left,
    estimate_overrun,
    estimate_run_left,
    format_time_left,
)

READ_SECONDS = 1  # between two looks at the records
LOG_SECONDS = 10  # between two lines in a log


@dataclass
class RunningLesson:
    """Note in which cell a lesson is, and since when."""

    name: str
    began: float
    cell: int | None = None
    cells: int = 0
    cell_began: float = 0.0

    def estimate_left(self, expected: ExpectedTimes | None, now: float) -> float | None:
        """Estimate the seconds left in the lesson; None where nothing is known about it."""
        elapsed = now - self.began
        if self.cell is not None:
            in_cell = now - self.cell_began
            return estimate_lesson_left(expected, self.cell, self.cells, elapsed, in_cell)
        # Before its first cell, a lesson that is already over its time gets no estimate.
        if expected and expected.seconds > elapsed:
            return expected.seconds - elapsed
        return None

    def describe(self, left: float | None, now: float) -> str:
        """Describe the place: `02_b cell 12 of 27, 14 s, about 20 s left`."""
        place = f" cell {self.cell} of {self.cells}" if self.cell is not None else ""
        ending = f", {format_time_left(left)}" if left is not None else ""
        return f"{self.name}{place}, {now - self.began:.0f} s{ending}"


class Progress:
    """Show a run's progress: at a terminal one line each second, in a log a line every ten.

    Args:
        lessons: number of lessons in the run.
        stream: where to write; default stderr, because stdout is for the table.
        jobs: number of lessons that run at once.
        expected: times of earlier runs by name, where known.
    """

    def __init__(
        self,
        lessons: int,
        stream: TextIO | None = None,
        jobs: int = 1,
        expected: Mapping[str, ExpectedTimes | None] | None = None,
    ) -> None:
        self.lessons, self.jobs = lessons, jobs
        self.stream = stream or sys.stderr
        self.expected = expected or {}
        # stderr is None where the shell has closed it.
        self.terminal = self.stream is not None and self.stream.isatty()
        self.running: dict[str, RunningLesson] = {}
        self.waiting: list[str] = []
        self.durations: list[float] = []  # of the finished lessons, in seconds
        self._shown = 0  # characters of the line that the next one replaces
        self._read_at, self._logged_at = -float("inf"), monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._write_line("", lasting=False)

    def read_records(self, tasks: Sequence[Task]) -> None:
        """Show where the unfinished tasks are, from their records on disk, at most once a second.

        The records are the only source that also works with an executor on other machines.
        """
        now = monotonic()
        if now - self._read_at < READ_SECONDS:
            return
        self._read_at = now
        running: dict[str, Record] = {}
        waiting = []
        for task in tasks:
            record = Record.find(task.record_path)
            if record is not None and record.status == RUNNING:
                running[task.name] = record
            else:
                waiting.append(task.name)
        self.show_lessons(running, waiting)

    def show_lessons(self, running: Mapping[str, Record], waiting: Sequence[str]) -> None:
        """Show where the running lessons are, given their records."""
        now = monotonic()
        # Compared with what was shown before, so this comes before the update.
        new = [name for name in running if name not in self.running]
        self.waiting = list(waiting)
        self._update_running(running, now)
        if self.terminal:
            self._write_line(self.format_line(), lasting=False)
            return
        for name in new:
            self._write_line(f"{self._count_done()}  {name} begins", lasting=True)
        if self.running and now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            self._write_line(self.format_line(), lasting=True)

    def _update_running(self, records: Mapping[str, Record], now: float) -> None:
        """Take over the cells from the records, and forget lessons that have no record here."""
        self.running = {
            name: self.running.get(name) or RunningLesson(name, now) for name in records
        }
        for name, record in records.items():
            lesson = self.running[name]
            # The record has no time of the cell: it began when it was first seen here.
            if record.cell is not None and record.cell != lesson.cell:
                lesson.cell, lesson.cells = record.cell, record.cell_count or record.cell
                lesson.cell_began = now

    def show_sentence(self, sentence: str) -> None:
        """Show a sentence that stays visible."""
        self._write_line(sentence, lasting=True)

    def finish_lesson(self, record: Record) -> None:
        """Show that a lesson has ended, and count it as done."""
        self.running.pop(record.name, None)
        self.durations.append(record.seconds)
        text = f"{self._count_done()}  {record.name}  {record.seconds:.1f} s"
        if record.attempts:
            text += f"  (attempts cut off before this one: {len(record.attempts)})"
        if not record.ok:
            text += f"  FAILED: {record.reason}"
        self._write_line(text, lasting=True)

    def format_line(self) -> str:
        """Format the number of finished lessons, the running ones with their cells, and times."""
        now = monotonic()
        left = {
            name: lesson.estimate_left(self.expected.get(name), now)
            for name, lesson in self.running.items()
        }
        total = self._estimate_total(left, now)
        # Two spaces separate the parts, because each of them contains commas.
        parts = [self._count_done()]
        if total is not None:
            parts[0] += f", {format_time_left(total)}"
        for name, lesson in self.running.items():
            parts.append(lesson.describe(left[name], now))
        return "  ".join(parts)

    def _count_done(self) -> str:
        return f"{len(self.durations)} of {self.lessons} done"

    def _estimate_total(self, left: Mapping[str, float | None], now: float) -> float | None:
        """Estimate the seconds left in the whole run, from those left in the running lessons."""
        waiting = []
        for name in self.waiting:
            times = self.expected.get(name)
            waiting.append(times.seconds if times else None)
        # The mean over the lessons with a known time stands in for the others.
        known = self.durations + [seconds for seconds in waiting if seconds is not None]
        typical = sum(known) / len(known) if known else None
        running = []
        for name, seconds in left.items():
            if seconds is None and typical is not None:
                seconds = estimate_overrun(typical, now - self.running[name].began)
            running.append(seconds)
        return estimate_run_left(running, waiting, typical, self.jobs)

    def _write_line(self, text: str, *, lasting: bool) -> None:
        """Write a line in place of the one before; a lasting line is not replaced later."""
        if self.terminal:
            if not lasting:
                # A line that wraps leaves a second line, which could not be replaced.
                text = text[: shutil.get_terminal_size().columns - 1]
            # Spaces over the old line: an escape code would not work on every terminal.
            write_text(self.stream, "\r" + " " * self._shown + "\r")
        if text:
            write_text(self.stream, text + ("\n" if lasting else ""))
        self._shown = 0 if lasting else len(text)
