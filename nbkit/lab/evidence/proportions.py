"""Count, with intervals: how many of the seeds diverged, how many digits were right."""

from __future__ import annotations

import math

from nbkit.base.numbers import read_integer
from nbkit.lab.evidence.intervals import Interval, make_interval


def proportion(k: int, n: int, *, confidence: float = 0.95, over: str = "seeds") -> Interval:
    """Compute the share `k` of `n` and its Wilson score interval.

    Args:
        k: number of cases in which it happened, from 0 to n.
        n: number of cases, at least 1, independent of each other.
        confidence: between 0 and 1.
        over: what was counted: "seeds" or "test examples".
    Raises:
        ValueError: if k is not from 0 to n, or an argument has another value than these.

    The interval stays between 0 and 1, and has a width where k is 0 or n.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference;
    computed by scipy.stats.binomtest.

    >>> print(proportion(0, 8))
    0 [0, 0.324] (95% interval, n = 8)
    """
    k, n = _read_k_of_n(k, n)
    from scipy.stats import binomtest

    test = binomtest(k, n)

    def bounds_at(confidence: float) -> tuple[float, float]:
        low, high = test.proportion_ci(confidence, method="wilson")
        return low, high

    return make_interval(k / n, bounds_at, n, confidence, over)


def proportion_difference(
    k: int, n: int, other_k: int, other_n: int, *, confidence: float = 0.95
) -> Interval:
    """Compute how much more often it happened in one arm: `k / n - other_k / other_n`.

    Args:
        k, n: in the first arm, the number of runs in which it happened, and the number of runs.
        other_k, other_n: the same for the second arm.
        confidence: between 0 and 1.
    Raises:
        ValueError: if a count is not from 0 to its n, or the confidence not between 0 and 1.

    The interval is Newcombe's, made of the two Wilson intervals. Barnard's exact test decides
    whether it may exclude zero: where the test cannot tell the arms apart, zero is included. Runs
    with the same seed count as independent, which errs on the careful side when seeds that are
    hard for one arm are hard for the other. The 95 % interval of 12 against 12 runs holds the truth
    95 % of the time on average over true shares from 5 to 95 %, and at worst 90 %.

    Source: Newcombe 1998, Interval Estimation for the Difference Between Independent Proportions,
    method 10; Barnard 1947, Significance Tests for 2x2 Tables, by scipy.stats.barnard_exact.

    >>> print(proportion_difference(1, 16, 12, 16))
    -0.688 [-0.844, -0.358] (95% interval, n = 16)
    """
    one, other = proportion(k, n), proportion(other_k, other_n)
    p_value = barnard_p_value(k, n, other_k, other_n)
    difference = one.estimate - other.estimate

    def bounds_at(confidence: float) -> tuple[float, float]:
        assert one.at is not None and other.at is not None
        a, b = one.at(confidence), other.at(confidence)
        # The distances of the two shares to their own bounds add like independent errors.
        low = difference - math.hypot(a.estimate - a.low, b.high - b.estimate)
        high = difference + math.hypot(a.high - a.estimate, b.estimate - b.low)
        if p_value <= 1 - confidence:
            return low, high
        return min(low, 0.0), max(high, 0.0)

    return make_interval(difference, bounds_at, min(n, other_n), confidence)


def barnard_p_value(k: int, n: int, other_k: int, other_n: int) -> float:
    """Compute the two-sided p-value of "both arms are hit equally often" by Barnard's exact test.

    Raises:
        ValueError: if a count is not from 0 to its n.

    The test is more powerful than Fisher's, because it does not take the total number of hits as
    given.

    Source: Barnard 1947, Significance Tests for 2x2 Tables, by scipy.stats.barnard_exact.

    >>> round(barnard_p_value(7, 15, 12, 15), 3)
    0.068
    """
    k, n = _read_k_of_n(k, n)
    other_k, other_n = _read_k_of_n(other_k, other_n)
    from scipy.stats import barnard_exact

    # One column for each arm; the rows are the runs that were hit, and the others.
    table = [[k, other_k], [n - k, other_n - other_k]]
    return float(barnard_exact(table).pvalue)


def binomial_p_value(share: Interval, margin: float) -> float:
    """Compute the two-sided p-value of "the true share is the margin" by the exact binomial test.

    >>> round(binomial_p_value(proportion(4, 16), 0.1), 3)
    0.068
    """
    from scipy.stats import binomtest

    # The interval holds the share; the test needs the count.
    count = round(share.estimate * share.n)
    return float(binomtest(count, share.n, margin).pvalue)


def accuracy_interval(correct: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Compute the accuracy of one trained model, and its uncertainty from the test set.

    Args:
        correct: number of test examples that the model got right.
        total: number of test examples.
        confidence: between 0 and 1.
    Raises:
        ValueError: if `correct` is not from 0 to `total`, or the confidence not between 0 and 1.

    The interval covers test-set noise only: the accuracy over all examples that could have been
    drawn. Another seed, or another timing, is other noise; no claim over seeds is judged by this
    interval.

    Source: Wilson 1927, through `proportion`.

    >>> print(accuracy_interval(285, 300))
    0.95 [0.919, 0.969] (95% interval, n = 300 test examples)
    """
    return proportion(correct, total, confidence=confidence, over="test examples")


def _read_k_of_n(k: int, n: int) -> tuple[int, int]:
    """Read a count and its total as ints; numpy's and torch's whole numbers count, too."""
    some, total = read_integer(k), read_integer(n)
    if some is None or total is None or not (total >= 1 and 0 <= some <= total):
        raise ValueError(f"a count is a whole number from 0 to n >= 1, got {k!r} of {n!r}.")
    return some, total
