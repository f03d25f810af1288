"""Estimate how long a run still takes, from earlier runs and from its own pace so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from glob import escape

from nbkit.course.ledger import ledger_dir
from nbkit.course.record import OK, Record
from nbkit.course.run.tasks import Task


@dataclass(frozen=True)
class ExpectedTimes:
    """Hold how long a lesson took the last time, in seconds; `cells` is empty where unknown."""

    seconds: float
    cells: tuple[float, ...] = ()

    def estimate_left(self, cell: int, elapsed: float, in_cell: float) -> float:
        """Estimate the seconds left in a lesson.

        Args:
            cell: number of the cell that runs, from 1 on.
            elapsed: seconds since the lesson began.
            in_cell: seconds since the cell began.

        If this run has been slower than the last one, the remaining cells are expected to be
        slower by the same factor.
        """
        if not self.cells or cell > len(self.cells):
            return estimate_overrun(self.seconds, elapsed)
        # Half of the time outside of cells is the kernel's start, the other half the page.
        around = max((self.seconds - sum(self.cells)) / 2, 0.0)
        here = self.cells[cell - 1]
        due = around + sum(self.cells[: cell - 1]) + min(in_cell, here)
        # Damp the pace, elapsed / due, because a few early seconds say little about it.
        doubt = self.seconds / 2
        pace = max((elapsed + doubt) / (due + doubt), 1.0) if self.seconds else 1.0
        return estimate_overrun(here, in_cell) + pace * (sum(self.cells[cell:]) + around)


def estimate_overrun(seconds: float, elapsed: float) -> float:
    """Estimate the seconds left of something that took `seconds` the last time.

    If it is late, it is expected to take as long again as it is late already. So the estimate
    grows with the delay and never stays at zero.
    """
    return abs(seconds - elapsed)


def find_expected_times(task: Task) -> ExpectedTimes | None:
    """Find how long the task took the last time with these parameters; None if unknown.

    Searches the output folder, the folders beside it and the ledger. Records with times of cells
    come first, then the newest.
    """
    beside = task.out.parent.glob(f"*/{escape(task.name)}.json")
    in_ledger = ledger_dir().glob(f"*/{escape(task.lesson)}.json")
    best = None
    # Of two equally good records the first counts: the one in the output folder itself.
    for path in (task.record_path, *beside, *in_ledger):
        record = Record.find(path)
        if record is None or record.status != OK or record.parameters != task.values:
            continue
        if best is None or _rank_record(record) > _rank_record(best):
            best = record
    if best is None:
        return None
    seconds = tuple(cell.get("seconds") or 0.0 for cell in best.cells)
    return ExpectedTimes(best.seconds, seconds)


def _rank_record(record: Record) -> tuple[bool, str]:
    """Return the key by which records are compared: the times of cells, then the start."""
    return bool(record.cells), record.started


def estimate_lesson_left(
    expected: ExpectedTimes | None, cell: int, cells: int, elapsed: float, in_cell: float
) -> float | None:
    """Estimate the seconds left in a lesson, with or without an earlier run to compare with.

    Args:
        expected: times of an earlier run, if there is one.
        cell: number of the cell that runs, from 1 on.
        cells: number of cells in the lesson.
        elapsed: seconds since the lesson began.
        in_cell: seconds since the cell began.
    Returns:
        None in the first cell if there is no earlier run.
    """
    if expected is not None:
        return expected.estimate_left(cell, elapsed, in_cell)
    if cell < 2:
        return None
    # Without an earlier run, take the mean time of the cells before this one for each cell.
    typical = (elapsed - in_cell) / (cell - 1)
    # At first the cell has the typical time left; once it is late, as much as it is late already.
    here = max(typical, in_cell - typical)
    return here + (cells - cell) * max(typical, elapsed / cell)


def estimate_run_left(
    running: Iterable[float | None],
    waiting: Iterable[float | None],
    typical: float | None,
    jobs: int,
) -> float | None:
    """Estimate the seconds left in a run: the sum over the lessons, shared by the jobs.

    Args:
        running: seconds left of each lesson that runs; None where unknown.
        waiting: seconds that each waiting lesson takes; None where unknown.
        typical: seconds that replace the unknown ones.
        jobs: number of lessons to run at once.
    Returns:
        at least the time of the longest lesson; None if a time is unknown and `typical` is too.
    """
    known = []
    for seconds in (*running, *waiting):
        seconds = typical if seconds is None else seconds
        if seconds is None:
            return None
        known.append(seconds)
    # Jobs share the lessons, but a single lesson takes its time: the longest is a lower bound.
    return max(sum(known) / jobs, *known) if known else None


def format_time_left(seconds: float) -> str:
    """Format a time: `about 40 s left`, `about 3 min left`, `about 2 h left`."""
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.0f} h left"
