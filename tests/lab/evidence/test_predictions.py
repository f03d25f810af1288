"""A prediction is scored by side, size and confidence; where nothing was decided it is not."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nbkit.lab.evidence.claims import SKIPPED, Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.predictions import Prediction
from nbkit.lab.evidence.verdicts import Verdict, judge

CLAIM = Claim("id", "01_x", "s.", "w", "a / b", "ratio", "below", 8, "y", "n", "o", margin=1.0)
BELOW, ABOVE, OPEN = Interval(0.5, 0.4, 0.6, 8), Interval(2.0, 1.5, 3.0, 8), Interval(1, 0.5, 2, 8)


@pytest.mark.parametrize(
    ("guess", "confidence", "measured", "right", "inside", "brier"),
    [
        (0.5, 90, BELOW, True, True, 0.01),
        (0.9, 90, BELOW, True, False, 0.01),
        (2.0, 90, BELOW, False, False, 0.81),
        (2.0, 60, ABOVE, True, True, 0.16),
        (0.5, 50, ABOVE, False, False, 0.25),
    ],
)
def test_score(guess, confidence, measured, right, inside, brier):
    score = Prediction(CLAIM, guess, confidence).score_against(judge(CLAIM, measured))
    assert (score.right, score.inside) == (right, inside)
    assert score.brier == pytest.approx(brier)
    assert score.to_dict()["guess"] == guess


def test_an_open_verdict_scores_nothing():
    score = Prediction(CLAIM, 0.5, 90).score_against(judge(CLAIM, OPEN))
    assert str(score) == "id: INCONCLUSIVE, so there is nothing to score"
    assert score.brier is None


def test_the_line_says_side_size_and_score():
    line = str(Prediction(CLAIM, 0.9, 90).score_against(judge(CLAIM, BELOW)))
    assert line == (
        "id: side right at 90 % confidence (Brier score 0.01, 0.25 is a coin), "
        "size outside the interval"
    )


def test_a_measurement_at_other_settings_is_another_question():
    made = Prediction(CLAIM, 0.5, 90, {"momentum": 0.9, "steps": 100, "width": 8})
    measured = replace(judge(CLAIM, BELOW), settings={"momentum": 0.5, "steps": 50, "width": 8})
    score = made.score_against(measured)
    assert (score.right, score.inside, score.brier) == (None, None, None)
    words = "made for momentum = 0.9, steps = 100, measured at 0.5, 50: not scored"
    assert str(score) == f"id: {words}"
    there = replace(measured, settings={**made.settings})
    assert made.score_against(there).right is True


def test_the_numbers_stand_in_front_of_the_score():
    score = Prediction(CLAIM, 0.9, 90).score_against(judge(CLAIM, BELOW))
    said = "you said 0.9, 90 % sure of the side; measured 0.5 [0.4, 0.6] (95% interval, n = 8). "
    assert score.describe_numbers() == said + str(score)
    needy = Claim(**{**vars(CLAIM), "needs": ("two gpus",)})
    nothing = Prediction(needy, 0.9, 90).score_against(Verdict(needy, SKIPPED, "needs two gpus"))
    assert "nothing was measured. id: SKIPPED" in nothing.describe_numbers()


@pytest.mark.parametrize("confidence", [49, 100])
def test_confidence_is_a_percentage_from_50_to_99(confidence):
    with pytest.raises(ValueError, match=f"from 50 .a coin. to 99, got {confidence}"):
        Prediction(CLAIM, 0.5, confidence)


def test_an_exact_claim_has_no_size():
    exact = Claim("id", "01_x", "s.", "w", "m", "equality", None, 8, "y", "n", "o")
    with pytest.raises(ValueError, match="id is exact"):
        Prediction(exact, 0.5, 90)


@pytest.mark.parametrize("guess", [math.nan, math.inf, -0.1, "0.5", None, True])
def test_a_guess_is_a_size_that_a_ratio_can_have(guess):
    with pytest.raises(ValueError, match=f"number from 0 to inf, .* ratio .* got {guess!r}"):
        Prediction(CLAIM, guess, 80)


@pytest.mark.parametrize(
    ("measure", "low", "high"), [("proportion", 0, 1), ("proportion_difference", -1, 1)]
)
def test_a_guess_of_a_share_lies_where_shares_lie(measure, low, high):
    claim = Claim("id", "01_x", "s.", "w", "m", measure, "below", 8, margin=0.5)
    for guess in (low - 0.1, high + 0.1):
        with pytest.raises(ValueError, match=f"from {low} to {high}, as a {measure[:10]}"):
            Prediction(claim, guess, 80)
    assert [Prediction(claim, guess, 80).guess for guess in (low, high)] == [low, high]


@pytest.mark.parametrize("confidence", [math.nan, 75.5, 75.0, "80", True, None])
def test_a_confidence_is_a_whole_number(confidence):
    with pytest.raises(ValueError, match=f"whole number of percent .* got {confidence!r}"):
        Prediction(CLAIM, 0.5, confidence)


def test_numbers_of_numpy_become_those_that_json_knows():
    prediction = Prediction(CLAIM, np.float32(0.5), np.int64(80))
    assert (type(prediction.guess), type(prediction.confidence)) == (float, int)
