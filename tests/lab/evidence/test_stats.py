"""Intervals: against tables and closed forms, and over simulated experiments."""

import math

import numpy as np
import pytest

from nbkit.lab.evidence.intervals import Interval, make_interval
from nbkit.lab.evidence.stats import mean_interval, paired_difference, paired_ratio

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
        ([1.0, 1.0], 0, "between 0 and 1, got 0"),
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
    interval = paired_ratio([1.1, 1.2, lost, 1.3, 1.4, 1.5], [1.0] * 6)
    assert (interval.estimate, interval.low, interval.high) == (1.35, 1.1, math.inf)
    assert paired_ratio([1.0, 2.0, 3.0, lost], [1.0] * 4).estimate == 2.5


@pytest.mark.parametrize("lost", [math.inf, math.nan])
def test_a_diverged_denominator_opens_the_interval_below(lost):
    interval = paired_ratio([1.0] * 6, [0.5, 0.8, lost, 1.0, 0.4, 0.625])
    assert (interval.estimate, interval.low, interval.high) == ((1.25 + 1.6) / 2, 0.0, 2.5)
    every = paired_ratio([1.0] * 8, [lost] * 8)
    assert (every.estimate, every.low, every.high, every.n) == (0.0, 0.0, 0.0, 8)
    both = paired_ratio([lost, 1.0] + [1.0] * 6, [1.0, lost] + [1.0] * 6)
    assert (both.estimate, both.low, both.high) == (1.0, 0.0, math.inf)


def test_a_pair_in_which_both_diverged_is_left_out_and_not_counted():
    lost = math.inf
    interval = paired_ratio([lost, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [math.nan] + [1.0] * 6)
    assert (interval.estimate, interval.low, interval.high) == (3.5, 1.0, 6.0)
    assert str(interval).endswith("n = 6)")
    one = paired_ratio([lost, 2.0], [lost, 1.0])
    assert (one.estimate, one.low, one.high, one.n) == (2.0, 0.0, lost, 1)


def test_few_seeds_with_a_diverged_run_bound_nothing_below():
    """The lowest of n lies above the median with probability 2^-n: 1 in 32 at 5, 1 in 64 at 6.

    (Two-sided at 95 % asks for 1 in 40.)
    """
    assert paired_ratio([2.0] * 4 + [math.inf], [1.0] * 5).low == 0.0
    six = paired_ratio([2.0] * 5 + [math.inf], [1.0] * 6)
    assert (six.low, six.at(0.99).low) == (2.0, 0.0)


def test_one_diverged_run_of_many_keeps_the_interval_open():
    assert paired_ratio([0.5] * 19 + [math.inf], [1.0] * 20).high == math.inf


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [1.0, 2.0], "same seeds on both sides, got 1 and 2"),
        ([1.0, 1.0], [1.0, 0.0], "denominator must be positive"),
        ([1.0, 1.0], [1.0, -math.inf], "denominator must be positive"),
        ([math.inf] * 2, [math.nan] * 2, "both runs of all 2 pairs diverged: nothing is left"),
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


def test_a_difference_is_paired_and_signed():
    seed = np.array([0.1, 0.5, 0.9])
    interval = paired_difference(seed + np.array([0.01, 0.02, 0.03]), seed)
    half = T_975[2] * 0.01 / math.sqrt(3)
    assert interval.estimate == pytest.approx(0.02)
    assert (interval.low, interval.high) == pytest.approx((0.02 - half, 0.02 + half))
    assert paired_difference(seed, seed + 0.25).high < 0
    with pytest.raises(ValueError, match="same seeds on both sides, got 3 and 2"):
        paired_difference(seed, seed[:2])


def test_differences_that_are_equal_but_for_rounding_have_no_width():
    interval = paired_difference([0.93, 0.95, 0.91], [0.90, 0.92, 0.88])
    assert interval.low == interval.high == pytest.approx(0.03)
    ratio = paired_ratio([0.1 * 3, 0.3, 1.1], [0.1, 0.1, 1.1 / 3])
    assert ratio.low == ratio.high == pytest.approx(3)
    small = paired_difference([1.0, 1.0 + 1e-6, 1.0], [1.0] * 3)  # more than rounding
    assert small.low < small.high


@pytest.mark.parametrize("make", [mean_interval, lambda x, **k: paired_ratio(x, [1.0] * 4, **k)])
def test_an_interval_can_be_asked_again_at_another_confidence(make):
    values = [1.0, 2.0, 4.0, 3.0]
    assert make(values, confidence=0.8).at(0.95) == make(values)
    again = make(values, over="timings").at(0.5)
    assert (again.over, again.confidence, again.n) == ("timings", 0.5, 4)
    assert make(values).low < again.low < again.high < make(values).high


def test_a_ratio_at_any_confidence_stays_a_float():
    assert paired_ratio([1.0, 9.0], [1.0, 1.0]).at(1 - 1e-12).high == math.inf


def test_an_interval_says_what_was_repeated():
    assert str(Interval(1, 0, 2, 5, over="timings")).endswith("n = 5 timings)")
    with pytest.raises(ValueError, match="over must be one of seeds, .*, got 'digits'"):
        make_interval(0, lambda _: (0, 0), 3, over="digits")


def test_bca_leans_to_the_side_of_the_long_tail_and_repeats():
    values = np.exp(np.random.default_rng(0).normal(size=60))
    t, bca = mean_interval(values), mean_interval(values, method="bca")
    assert bca.high - bca.estimate > 1.2 * (bca.estimate - bca.low)  # t's sides are equal
    assert t.low < bca.low
    assert mean_interval(values, method="bca") == bca
    assert bca.low < bca.at(0.5).low < bca.at(0.5).high < bca.high


def test_bca_agrees_with_t_where_nothing_is_skewed():
    values = np.arange(100.0)
    t, bca = mean_interval(values), mean_interval(values, method="bca")
    assert (bca.low, bca.high) == pytest.approx((t.low, t.high), abs=0.3)  # of a width of 11.5


@pytest.mark.parametrize(
    ("n", "method", "message"),
    [(49, "bca", "'bca' needs 50 values, got 49"), (50, "bootstrap", "'t' or 'bca', got 'boot")],
)
def test_a_method_that_would_mislead_is_refused(n, method, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(range(n), method=method)
