"""Intervals: against tables and closed forms, and over simulated experiments."""

import math

import numpy as np
import pytest

from nbkit.lab.stats import Interval, compare, first_step, mean_interval, paired_ratio

T_975 = {2: 4.302653, 7: 2.364624}  # Student's t, 97.5 %, by degrees of freedom: any table


def test_mean_interval_against_the_table():
    values = [1.0, 2.0, 4.0]
    interval = mean_interval(values)
    half = T_975[2] * np.std(values, ddof=1) / math.sqrt(3)
    assert interval.estimate == pytest.approx(7 / 3)
    assert interval.low == pytest.approx(7 / 3 - half, rel=1e-6)
    assert interval.high == pytest.approx(7 / 3 + half, rel=1e-6)
    assert (interval.n, interval.confidence) == (3, 0.95)


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([0.1] * 4) == Interval(0.1, 0.1, 0.1, 4)


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        ([1.0], 0.95, "at least 2 values, got 1"),
        ([1.0, math.nan], 0.95, "needs finite values"),
        ([1.0, 2.0], 95, "between 0 and 1, got 95"),
    ],
)
def test_mean_interval_refuses(values, confidence, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, confidence=confidence)


def test_paired_ratio_is_geometric_and_paired():
    a, b = [2.0, 8.0], [1.0, 2.0]
    interval = paired_ratio(a, b)
    assert interval.estimate == pytest.approx(math.sqrt(2.0 * 4.0))
    swapped = paired_ratio(b, a)
    assert swapped.estimate == pytest.approx(1 / interval.estimate)
    assert swapped.low == pytest.approx(1 / interval.high)


def test_pairing_removes_what_the_seed_does_to_both():
    seed = np.array([1.0, 10.0, 100.0, 1000.0])
    interval = paired_ratio(seed * [1.1, 1.2, 1.1, 1.2], seed)
    assert 1.05 < interval.low < interval.high < 1.25


@pytest.mark.parametrize("lost", [math.inf, math.nan])
def test_a_diverged_run_opens_the_interval(lost):
    interval = paired_ratio([1.1, lost, 1.3], [1.0, 1.0, 1.0])
    assert (interval.estimate, interval.low, interval.high) == (1.3, 1.1, math.inf)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [1.0, 2.0], "same seeds on both sides, got 1 and 2"),
        ([1.0, 1.0], [1.0, 0.0], "denominator must be positive"),
        ([1.0, 1.0], [1.0, math.inf], "denominator must be positive and finite"),
        ([1.0, -1.0], [1.0, 1.0], "numerator must be positive"),
    ],
)
def test_paired_ratio_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_ratio(a, b)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """1,500 experiments of 8 seeds with a true ratio of 1.2: 95 % of the intervals hold it.

    Within 93 to 97 %: over three standard errors of a share of 1,500 on either side.
    """
    random = np.random.default_rng(0)
    seed_effect = np.exp(random.normal(0, 1.0, (1500, 8)))
    ratios = 1.2 * np.exp(random.normal(0, 0.3, (1500, 8)))
    held = 0
    for base, ratio in zip(seed_effect, ratios, strict=True):
        interval = paired_ratio(base * ratio, base)
        held += interval.low <= 1.2 <= interval.high
    assert 0.93 < held / 1500 < 0.97


@pytest.mark.parametrize(
    ("losses", "others", "start"),
    [
        ([1.0, 1.1], [2.0, 2.1], "a ends lower than b: ratio of losses 0.512 ["),
        ([2.0, 2.1], [1.0, 1.1], "a ends higher than b: ratio"),
        ([1.0, 2.0], [2.0, 1.0], "a and b cannot be told apart: ratio of losses 1 ["),
        ([1.0, math.inf], [2.0, 1.0], "a diverged with 1 of 2 seeds, b with 0 of 2"),
        ([math.nan, math.inf], [2.0, math.inf], "a diverged with 2 of 2 seeds, b with 1 of 2"),
    ],
)
def test_compare_says_which_ends_lower(losses, others, start):
    assert compare("a", losses, "b", others).startswith(start)


def test_first_step():
    steps = [5, 10, 15]
    assert first_step([0.1, 0.9, 0.95], steps, at_least=0.9) == 10
    assert first_step([0.1, math.nan, 0.2], steps, at_least=0.9) == math.inf
    with pytest.raises(ValueError, match="got 2 values and 3 steps"):
        first_step([0.1, 0.2], steps, at_least=0.9)
