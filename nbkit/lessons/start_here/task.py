"""What the lesson start_here measures beside its training: intervals to judge, and more seeds."""

from __future__ import annotations

from collections.abc import Sequence

from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio


def list_intervals(ends: Sequence[float]) -> list[tuple[float, float]]:
    """List every interval (low, high) between two of these ends, low below high.

    >>> list_intervals([0.1, 0.4, 0.8])
    [(0.1, 0.4), (0.1, 0.8), (0.4, 0.8)]
    """
    return [(low, high) for low in ends for high in ends if low < high]


def measure_growing_samples(
    ours: Sequence[float], theirs: Sequence[float], counts: Sequence[int]
) -> list[Interval]:
    """Measure the paired ratio of the first n seeds, for each n in `counts`.

    Args:
        ours: one value for each seed, of the arm in the numerator.
        theirs: the same seeds' values in the other arm.
        counts: how many seeds to use, at most all of them.

    >>> [interval.n for interval in measure_growing_samples([1, 2, 4], [2, 3, 9], [2, 3])]
    [2, 3]
    """
    # The first n of one fixed list: a longer sample contains the shorter one.
    return [paired_ratio(ours[:n], theirs[:n]) for n in counts]
