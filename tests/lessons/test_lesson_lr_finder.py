"""The experiments and pictures of lesson 1, each against a plain reference or a closed form."""

import math
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from nbkit.base.state import digest
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.lr_finder import live, pictures, race, task
from nbkit.lessons.lr_finder.pictures import draw_delivery
from nbkit.lessons.lr_finder.task import measure_delivery

SETTINGS = {"depth": 1, "momentum": 0.9, "batch_size": 32}


def test_on_a_parabola_it_is_one_minus_half_lr_times_curvature():
    """The loss of w·x against 0 with x = 3 is 9 w², of curvature 18."""
    model = nn.Linear(1, 1, bias=False).double()
    x, y = torch.full((4, 1), 3.0).double(), torch.zeros(4, 1).double()
    lrs = [1e-4, 1 / 18, 2 / 18, 0.3]
    assert measure_delivery(model, mse_loss, x, y, lrs) == pytest.approx([1 - lr * 9 for lr in lrs])


def test_it_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    x, y = torch.randn(8, 3), torch.zeros(8, 3)
    before = digest(model)
    measure_delivery(model, mse_loss, x, y, [0.1, 1.0])
    assert digest(model) == before


def test_where_nothing_is_promised_it_says_so():
    model = nn.Linear(1, 1, bias=False)
    with pytest.raises(ValueError, match="the gradient is zero here"):
        measure_delivery(model, mse_loss, torch.zeros(1, 1), torch.zeros(1, 1), [0.1])


def test_each_training_step_has_its_curve(ax):
    assert draw_delivery(ax, [0.1, 1.0], {1: [0.9, 0.5], 21: [0.8, -0.2]}) is ax
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[0.9, 0.5], [0.8, -0.2]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["step 1", "step 21"]


def test_delivery_is_followed_at_three_steps_of_one_training():
    shares = task.follow_delivery(digits(), 0.1, depth=2, momentum=0.9, lrs=[1e-3, 10.0])
    assert list(shares) == [1, 21, 100]
    # A tiny step delivers what it promises, a huge one overshoots once the network has learned.
    assert [small for small, _ in shares.values()] == pytest.approx([1, 1, 1], abs=0.05)
    assert shares[100][1] < 0


def test_a_suggestion_follows_the_range_test_of_its_seed():
    curve = task.find_lr(digits(), 3, **SETTINGS)
    assert task.suggest_lrs(digits(), [3], **SETTINGS) == [curve.suggest()]


def test_without_a_suggestion_the_first_rung_stands_in(monkeypatch):
    monkeypatch.setattr(task, "find_lr", lambda *_, **__: SimpleNamespace(suggest=lambda: None))
    assert task.suggest_lrs(digits(), [0, 1], **SETTINGS) == [task.MIN_LR] * 2


def test_training_at_several_lrs_is_training_at_each():
    both = task.train_at([0.05, [0.1, 0.2]], digits(), [0, 1], steps=20, **SETTINGS)
    net = task.make_lr_net(digits(), 1)
    for row, lr in enumerate((0.05, [0.1, 0.2])):
        arm = {"alone": {"lr": lr, "momentum": 0.9}}
        *_, runs = train_runs(net, digits(), arm, [0, 1], steps=20, batch_size=32)
        assert both[row] == pytest.approx(runs.final()[0].tolist(), rel=1e-5)


def make_curve(start, end):
    return [start] * 50 + [end] * 50


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (make_curve(2.3, 0.1), "learned"),
        (make_curve(2.3, 2.3), "as good as guessing"),
        (make_curve(2.3, 60.0), "worse than guessing"),
        (make_curve(2.3, math.nan), "worse than guessing"),
    ],
)
def test_the_end_of_a_training_is_described_beside_guessing(losses, words):
    assert task.describe_training(losses) == words


def test_only_the_third_way_to_smooth_bends_a_constant():
    flat = {}
    for letter, smooth in task.SMOOTHERS.items():
        flat[letter] = list(smooth([2.0] * 20)) == pytest.approx([2.0] * 20)
    assert flat == {"a": True, "b": True, "c": False}
    # One loss: 0.1 * 2 over 1 - 0.9², about half.
    assert next(task.smooth_off_by_one([2.0])) == pytest.approx(0.2 / 0.19)


