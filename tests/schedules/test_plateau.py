"""A plateau cuts where torch's does, and also where torch's does not: at negative metrics."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from nbkit import Plateau, PlateauVerdict
from nbkit.schedules.plateau import PlateauState


def list_factors(plateau, metrics):
    """The factor after each metric."""
    state, factors = PlateauState(), []
    for metric in metrics:
        state, _ = plateau.judge_metric(state, metric)
        factors.append(plateau.find_factor(state))
    return factors


def list_torch_factors(plateau, metrics):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(
        optimizer,
        plateau.mode,
        factor=plateau.factor,
        patience=plateau.patience,
        threshold=plateau.threshold,
        eps=0.0,
    )
    factors = []
    for metric in metrics:
        scheduler.step(metric)
        factors.append(optimizer.param_groups[0]["lr"])
    return factors


POSITIVE = st.lists(st.floats(0.1, 10).map(lambda x: round(x, 2)), min_size=1, max_size=40)


@given(POSITIVE, st.integers(0, 4), st.sampled_from(["min", "max"]))
def test_for_positive_metrics_it_is_torchs(metrics, patience, mode):
    # No metric lies just on a bound of 1.3 %, where the two would round in their own ways.
    plateau = Plateau(0.5, patience, threshold=0.0131, mode=mode)
    assert list_factors(plateau, metrics) == pytest.approx(list_torch_factors(plateau, metrics))


@given(POSITIVE, st.integers(0, 4))
def test_a_loss_and_its_negative_gain_are_judged_alike(metrics, patience):
    losses = Plateau(patience=patience)
    gains = Plateau(patience=patience, mode="max")
    assert list_factors(losses, metrics) == list_factors(gains, [-metric for metric in metrics])


def test_a_negative_metric_that_stands_still_is_cut_and_torchs_is_not():
    plateau, metrics = Plateau(0.1, patience=2), [-1.0] * 10
    # One best, then cuts at the third, sixth and ninth that are not better.
    assert list_factors(plateau, metrics)[-1] == pytest.approx(0.1**3)
    assert list_factors(plateau, metrics) == list_factors(plateau, [1.0] * 10)
    assert list_torch_factors(plateau, metrics)[-1] == 1.0  # pytorch#47513
    assert list_torch_factors(plateau, [1.0] * 10)[-1] == pytest.approx(0.1**3)


def test_a_negative_metric_that_gets_worse_is_cut_and_torchs_is_not():
    metrics = [-1 + 1e-5 * k for k in range(10)]
    plateau = Plateau(0.1, patience=2, threshold=1e-4)
    assert list_factors(plateau, metrics)[-1] == pytest.approx(0.1**3)
    assert list_torch_factors(plateau, metrics)[-1] == 1.0


def test_a_negative_metric_that_falls_is_better():
    assert list_factors(Plateau(patience=0), [-1.0, -1.1, -1.3, -2.0]) == [1.0] * 4


def test_nan_is_not_better_and_is_never_the_best():
    plateau, state, verdicts = Plateau(patience=1), PlateauState(), []
    for metric in (math.nan, 2.0, math.nan, 1.0, math.nan, math.nan):
        state, verdict = plateau.judge_metric(state, metric)
        verdicts.append(verdict)
    assert verdicts == ["waiting", "better", "waiting", "better", "waiting", "cut"]
    assert state == PlateauState(1.0, 0, 1)


def test_infinity_is_a_metric():
    plateau, state = Plateau(patience=0), PlateauState()
    state, verdict = plateau.judge_metric(state, math.inf)
    assert verdict is PlateauVerdict.BETTER  # than none at all
    state, verdict = plateau.judge_metric(state, math.inf)
    assert verdict is PlateauVerdict.CUT
    state, verdict = plateau.judge_metric(state, 3.0)
    assert verdict is PlateauVerdict.BETTER and state.best == 3.0
    state, _ = plateau.judge_metric(state, -math.inf)
    assert plateau.judge_metric(state, -math.inf)[1] is PlateauVerdict.CUT


def test_the_threshold_is_a_share_of_the_best():
    plateau = Plateau(patience=0, threshold=0.1)
    assert list_factors(plateau, [1.0, 0.91])[-1] < 1
    assert list_factors(plateau, [1.0, 0.89])[-1] == 1
    assert list_factors(plateau, [-1.0, -1.09])[-1] < 1
    assert list_factors(plateau, [-1.0, -1.11])[-1] == 1


def test_a_tensor_is_a_metric_and_judging_changes_nothing():
    plateau, before = Plateau(), PlateauState(1.0, 2, 3)
    after, verdict = plateau.judge_metric(before, torch.tensor(0.5))
    assert (after, verdict) == (PlateauState(0.5, 0, 3), "better")
    assert before == PlateauState(1.0, 2, 3)


@pytest.mark.parametrize("metric", ["low", None, torch.zeros(2), True])
def test_what_is_not_one_number_is_refused(metric):
    with pytest.raises(TypeError, match="expected a metric that is one number"):
        Plateau().judge_metric(PlateauState(), metric)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"factor": 1.0}, "factor must be above 0 and below 1, got 1.0"),
        ({"factor": 0.0}, "factor must be above 0"),
        ({"patience": -1}, "patience must be a whole number of validations"),
        ({"patience": 1.5}, "patience must be a whole number"),
        ({"threshold": -0.1}, "threshold must be finite and at least 0"),
        ({"threshold": math.inf}, "threshold must be finite"),
        ({"mode": "lower"}, 'mode must be "min" or "max"'),
    ],
)
def test_wrong_arguments_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        Plateau(**words)
