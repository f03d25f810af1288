"""Hold an effect and its uncertainty: one interval for every kind of measurement.

Four kinds of noise are kept apart: an `Interval` names what was repeated ("seeds", "test examples",
"timings" in fresh processes, "rounds" of one process). Repeating a timing says nothing about
another seed, and eight seeds that share 300 test digits say nothing about other digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

from nbkit.lab.cost.busy import Load

NOISE = ("seeds", "test examples", "timings", "rounds")
# A function from a confidence to the low and the high end.
Bounds = Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    """An effect with the interval that holds its true value with the given confidence.

    `low` and `high` may be infinite, because a run that diverged has no finite loss. `over` names
    what was repeated `n` times. `at(confidence)` is the same measurement's interval at another
    confidence; None for an interval that was written down by hand. For a timing, `values` are the
    numbers it was computed from, and `load` is what else the machine did: a timing on a busy
    machine decides nothing.
    """

    estimate: float
    low: float
    high: float
    n: int
    confidence: float = 0.95
    over: str = "seeds"
    # Not compared: two intervals with the same numbers are equal, however they were made.
    at: Callable[[float], Interval] | None = field(default=None, repr=False, compare=False)
    values: tuple[float, ...] = field(default=(), repr=False, compare=False)
    load: Load | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.over not in NOISE:
            raise ValueError(f"over must be one of {', '.join(NOISE)}, got {self.over!r}.")

    def __str__(self) -> str:
        # Seeds are the usual case, and are not named.
        what = "" if self.over == "seeds" else f" {self.over}"
        return (
            f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}] "
            f"({self.confidence:.0%} interval, n = {self.n}{what})"
        )

    def to_dict(self) -> dict[str, float | int | str]:
        """Return the numbers for JSON; an open end is infinite there, too."""
        return {
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "confidence": self.confidence,
            "over": self.over,
        }


def make_interval(
    estimate: float, bounds: Bounds, n: int, confidence: float = 0.95, over: str = "seeds"
) -> Interval:
    """Make an interval that can be asked again `at` another confidence.

    Args:
        estimate: the effect.
        bounds: function from a confidence to the low and the high end.
        n: number of repetitions.
        confidence: between 0 and 1.
        over: what was repeated, one of NOISE.
    Raises:
        ValueError: if the confidence is not between 0 and 1.

    >>> make_interval(0.0, lambda confidence: (-confidence, confidence), n=9).at(0.5).high
    0.5
    """

    def make_at(confidence: float) -> Interval:
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
        low, high = bounds(confidence)
        # The interval carries this function, so that it can be asked again.
        return Interval(estimate, float(low), float(high), n, confidence, over, make_at)

    return make_at(confidence)


def add_drift(ratio: Interval, drift: float) -> Interval:
    """Widen the interval of a ratio by what its repetitions cannot show.

    The processes of one measurement run within a few minutes, and agree better with each other than
    with those of an hour later. Both errors are independent, so their widths add up as squares, on
    the logarithmic scale.

    Args:
        ratio: the interval over the processes.
        drift: standard deviation of the ratio's logarithm from one measurement to the next, beyond
            what its processes show.

    >>> print(add_drift(Interval(2.0, 2.0, 2.0, 9, over="timings"), 0.1))
    2 [1.64, 2.43] (95% interval, n = 9 timings)
    """

    def find_bounds(confidence: float) -> tuple[float, float]:
        inner = ratio if ratio.at is None else ratio.at(confidence)
        by_drift = drift * NormalDist().inv_cdf((1 + confidence) / 2)
        if inner.low <= 0 or math.isinf(inner.high):
            return inner.low, inner.high  # an open end has no width to add to
        below = math.hypot(math.log(inner.estimate / inner.low), by_drift)
        above = math.hypot(math.log(inner.high / inner.estimate), by_drift)
        return inner.estimate * math.exp(-below), inner.estimate * math.exp(above)

    return make_interval(ratio.estimate, find_bounds, ratio.n, ratio.confidence, ratio.over)