@pytest.fixture
def short_race(monkeypatch):
    monkeypatch.setattr(race, "RACE_STEPS", 20)
    monkeypatch.setattr(race, "GRID", [1e-4, 0.1])


def test_arrivals_are_the_first_looks_above_the_target(short_race):
    net, arms = task.make_lr_net(digits(), 1), {"one": {"lr": 0.1, "momentum": 0.9}}
    accuracy, arrivals = race.count_arrivals(net, digits(), arms, [0, 1], target=0.3)
    assert accuracy.shape == (1, 2, 4)
    for curve, arrived in zip(accuracy[0].tolist(), arrivals[0], strict=True):
        looks = [5 * (k + 1) for k, value in enumerate(curve) if value >= 0.3]
        assert arrived == (looks[0] if looks else math.inf)


def test_each_arm_gets_the_lr_that_arrives_soonest_and_the_test_set_is_not_looked_at(short_race):
    data = digits()
    blind = Data(data.x_train, data.y_train, data.x_test * math.nan, data.y_test)
    net = task.make_lr_net(data, 1)
    found = race.tune_arrivals(net, blind, {"sgd": {"momentum": 0.9}}, target=0.3)
    assert found == {"sgd": 0.1}  # at 1e-4 nothing is learned in twenty steps


def test_a_race_holds_both_tuned_arms_and_the_suggestion(short_race):
    held = race.race_to_target(digits(), [0, 1, 2], 0.2, depth=1, momentum=0.9, target=0.3)
    assert held.names == ("OneCycle", "constant", "suggested")
    assert {held.lrs["OneCycle"], held.lrs["constant"]} <= {1e-4, 0.1}
    assert held.accuracy.shape == (3, 3, 4) and held.ratio.n == 3


def test_the_race_is_drawn_to_its_last_look(ax):
    held = race.Race(
        ("OneCycle", "constant", "suggested"),
        torch.rand(3, 2, 4),
        Interval(1.0, 0.5, 2.0, 2),
        {"OneCycle": 0.1, "constant": 0.2, "suggested": 0.3},
        0.9,
    )
    assert pictures.draw_race(ax, held) is ax and ax.get_xlim() == (0, 20)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["OneCycle, lr 0.1", "constant, lr 0.2", "suggested, lr 0.3"]


def run_lab(**changed):
    values = {"lr": 0.1, "best_of_grid": False, "seeds": range(3)} | SETTINGS | changed
    figure = plt.figure()
    fitting = live.draw_lab(figure, **values)
    while True:
        try:
            next(fitting)
        except StopIteration as end:
            return figure, end.value


def test_the_axes_stay_where_they_are():
    (left, right), (again, other) = run_lab(lr=0.001)[0].axes, run_lab(lr=10)[0].axes
    assert left.get_xlim() == again.get_xlim() and left.get_ylim() == again.get_ylim()
    assert right.get_xlim() == other.get_xlim() and right.get_ylim() == other.get_ylim()


def test_an_lr_that_does_harm_reaches_the_first_goal():
    assert run_lab(lr=10)[1] == "goal 1 reached: worse than guessing"


def test_an_lr_that_does_nothing_does_no_harm():
    assert not run_lab(lr=1e-4)[1].startswith("goal 1")


def test_the_best_of_a_grid_is_a_third_arm():
    figure, _ = run_lab(best_of_grid=True)
    assert any("best of a grid" in text.get_text() for text in figure.axes[1].texts)


def test_goals_are_read_from_the_final_losses():
    curve = SimpleNamespace(explain=lambda: "No suggestion: flat.")
    low, high = [0.1, 0.11, 0.12], [0.5, 0.52, 0.6]
    told = live.describe_lr_lab({"yours": low, "suggested": high}, curve)
    assert told.startswith("goal 2 reached: yours ends lower")
    told = live.describe_lr_lab({"yours": high, "suggested": low}, curve)
    assert told.startswith("yours ends higher")
    assert live.describe_lr_lab({"yours": high}, curve) == "No suggestion: flat."


def test_trials_share_one_scale():
    figure = pictures.draw_trials({0.1: [2.3, 1.0], 10.0: [2.3, 1e30]})
    assert [ax.get_ylim() for ax in figure.axes] == [(0, 6)] * 2
    assert [ax.get_title() for ax in figure.axes] == ["lr 0.1", "lr 10"]
    plt.close(figure)
