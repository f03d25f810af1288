"""Where a run is, on one line: `lesson 1 of 3  01_lr_finder  cell 12 of 27  14 s`."""

from __future__ import annotations

import sys
import threading
from time import monotonic
from typing import TextIO

from nbkit.course.record import Record


class Progress:
    """Shows the run's place, each second at a terminal and every ten in a log, until it is left.

    Args:
        lessons: how many there will be.
        stream: where to, stderr by default: stdout is for the table.
    """

    def __init__(self, lessons: int, stream: TextIO | None = None) -> None:
        self.lessons = lessons
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.number, self.name, self.place, self.began = 0, "", "", monotonic()
        self._shown = 0
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._ticker.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._ticker.join()
        self._write("", lasting=False)

    def start(self, name: str) -> None:
        """A lesson begins."""
        self.number, self.name, self.place, self.began = self.number + 1, name, "", monotonic()
        self._write(self.line(), lasting=not self.terminal)

    def cell(self, cell: int, cells: int) -> None:
        """A cell of it begins."""
        self.place = f"cell {cell} of {cells}  "
        if self.terminal:
            self._write(self.line(), lasting=False)

    def finish(self, record: Record) -> None:
        """It has ended."""
        text = f"lesson {self.number} of {self.lessons}  {self.name}  {record.seconds:.1f} s"
        self._write(text if record.ok else f"{text}  FAILED: {record.reason}", lasting=True)
        self.name = ""

    def line(self) -> str:
        """Which lesson and cell, and for how long."""
        seconds = monotonic() - self.began
        lesson = f"lesson {self.number} of {self.lessons}  {self.name}"
        return f"{lesson}  {self.place}{seconds:.0f} s"

    def _tick(self) -> None:
        while not self._done.wait(1 if self.terminal else 10):
            if self.name:
                self._write(self.line(), lasting=not self.terminal)

    def _write(self, text: str, *, lasting: bool) -> None:
        """Put a line over the one before; a lasting one stays."""
        with self._lock:
            if self.terminal:
                self.stream.write("\r" + " " * self._shown + "\r")
            if text:
                self.stream.write(text + ("\n" if lasting else ""))
            self._shown = 0 if lasting else len(text)
            self.stream.flush()
