"""Intervals for paired measurements: how large is an effect, and how sure are we.

Two arms share their seeds, so they are compared seed by seed: what the seed does to both cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An effect with the interval that holds its true value with the given confidence.

    `low` and `high` may be infinite: a run that diverged has no finite loss, and the interval says
    so.
    """

    estimate: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def __str__(self) -> str:
        return (
            f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}] "
            f"({self.confidence:.0%} interval, n = {self.n})"
        )


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """The mean of independent values and its Student t interval.

        mean ± t((1 + confidence) / 2, n - 1) · s / √n

    Args:
        values: at least two finite numbers, one a seed.
        confidence: between 0 and 1.
    Raises:
        ValueError: if there are fewer than two values, one is not finite, or the confidence is not
            between 0 and 1.

    The interval is exact for normal values and close for averages of many steps; it assumes that
    seeds are independent. Source: Student 1908, through scipy.stats.

    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> interval.estimate, round(interval.low, 3), round(interval.high, 3)
    (2.0, -0.484, 4.484)
    """
    values = [float(value) for value in values]
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}: add seeds.")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"an interval needs finite values, got {values}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    from scipy import stats

    mean = math.fsum(values) / len(values)
    if min(values) == max(values):  # no spread: scipy would divide by zero
        return Interval(mean, mean, mean, len(values), confidence)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    return Interval(mean, float(low), float(high), len(values), confidence)


def paired_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, confidence: float = 0.95
) -> Interval:
    """The geometric mean of the ratios, pair by pair, and its interval.

        exp(mean ± t · s / √n)  of  log(numerator_i / denominator_i)

    Args:
        numerator: positive numbers, one a seed; `inf` or `nan` stands for a run that diverged.
        denominator: positive finite numbers of the same seeds, in the same order.
        confidence: between 0 and 1.
    Raises:
        ValueError: if the two differ in length, a number is not positive, or the denominator is not
            finite.

    Where runs of the numerator diverged, no finite average stands for them: the estimate is then
    the median of the ratios and the interval reaches from the smallest ratio to infinity.

    >>> print(paired_ratio([2.0, 2.2, 1.8], [1.0, 1.0, 1.0]))
    1.99 [1.55, 2.56] (95% interval, n = 3)
    """
    if len(numerator) != len(denominator):
        raise ValueError(
            f"pairs need the same seeds on both sides, got {len(numerator)} and {len(denominator)}."
        )
    if not all(math.isfinite(value) and value > 0 for value in denominator):
        raise ValueError(f"the denominator must be positive and finite, got {list(denominator)}.")
    if any(value <= 0 for value in numerator):
        raise ValueError(f"the numerator must be positive, got {list(numerator)}.")

    ratios = [
        a / b if math.isfinite(a) else math.inf for a, b in zip(numerator, denominator, strict=True)
    ]
    if not all(math.isfinite(ratio) for ratio in ratios):
        ordered = sorted(ratios)
        return Interval(ordered[len(ordered) // 2], ordered[0], math.inf, len(ratios), confidence)
    log = mean_interval([math.log(ratio) for ratio in ratios], confidence=confidence)
    return Interval(
        math.exp(log.estimate), math.exp(log.low), math.exp(log.high), log.n, confidence
    )


def compare(name: str, losses: Sequence[float], other: str, others: Sequence[float]) -> str:
    """One sentence about two arms with the same seeds, whatever became of them.

    >>> compare("mine", [1.0, 1.1, 1.2], "theirs", [2.0, 2.1, 2.3])
    'mine ends lower than theirs: ratio of losses 0.515 [0.483, 0.549] (95% interval, n = 3)'
    """
    lost, lost_too = (sum(not math.isfinite(x) for x in arm) for arm in (losses, others))
    if lost or lost_too:
        n = len(losses)
        return f"{name} diverged with {lost} of {n} seeds, {other} with {lost_too} of {n}"

    ratio = paired_ratio(losses, others)
    if ratio.high < 1:
        side = f"{name} ends lower than {other}"
    elif ratio.low > 1:
        side = f"{name} ends higher than {other}"
    else:
        side = f"{name} and {other} cannot be told apart"
    return f"{side}: ratio of losses {ratio}"


def first_step(values: Sequence[float], steps: Sequence[int], *, at_least: float) -> float:
    """The first of the steps at which the value is at least that; infinity where it never is.

    >>> first_step([0.2, 0.6, 0.9, 0.8], steps=[10, 20, 30, 40], at_least=0.9)
    30.0
    """
    if len(values) != len(steps):
        raise ValueError(f"one value a step, got {len(values)} values and {len(steps)} steps.")

    return next((float(s) for v, s in zip(values, steps, strict=True) if v >= at_least), math.inf)
