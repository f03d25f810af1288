"""Counts with their intervals: how many of the seeds diverged, how many digits were right."""

from __future__ import annotations

import math

from nbkit.base.numbers import read_integer
from nbkit.lab.evidence.intervals import Interval, make_interval


def proportion(k: int, n: int, *, confidence: float = 0.95, over: str = "seeds") -> Interval:
    """The share `k` of `n` and its Wilson score interval.

    Args:
        k: how many it happened to, from 0 to n.
        n: of how many, at least 1, independent of each other.
        confidence: between 0 and 1.
        over: what was counted: "seeds" or "test examples".
    Raises:
        ValueError: if k is not from 0 to n, or an argument is none of these.

    It stays between 0 and 1, and has a width where k is 0 or n.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference;
    computed by scipy.stats.binomtest.

    >>> print(proportion(0, 8))
    0 [0, 0.324] (95% interval, n = 8)
    """
    k, n = _read_count(k, n)
    from scipy.stats import binomtest

    test = binomtest(k, n)
    return make_interval(
        k / n, lambda level: test.proportion_ci(level, method="wilson"), n, confidence, over
    )


def proportion_difference(
    k: int, n: int, other_k: int, other_n: int, *, confidence: float = 0.95
) -> Interval:
    """How much more often it happened in one arm than in the other: `k / n - other_k / other_n`.

    Args:
        k, n: how many runs of the one arm it happened to, of how many.
        other_k, other_n: the same of the other arm.
        confidence: between 0 and 1.
    Raises:
        ValueError: if a count is not from 0 to its n, or the confidence not between 0 and 1.

    The interval is Newcombe's, of the two Wilson intervals. Whether it leaves out zero is for
    Barnard's exact test to say: where that does not tell the arms apart, zero is included. Runs
    with the same seed count as independent, which errs on the careful side when seeds that are
    hard for one arm are hard for the other. The 95 % interval of 12 against 12 runs holds the truth
    95 % of the time on average over true shares from 5 to 95 %, and at worst 90 %.

    Source: Newcombe 1998, Interval Estimation for the Difference Between Independent Proportions,
    method 10; Barnard 1947, Significance Tests for 2x2 Tables, by scipy.stats.barnard_exact.

    >>> print(proportion_difference(1, 16, 12, 16))
    -0.688 [-0.844, -0.358] (95% interval, n = 16)
    """
    one, other = proportion(k, n), proportion(other_k, other_n)
    p = barnard_p_value(k, n, other_k, other_n)
    difference = one.estimate - other.estimate

    def bounds(confidence: float) -> tuple[float, float]:
        assert one.at is not None and other.at is not None
        a, b = one.at(confidence), other.at(confidence)
        low = difference - math.hypot(a.estimate - a.low, b.high - b.estimate)
        high = difference + math.hypot(a.high - a.estimate, b.estimate - b.low)
        return (low, high) if p <= 1 - confidence else (min(low, 0.0), max(high, 0.0))

    return make_interval(difference, bounds, min(n, other_n), confidence)


def barnard_p_value(k: int, n: int, other_k: int, other_n: int) -> float:
    """The p-value of "both arms are hit equally often", two-sided, by Barnard's exact test.

    Raises:
        ValueError: if a count is not from 0 to its n.

    More powerful than Fisher's test: it does not take the total number hit as given.
    Source: Barnard 1947, Significance Tests for 2x2 Tables, by scipy.stats.barnard_exact.

    >>> round(barnard_p_value(7, 15, 12, 15), 3)
    0.068
    """
    k, n = _read_count(k, n)
    other_k, other_n = _read_count(other_k, other_n)
    from scipy.stats import barnard_exact

    return float(barnard_exact([[k, other_k], [n - k, other_n - other_k]]).pvalue)


def exact_p(share: Interval, margin: float) -> float:
    """The p-value of "the true share is the margin", two-sided, by the exact binomial test.

    >>> round(exact_p(proportion(4, 16), 0.1), 3)
    0.068
    """
    from scipy.stats import binomtest

    return float(binomtest(round(share.estimate * share.n), share.n, margin).pvalue)


def accuracy_interval(correct: int, total: int, *, confidence: float = 0.95) -> Interval:
    """The accuracy of one trained model, and what the test set leaves open about it.

    Args:
        correct: how many test examples the model got right.
        total: how many there are.
        confidence: between 0 and 1.
    Raises:
        ValueError: if `correct` is not from 0 to `total`, or the confidence not between 0 and 1.

    This is test-set noise and nothing else: where the accuracy would lie over all examples that
    could have been drawn. Another seed, or another run of the clock, is other noise; no claim over
    seeds is judged by this interval.

    Source: Wilson 1927, through `proportion`.

    >>> print(accuracy_interval(285, 300))
    0.95 [0.919, 0.969] (95% interval, n = 300 test examples)
    """
    return proportion(correct, total, confidence=confidence, over="test examples")


def _read_count(k: int, n: int) -> tuple[int, int]:
    some, total = read_integer(k), read_integer(n)
    if some is None or total is None or not (total >= 1 and 0 <= some <= total):
        raise ValueError(f"a count is a whole number from 0 to n >= 1, got {k!r} of {n!r}.")
    return some, total
