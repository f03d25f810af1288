"""Measure an effect in pairs: its size, and its uncertainty.

Two arms share their seeds, so they are compared seed by seed: whatever the seed does to both arms
cancels. Counts are in `proportions`; an `Interval` is defined in `intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from nbkit.lab.evidence.bounds import bca_bounds, median_bounds, student_bounds
from nbkit.lab.evidence.intervals import Interval, make_interval

# Relative to the larger of a pair: what two float32 numbers and their difference may lose.
ROUNDING = 2**-22
# With fewer values, a BCa interval holds the truth less often than t's does.
FEWEST_FOR_BCA = 50


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, method: str = "t", over: str = "seeds"
) -> Interval:
    """Compute the mean of independent values and its Student t or bootstrap interval.

        mean ± t((1 + confidence) / 2, n - 1) · s / √n

    Args:
        values: at least two finite numbers, one for each seed; 50 for "bca".
        confidence: between 0 and 1.
        method: "t", or "bca": bias-corrected and accelerated bootstrap, seeded, so that it repeats.
        over: what was repeated: "seeds", "test examples" or "timings".
    Raises:
        ValueError: if there are too few values, one is not finite, or an argument has another value
            than these.

    t is exact for normal values and close for averages of many steps; it assumes that seeds are
    independent. The rule: t for every verdict; losses and times, which are skewed, through
    `paired_ratio`, whose logarithms are not; "bca" only where it was chosen before the data were
    seen. It does not help with few values: over 2,000 simulated experiments the 95 % intervals (t,
    BCa) held the truth for 8 log-normal values 84 and 81 % of the time, for 50 of them 90 and
    91 %; for 8 normal values 95 and 88 %, for 50 of them 95 both.

    Rare events defeat it: if one seed in 33 collapses, 8 seeds miss it 78 % of the time (0.97^8),
    and the interval is then narrow about the mean of the others. Count such runs, with
    `proportions.proportion`. Where all values are the same the interval is that point:
    n copies of one number are one measurement, and no claim is decided by them.

    Source: Student 1908, The Probable Error of a Mean; Efron 1987, Better Bootstrap Confidence
    Intervals; both through scipy.stats.

    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> interval.estimate, round(interval.low, 3), round(interval.high, 3)
    (2.0, -0.484, 4.484)
    """
    values = [float(value) for value in values]
    _check_values_and_method(values, method)

    mean = math.fsum(values) / len(values)
    # Without spread, s is 0 and the t statistic would divide by it.
    if math.isclose(min(values), max(values), rel_tol=1e-12):
        return make_interval(mean, lambda _: (mean, mean), len(values), confidence, over)
    bounds = student_bounds(values) if method == "t" else bca_bounds(values)
    return make_interval(mean, bounds, len(values), confidence, over)


def _check_values_and_method(values: list[float], method: str) -> None:
    """Refuse values, or a method, of which no interval can be made."""
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 values, got {len(values)}: add seeds.")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"an interval needs finite values, got {values}.")
    if method not in ("t", "bca"):
        raise ValueError(f"method must be 't' or 'bca', got {method!r}.")
    if method == "bca" and len(values) < FEWEST_FOR_BCA:
        raise ValueError(f"'bca' needs {FEWEST_FOR_BCA} values, got {len(values)}: t holds better.")


def paired_difference(
    values: Sequence[float],
    others: Sequence[float],
    *,
    confidence: float = 0.95,
    method: str = "t",
    over: str = "seeds",
) -> Interval:
    """Compute the mean of the differences `values - others`, pair by pair, and its interval.

    Args:
        values: finite numbers, one for each seed.
        others: finite numbers for the same seeds, in the same order.
        confidence, method, over: as for `mean_interval`.
    Raises:
        ValueError: if the two differ in length, or `mean_interval` refuses the differences.

    Use it for accuracies, which may be zero; for losses and times use `paired_ratio`.

    Source: Student 1908, whose example is ten patients under two drugs.

    >>> print(paired_difference([0.91, 0.93, 0.92], [0.90, 0.91, 0.91]))
    0.0133 [-0.00101, 0.0277] (95% interval, n = 3)
    """
    _check_pairs(values, others)
    differences = [float(a) - float(b) for a, b in zip(values, others, strict=True)]
    # A difference is small where its two numbers are large: their size sets the rounding.
    largest = max(map(abs, [*values, *others]), default=0.0)
    differences = _remove_rounding(differences, largest)
    return mean_interval(differences, confidence=confidence, method=method, over=over)


def paired_ratio(
    numerator: Sequence[float],
    denominator: Sequence[float],
    *,
    confidence: float = 0.95,
    method: str = "t",
    over: str = "seeds",
) -> Interval:
    """Compute the geometric mean of the ratios, pair by pair, and its interval.

        exp(mean ± t · s / √n)  of  log(numerator_i / denominator_i)

    Args:
        numerator: positive numbers, one for each seed; `inf` or `nan` stands for a run that
            diverged.
        denominator: the same for the same seeds, in the same order.
        confidence, method, over: as for `mean_interval`.
    Raises:
        ValueError: if the two differ in length, a number is not positive, or both runs of every
            pair diverged.

    If a run diverged, no finite average stands for it: the estimate is then the median of the
    ratios, with infinity for a lost numerator and 0 for a lost denominator. The interval is that of
    the sign test (0 to infinity with fewer than 6 seeds), open on the side of the lost runs. A pair
    in which both runs were lost says nothing: it is left out, and n counts the other pairs.

    Source: Student 1908 for the logarithms; Thompson 1936 for the median, through scipy.stats.

    >>> print(paired_ratio([2.0, 2.2, 1.8], [1.0, 1.0, 1.0]))
    1.99 [1.55, 2.56] (95% interval, n = 3)
    """
    _check_pairs(numerator, denominator)
    for name, values in (("denominator", denominator), ("numerator", numerator)):
        if any(value <= 0 for value in values):
            raise ValueError(f"the {name} must be positive, got {list(values)}.")

    if not all(map(math.isfinite, [*numerator, *denominator])):
        ratios = _ratios_with_lost_runs(numerator, denominator)
        return make_interval(median(ratios), median_bounds(ratios), len(ratios), confidence, over)
    logs = [math.log(a / b) for a, b in zip(numerator, denominator, strict=True)]
    # The rounding of a ratio is relative, and so absolute in its logarithm: the size is 1.
    logs = _remove_rounding(logs, 1.0)
    log = mean_interval(logs, confidence=confidence, method=method, over=over)

    def bounds_at(confidence: float) -> tuple[float, float]:
        assert log.at is not None
        interval = log.at(confidence)
        return _exp_or_infinity(interval.low), _exp_or_infinity(interval.high)

    return make_interval(math.exp(log.estimate), bounds_at, log.n, confidence, over)


def _check_pairs(values: Sequence[float], others: Sequence[float]) -> None:
    if len(values) != len(others):
        raise ValueError(
            f"pairs need the same seeds on both sides, got {len(values)} and {len(others)}."
        )


def _remove_rounding(values: list[float], size: float) -> list[float]:
    """Replace values that differ by no more than rounding by their mean; return others unchanged.

    Args:
        values: numbers that were computed from numbers of the given size.
        size: the largest of those numbers.
    """
    if values and max(values) - min(values) <= ROUNDING * size:
        return [math.fsum(values) / len(values)] * len(values)
    return values


def _ratios_with_lost_runs(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Compute the ratios of the pairs in which at most one run diverged."""
    ratios = []
    for a, b in zip(numerator, denominator, strict=True):
        if math.isfinite(a) and math.isfinite(b):
            ratios.append(a / b)
        elif math.isfinite(a):
            ratios.append(0.0)
        elif math.isfinite(b):
            ratios.append(math.inf)
        # Both diverged: neither is the better one, and the pair says nothing.
    if not ratios:
        raise ValueError(
            f"both runs of all {len(numerator)} pairs diverged: nothing is left to compare. Take "
            "a smaller lr."
        )
    return ratios


def _exp_or_infinity(value: float) -> float:
    # exp(709.8) is the largest float; math.exp raises OverflowError beyond it.
    return math.exp(value) if value < 709 else math.inf
