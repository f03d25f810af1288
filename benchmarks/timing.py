"""Time arms side by side in one process, and print what was measured beside what was promised.

Seconds on a busy machine say little; the ratio of two arms timed in turn says much, since what
slows one slows the other. A line that `report` prints reads: name, median, spread, bound, ok or
over.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nbkit.lab.cost.rounds import time_rounds
from nbkit.lab.cost.timing import time_call


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and the largest of what it is the median of."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Timing:
    """Seconds of each arm, one entry a round."""

    seconds: dict[str, list[float]]

    def of(self, arm: str) -> Spread:
        return Spread.of(self.seconds[arm])

    def ratio(self, arm: str, to: str) -> Spread:
        """Seconds of `arm` over those of `to`, paired by round."""
        pairs = zip(self.seconds[arm], self.seconds[to], strict=True)
        return Spread.of([a / b for a, b in pairs])


def interleaved(
    arms: dict[str, Callable[[], object]],
    repeats: int,
    *,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time every arm once a round by the kit's own timer, and compare them by their ratios.

    Where seconds are promised of one thread, `clock=time.process_time` leaves out the time that
    other programs held the core.
    """
    timers = {name: partial(time_call, name, arm, clock) for name, arm in arms.items()}
    return Timing(time_rounds(timers, repeats, max_warmup=warmup).seconds)


def report(name: str, measured: Spread, bound: float) -> bool:
    """Print one line; True if the median is within the bound."""
    within = measured.median <= bound
    spread = f"({measured.low:.3f}..{measured.high:.3f})"
    verdict = "ok" if within else "over"
    print(f"{name:<60} {measured.median:7.3f} {spread:>17}  <= {bound:<5g} {verdict}")
    return within
