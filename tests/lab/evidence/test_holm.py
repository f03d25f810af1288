"""Holm's adjustment, of p-values and of the verdicts of a report."""

import math

import numpy as np
import pytest

from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.multiple_tests import adjust_p_values, adjust_verdicts
from nbkit.lab.evidence.stats import paired_difference, paired_ratio
from nbkit.lab.evidence.verdicts import judge


def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 not below the one before it."""
    assert adjust_p_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_p_values([0.6, 0.7]) == [1.0, 1.0]
    assert adjust_p_values([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjust_p_values([0.1, math.nan])


def test_holm_keeps_any_false_rejection_at_most_5_percent():
    """4,000 families of five true nulls; without it, 23 % of them reject something."""
    p = np.random.default_rng(0).random((4000, 5))
    wrong = sum(min(adjust_p_values(row)) <= 0.05 for row in p.tolist())
    assert (p.min(axis=1) <= 0.05).mean() > 0.2
    assert 0.04 < wrong / 4000 < 0.06


def told(name, effect, *, kind="difference above", margin=0.0):
    """A verdict over four seeds whose differences have that mean and standard deviation 1."""
    values = np.array([-1.0, 1.0, -1.0, 1.0]) * math.sqrt(3 / 4) + effect
    measured = paired_difference(values, [0.0] * 4)
    claim = Claim(name, "01_x", "s.", "w", "m", *kind.split(), 4, margin=margin)
    return judge(claim, measured).to_dict()


def test_verdicts_that_stand_alone_may_fall_together():
    """t = 2 * 2 = 4 has p = 0.028: alone SUPPORTED, as one of two not."""
    alone, strong = told("weak", 2.0), told("strong", 20.0)
    assert (alone["verdict"], adjust_verdicts([alone])[0]["verdict_holm"]) == (
        "SUPPORTED",
        "SUPPORTED",
    )
    (weak, other) = adjust_verdicts([alone, told("null", 0.1)])
    assert (weak["verdict"], weak["verdict_holm"]) == ("SUPPORTED", "INCONCLUSIVE")
    assert weak["p_holm"] == pytest.approx(2 * 0.028, abs=2e-3)
    assert (other["verdict_holm"], other["p_holm"]) == (
        "INCONCLUSIVE",
        pytest.approx(0.854, abs=2e-3),
    )
    weak, strong = adjust_verdicts([alone, strong])  # step down: the strong one is out of the way
    assert (weak["verdict_holm"], strong["verdict_holm"]) == ("SUPPORTED", "SUPPORTED")


def test_a_refutation_is_adjusted_too():
    refuted = told("r", -2.0)
    assert refuted["verdict"] == "REFUTED"
    assert adjust_verdicts([refuted, told("null", 0.1)])[0]["verdict_holm"] == "INCONCLUSIVE"


def test_what_is_no_test_is_not_counted_and_keeps_its_verdict():
    alone = told("weak", 2.0)
    exact = judge(Claim("e", "01_x", "s.", "w", "m", "equality", None, 2), [True, True]).to_dict()
    few = Claim("f", "01_x", "s.", "w", "m", "ratio", "below", 9, margin=1.0)
    skipped = judge(few, paired_ratio([1.0, 2.0], [3.0, 4.0])).to_dict()
    after = adjust_verdicts([alone, exact, skipped])
    assert [v["verdict_holm"] for v in after] == ["SUPPORTED", "SUPPORTED", "SKIPPED"]
    assert [v["p_holm"] is None for v in after] == [False, True, True]
    assert "p_holm" not in alone


def test_an_interval_written_by_hand_is_counted_and_cannot_stand():
    claim = Claim("h", "01_x", "s.", "w", "m", "ratio", "below", 4, margin=1.0)
    by_hand = judge(claim, Interval(0.5, 0.4, 0.6, 4)).to_dict()
    assert (by_hand["verdict"], by_hand["p_value"]) == ("SUPPORTED", None)
    weak, hand = adjust_verdicts([told("weak", 2.0), by_hand])
    assert (hand["verdict_holm"], weak["verdict_holm"]) == ("INCONCLUSIVE", "INCONCLUSIVE")
