"""Learn how long this machine takes for a number of seeds, and choose how many to begin with.

A picture that is sound within a second is worth more than one of all seeds that comes later. So a
move is answered with as many seeds as this machine trains in time, and the full number follows
while nobody moves anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nbkit.lab.knobs import Value

IN_TIME = 0.7  # seconds from a move to a finished picture, aimed at
TOO_LATE = 1.0  # a run that would take longer is begun again with fewer seeds
FIRST_LOOK = 0.15  # seconds after which a run's progress is looked at
LEAST = 3  # seeds: with fewer there is no interval worth showing


@dataclass(frozen=True)
class _Timed:
    """One run that has come to an end."""

    values: Mapping[str, Value]
    count: int
    seconds: float
    yields: int


class Pace:
    """Estimate the seconds of a run as overhead + per_seed * count, from the runs so far.

    Args:
        full: number of seeds of a complete run.
    """

    def __init__(self, full: int) -> None:
        self.full = full
        self._overhead = self._per_seed = 0.0
        self._last: _Timed | None = None

    def note_run(
        self, values: Mapping[str, Value], count: int, seconds: float, yields: int
    ) -> None:
        """Learn from a run that has come to an end.

        Args:
            values: of the knobs: another depth may take four times as long.
            count: number of seeds.
            seconds: from the move to the finished picture.
            yields: how often fit has yielded.
        """
        last = self._last
        if last is None:
            # One run says nothing about the slope: half of its time is taken for overhead.
            self._overhead, self._per_seed = seconds / 2, seconds / 2 / count
        elif last.values == values and last.count != count:
            # Two runs that differ in their number of seeds only: the line through both.
            slope = max(0.0, (seconds - last.seconds) / (count - last.count))
            # Noise may put the line below 0 at no seeds; then all of the time goes by the seeds.
            self._per_seed = min(slope, seconds / count)
            self._overhead = seconds - self._per_seed * count
        else:
            # Other values, or a busier machine: everything takes that much longer or shorter.
            factor = seconds / self.estimate_seconds(count)
            self._overhead *= factor
            self._per_seed *= factor
        self._last = _Timed(dict(values), count, seconds, yields)

    def estimate_seconds(self, count: int) -> float:
        """Estimate the seconds of a run with so many seeds."""
        return self._overhead + self._per_seed * count

    def choose_count(self) -> int:
        """Choose the largest number of seeds that ends in time, at least LEAST, at most all."""
        for count in range(self.full, LEAST, -1):
            if self.estimate_seconds(count) <= IN_TIME:
                return count
        return min(LEAST, self.full)

    def is_too_slow(self, count: int, seconds: float, yields: int) -> bool:
        """Return whether a run on its way will come too late, and fewer seeds could help.

        It compares how often fit has yielded so far with the run before. If it is too slow, the
        pace is corrected by what it would have taken.
        """
        if self._last is None or count <= LEAST or seconds < FIRST_LOOK or yields < LEAST:
            return False
        expected = seconds * self._last.yields / yields
        if expected <= TOO_LATE:
            return False
        factor = expected / self.estimate_seconds(count)
        self._overhead *= factor
        self._per_seed *= factor
        return True
