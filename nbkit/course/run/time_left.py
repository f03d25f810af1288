"""How long it will still take: from the last run of the same, or from how it has gone so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from glob import escape

from nbkit.course.ledger import ledger_dir
from nbkit.course.record import OK, Record
from nbkit.course.run.tasks import Task


@dataclass(frozen=True)
class Expected:
    """What a lesson took the last time; `cells` may be empty, then only the whole is known."""

    seconds: float
    cells: tuple[float, ...] = ()

    def left(self, cell: int, elapsed: float, in_cell: float) -> float:
        """Seconds that are left in that cell, the cells after it, and what comes after them.

        Where this run has been slower so far than the last one, the cells after this one will be.
        """
        if not self.cells or cell > len(self.cells):
            return left_of_whole(self.seconds, elapsed)
        around = max((self.seconds - sum(self.cells)) / 2, 0.0)  # starting the kernel, the page
        here = self.cells[cell - 1]
        due = around + sum(self.cells[: cell - 1]) + min(in_cell, here)
        doubt = self.seconds / 2  # a few early seconds say little about the pace
        pace = max((elapsed + doubt) / (due + doubt), 1.0) if self.seconds else 1.0
        return left_of_whole(here, in_cell) + pace * (sum(self.cells[cell:]) + around)


def left_of_whole(seconds: float, elapsed: float) -> float:
    """Seconds left of something that took `seconds` the last time.

    When it takes longer, as much is expected again as it is already late: the estimate grows with
    the delay, and never stays at zero.
    """
    return abs(seconds - elapsed)


def expect(task: Task) -> Expected | None:
    """What the task took the last time with these parameters; None where nobody knows.

    Looked for in this folder, the folders beside it, and the ledger; the newest counts.
    """
    beside = task.out.parent.glob(f"*/{escape(task.name)}.json")
    found = [task.record_path, *beside, *ledger_dir().glob(f"*/{escape(task.lesson)}.json")]
    records = [record for path in found if (record := Record.find(path))]
    fits = [r for r in records if r.status == OK and r.parameters == task.values]
    if not fits:
        return None
    best = max(fits, key=lambda record: (bool(record.cells), record.started))
    return Expected(best.seconds, tuple(cell.get("seconds") or 0.0 for cell in best.cells))


def left_of_lesson(
    expected: Expected | None, cell: int, cells: int, elapsed: float, in_cell: float
) -> float | None:
    """Seconds left in a lesson that is in that cell; None where there is nothing to go by."""
    if expected is not None:
        return expected.left(cell, elapsed, in_cell)
    if cell < 2:
        return None
    typical = (elapsed - in_cell) / (cell - 1)  # of the cells before this one
    here = max(typical, in_cell - typical)
    return here + (cells - cell) * max(typical, elapsed / cell)


def left_of_run(
    running: Iterable[float | None],
    waiting: Iterable[float | None],
    typical: float | None,
    jobs: int,
) -> float | None:
    """Seconds left in the run: all that is left, shared by the jobs, and no less than the longest.

    Args:
        running: what is left of each lesson that runs; None where it is not known.
        waiting: what each lesson takes that waits; None where it is not known.
        typical: stands in for what is not known.
        jobs: how many run at a time.
    """
    parts = [typical if part is None else part for part in (*running, *waiting)]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return max(sum(known) / jobs, *known)


def in_words(seconds: float) -> str:
    """`about 40 s left`, `about 3 min left`, `about 2 h left`."""
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.0f} h left"
