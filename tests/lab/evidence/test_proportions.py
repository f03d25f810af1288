"""Counts: against tables, and over every outcome that can happen."""

import math

import pytest
from scipy.stats import binom

from nbkit.lab.evidence.proportions import (
    accuracy_interval,
    barnard_p_value,
    proportion,
    proportion_difference,
)


def wilson(k, n, z=1.959964):
    """The formula of 1927, as any textbook has it."""
    p, centre = k / n, (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * p * (1 - p) + z * z / 4)
    return centre - half, centre + half


@pytest.mark.parametrize(("k", "n"), [(0, 8), (8, 8), (1, 8), (7, 50), (285, 300)])
def test_proportion_is_wilsons(k, n):
    interval = proportion(k, n)
    assert (interval.estimate, interval.n, interval.over) == (k / n, n, "seeds")
    assert (interval.low, interval.high) == pytest.approx(wilson(k, n), abs=1e-6)
    assert proportion(k, n, confidence=0.5).at(0.95) == interval


@pytest.mark.parametrize(("k", "n"), [(-1, 8), (9, 8), (0, 0), (0.5, 8)])
def test_a_count_that_is_none_is_refused(k, n):
    with pytest.raises(ValueError, match="whole number from 0 to n"):
        proportion(k, n)
    with pytest.raises(ValueError, match="whole number from 0 to n"):
        barnard_p_value(1, 2, k, n)


def test_an_accuracy_says_that_its_noise_is_the_test_sets():
    interval = accuracy_interval(285, 300)
    assert (interval.n, interval.over) == (300, "test examples")
    assert 0.015 < interval.high - interval.estimate < interval.estimate - interval.low < 0.035


def test_barnard_against_the_published_example():
    """Mehta and Senchaudhuri 2003: 7 of 15 vaccinated infected, 12 of 15 not; one-sided 0.034."""
    assert barnard_p_value(7, 15, 12, 15) == pytest.approx(2 * 0.034, abs=0.001)
    assert barnard_p_value(0, 8, 0, 8) == 1.0


def test_the_difference_against_the_published_example():
    """Newcombe 1998, table II, (a): 56/70 - 48/80 by method 10 is 0.0524 to 0.3339."""
    interval = proportion_difference(56, 70, 48, 80)
    assert interval.estimate == pytest.approx(0.2)
    assert (interval.low, interval.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    mirrored = proportion_difference(48, 80, 56, 70)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))


def test_barnard_decides_whether_zero_is_left_out():
    """3 of 4 against 0 of 4: Newcombe's interval leaves out zero, Barnard's p is 0.07."""
    interval = proportion_difference(3, 4, 0, 4)
    assert barnard_p_value(3, 4, 0, 4) > 0.05
    assert interval.low == 0.0 < interval.at(0.9).low


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5])
def test_arms_hit_equally_often_are_told_apart_at_most_5_percent_of_the_time(rate):
    """Exactly: the probability of every outcome of 10 against 10 runs, summed."""
    chance = binom.pmf(range(11), 10, rate)
    wrong = sum(
        chance[k] * chance[j]
        for k in range(11)
        for j in range(11)
        if not (interval := proportion_difference(k, 10, j, 10)).low <= 0 <= interval.high
    )
    assert wrong <= 0.05
