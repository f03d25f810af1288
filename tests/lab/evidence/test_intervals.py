"""What a timing's interval gains by the drift from one hour to the next."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval, add_drift
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.evidence.verdicts import judge

CLAIM = Claim(
    "id", "lesson", "s.", "w", "m", "ratio", "below", 9, margin=1.0, over="timings", drift=0.2
)


def measure(rng, *, drift, spread=0.05, n=9):
    """One whole measurement of a true ratio of 1: its hour, and its processes."""
    hour = rng.normal(0, drift)
    return paired_ratio(np.exp(hour + rng.normal(0, spread, n)), np.ones(n), over="timings")


def test_with_its_drift_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    measured = [measure(rng, drift=0.1) for _ in range(1000)]
    with_it = sum(one.low <= 1 <= one.high for one in (add_drift(m, 0.1) for m in measured))
    without = sum(one.low <= 1 <= one.high for one in measured)
    assert 930 <= with_it <= 970  # 95 % of 1000, to three standard deviations of 7
    assert without < 700


def test_a_claim_is_judged_with_its_drift_and_keeps_what_was_measured():
    timed = replace(Interval(0.8, 0.75, 0.85, 9, over="timings"), values=(0.8,) * 9)
    verdict = judge(CLAIM, timed)
    assert verdict.verdict == "INCONCLUSIVE" and verdict.effect.values == timed.values
    assert judge(replace(CLAIM, drift=None), timed).verdict == "SUPPORTED"
    # ln(0.85 / 0.8) and 1.96 * 0.2, as the two sides of a right angle
    high = 0.8 * math.exp(math.hypot(math.log(0.85 / 0.8), 1.959964 * 0.2))
    assert verdict.effect.high == pytest.approx(high, rel=1e-6)


def test_the_widened_interval_can_be_asked_again():
    timed = measure(np.random.default_rng(1), drift=0.0)
    wide = add_drift(timed, 0.1)
    for confidence in (0.5, 0.9):
        inner, outer = timed.at(confidence), wide.at(confidence)
        assert outer.low < inner.low < inner.high < outer.high
    assert wide.at(0.5).high < wide.at(0.9).high < wide.high


def test_an_open_end_stays_open():
    assert add_drift(Interval(0.8, 0.0, math.inf, 1, over="timings"), 0.1).high == math.inf


@pytest.mark.parametrize("wrong", [{"over": "seeds"}, {"drift": 0.0}, {"drift": math.nan}])
def test_a_drift_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="drift"):
        replace(CLAIM, **wrong)
