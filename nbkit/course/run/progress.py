"""Where a run is: `1 of 3 done, about 40 s left  02_b cell 12 of 27, about 20 s left`."""

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
    Expected,
    in_words,
    left_of_lesson,
    left_of_run,
    left_of_whole,
)


@dataclass
class Place:
    """A lesson that runs: in which cell, and since when."""

    name: str
    began: float
    cell: int | None = None
    cells: int = 0
    cell_began: float = 0.0

    def left(self, expected: Expected | None, now: float) -> float | None:
        """Seconds left in it; None where there is nothing to go by."""
        elapsed = now - self.began
        if self.cell is None:
            return expected.seconds - elapsed if expected and expected.seconds > elapsed else None
        return left_of_lesson(expected, self.cell, self.cells, elapsed, now - self.cell_began)


class Progress:
    """Shows the run's place: one line at a terminal, each second, a line every ten in a log.

    Args:
        lessons: how many there will be.
        stream: where to, stderr by default: stdout is for the table.
        jobs: how many run at a time.
        expected: what each takes, by name, where that is known.
    """

    def __init__(
        self,
        lessons: int,
        stream: TextIO | None = None,
        jobs: int = 1,
        expected: Mapping[str, Expected | None] | None = None,
    ) -> None:
        self.lessons, self.jobs = lessons, jobs
        self.stream = stream or sys.stderr
        self.expected = expected or {}
        self.terminal = self.stream is not None and self.stream.isatty()
        self.places: dict[str, Place] = {}
        self.waiting: list[str] = []
        self.took: list[float] = []
        self._shown = 0
        self._looked, self._said = -float("inf"), monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._write("", lasting=False)

    def look(self, tasks: Sequence[Task]) -> None:
        """Read from the records where the tasks that are not done are, once a second."""
        now = monotonic()
        if now - self._looked < 1:
            return
        self._looked = now
        records = {task.name: Record.find(task.record_path) for task in tasks}
        running = {n: r for n, r in records.items() if r is not None and r.status == RUNNING}
        self.show(running, [name for name in records if name not in running])

    def show(self, running: Mapping[str, Record], waiting: Sequence[str]) -> None:
        """Say where these lessons are, as their records have it."""
        now = monotonic()
        self.waiting = list(waiting)
        new = [name for name in running if name not in self.places]
        self.places = {name: self.places.get(name) or Place(name, now) for name in running}
        for name, record in running.items():
            place = self.places[name]
            if record.cell is not None and record.cell != place.cell:
                place.cell, place.cells = record.cell, record.cell_count or record.cell
                place.cell_began = now
        if self.terminal:
            self._write(self.line(), lasting=False)
            return
        for name in new:
            self._write(f"{len(self.took)} of {self.lessons} done  {name} begins", lasting=True)
        if self.places and now - self._said >= 10:
            self._said = now
            self._write(self.line(), lasting=True)

    def tell(self, sentence: str) -> None:
        """Show a sentence that stays."""
        self._write(sentence, lasting=True)

    def finish(self, record: Record) -> None:
        """A lesson has ended."""
        self.places.pop(record.name, None)
        self.took.append(record.seconds)
        text = f"{len(self.took)} of {self.lessons} done  {record.name}  {record.seconds:.1f} s"
        if record.attempts:
            text += f"  (attempts cut off before this one: {len(record.attempts)})"
        self._write(text if record.ok else f"{text}  FAILED: {record.reason}", lasting=True)

    def line(self) -> str:
        """How many are done, which ones run and where they are, and the time remaining."""
        now = monotonic()
        left = {
            name: place.left(self.expected.get(name), now) for name, place in self.places.items()
        }
        waiting = [times.seconds if (times := self.expected.get(n)) else None for n in self.waiting]
        known = [*self.took, *(seconds for seconds in waiting if seconds is not None)]
        typical = sum(known) / len(known) if known else None
        running = [left[name] for name in left]
        if typical is not None:
            elapsed = [now - place.began for place in self.places.values()]
            guess = [left_of_whole(typical, seconds) for seconds in elapsed]
            running = [g if r is None else r for r, g in zip(running, guess, strict=True)]
        rest = left_of_run(running, waiting, typical, self.jobs)
        words = [f"{len(self.took)} of {self.lessons} done"]
        words[0] += f", {in_words(rest)}" if rest is not None else ""
        for name, place in self.places.items():
            here = f" cell {place.cell} of {place.cells}" if place.cell is not None else ""
            seconds = left[name]
            after = f", {in_words(seconds)}" if seconds is not None else ""
            words.append(f"{name}{here}, {now - place.began:.0f} s{after}")
        return "  ".join(words)

    def _write(self, text: str, *, lasting: bool) -> None:
        """Put a line over the one before; a lasting one stays."""
        if self.terminal:
            if not lasting:
                text = text[: shutil.get_terminal_size().columns - 1]  # a second line would stay
            write_text(self.stream, "\r" + " " * self._shown + "\r")
        if text:
            write_text(self.stream, text + ("\n" if lasting else ""))
        self._shown = 0 if lasting else len(text)
