"""Every arm gets the lr that is best for it among as many as the others, on tuning seeds alone."""

import json
import math

import matplotlib
import pytest
import torch
from torch import nn

from nbkit.lab.data import Data, digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import Tuned, tuned

matplotlib.use("agg")

LRS = [0.001, 0.01, 0.1, 0.5]
SEEDS = (100, 101, 102)
ARMS = {
    "plain": {},
    "momentum": {"momentum": 0.9, "max_norm": 1.0},
    "adam": {"optimizer": "adam", "lrs": [0.0003, 0.003, 0.03, 0.3]},
}


def small():
    return mlp(depth=1, width=16)


def tune(arms=ARMS, lrs=LRS, data=None, seeds=SEEDS, **options) -> Tuned:
    options = {"steps": 40, "batch_size": 32, **options}
    return tuned(small, data or digits(), arms, lrs, seeds, **options)


def choose_plainly(score):
    """The same choice by a loop: one arm, one lr and one call of train_runs at a time."""
    data = digits()
    if score == "held out":
        order = torch.randperm(1497, generator=torch.Generator().manual_seed(0))
        held, kept = order[:374], order[374:]
        test = data.x_train[held], data.y_train[held]
        data = Data(data.x_train[kept], data.y_train[kept], *test)
    chosen, scores = {}, {}
    for name, arm in ARMS.items():
        arm = dict(arm)
        scores[name] = []
        for lr in arm.pop("lrs", LRS):
            one = {name: {**arm, "lr": lr}}
            *_, runs = train_runs(small, data, one, SEEDS, steps=40, batch_size=32)
            if score == "held out":
                losses = runs.evaluate(data.x_test, data.y_test)[0]
            else:
                losses = runs.losses[..., -4:].mean(-1)
            mean = sum(losses[0].tolist()) / 3
            if math.isfinite(mean) and mean < min(scores[name], default=math.inf):
                chosen[name] = lr
            scores[name].append(mean)
    return chosen, scores


@pytest.mark.parametrize("score", ["loss", "held out"])
def test_the_choice_is_that_of_a_plain_loop(score):
    found = tune(score=score)
    chosen, scores = choose_plainly(score)
    assert found.lrs == chosen
    for row, name in enumerate(ARMS):
        assert found.scores[row].tolist() == pytest.approx(scores[name], rel=1e-4)
    assert found.lost.sum() == 0


def test_the_two_scores_are_not_the_same_number():
    assert not torch.isclose(tune().scores, tune(score="held out").scores).any()


def test_the_arms_come_back_with_their_lr_and_train():
    found = tune(seeds=SEEDS[:2])
    lrs = found.lrs
    assert found.arms == {
        "plain": {"lr": lrs["plain"]},
        "momentum": {"lr": lrs["momentum"], "momentum": 0.9, "max_norm": 1.0},
        "adam": {"lr": lrs["adam"], "optimizer": "adam"},
    }
    *_, runs = train_runs(small, digits(), found.arms, [0], steps=2, batch_size=32)
    assert runs.arms == tuple(ARMS)
    assert ARMS["adam"]["lrs"] and "lr" not in ARMS["plain"]  # the arms given are not changed


def test_the_order_of_the_lrs_does_not_matter():
    one = tune({"plain": {}}, [0.5, 0.001, 0.1, 0.01])
    assert one.grids == {"plain": LRS}
    assert one.lrs == tune({"plain": {}}).lrs


@pytest.mark.parametrize(
    ("lrs", "edge"),
    [([1e-5, 1e-4, 1e-3], True), ([0.05, 1e-5, 1e-4], True), ([1e-5, 0.1, 1e-4, 30], False)],
    ids=["best at the top", "best at the top, unordered", "best inside"],
)
def test_a_best_lr_at_an_end_of_the_grid_is_flagged(lrs, edge):
    found = tune({"plain": {}}, lrs)
    assert found.at_edge == (["plain"] if edge else [])
    assert ("at the edge" in str(found)) == edge


def test_a_best_lr_at_the_bottom_is_flagged_beside_an_arm_that_is_not():
    arms = {"low": {"lrs": [0.1, 20.0, 40.0]}, "inside": {"lrs": [1e-4, 0.1, 30.0]}}
    assert tune(arms, [1, 2, 3]).at_edge == ["low"]


class Fragile(nn.Module):
    """A model whose loss is finite only while its weights are small; one seed's are not."""

    def __init__(self, limit):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.limit = nn.Buffer(torch.tensor(limit))

    def forward(self, x):
        size = self.layer.weight.abs().amax()
        return self.layer(x) + torch.where(size < self.limit, 0.0, math.nan)


def make_fragile():
    """Only the models of every second seed break, however well the others do."""
    odd = torch.initial_seed() % 2
    return Fragile(0.3 if odd else 1e9)


def test_an_lr_that_loses_one_seed_is_never_chosen():
    """At lr 1 the even seeds get by far the lowest loss, and the odd one is lost."""
    arms = {"plain": {}}
    data, options = digits(), {"steps": 60, "batch_size": 32}
    sound = tuned(make_fragile, data, arms, [0.001, 0.01, 1.0], (100, 102), **options)
    assert sound.lrs == {"plain": 1.0} and sound.lost.tolist() == [[0, 0, 0]]
    found = tuned(make_fragile, data, arms, [0.001, 0.01, 1.0], (100, 101, 102), **options)
    assert found.lost.tolist() == [[0, 0, 1]]
    assert found.lrs == {"plain": 0.01}
    assert found.scores[0, 2] == math.inf and found.at_edge == []


def test_an_arm_that_loses_seeds_at_every_lr_is_refused():
    with pytest.raises(ValueError, match=r"'wild' lost seeds at every lr from 1e\+20 to 1e\+30"):
        tune({"plain": {}, "wild": {"lrs": [1e20, 1e30]}}, [0.01, 0.1])


@pytest.mark.parametrize("score", ["loss", "held out"])
def test_the_test_set_is_never_looked_at(score):
    whole = digits()
    x = torch.full_like(whole.x_test, math.nan)
    blind = Data(whole.x_train, whole.y_train, x, torch.full_like(whole.y_test, -1))
    found, expected = tune(data=blind, score=score), tune(score=score)
    assert found.lrs == expected.lrs and torch.equal(found.scores, expected.scores)


def test_held_out_samples_are_not_trained_on():
    """Labels of the held-out quarter that make no sense change no training loss."""
    whole = digits()
    held = torch.randperm(1497, generator=torch.Generator().manual_seed(0))[:374]
    labels = whole.y_train.clone()
    labels[held] = (labels[held] + 1) % 10
    wrong = Data(whole.x_train, labels, whole.x_test, whole.y_test)
    found, honest = tune(data=wrong, score="held out"), tune(score="held out")
    # Trained on the right labels only, a good lr is the worse the better it has learned.
    good = honest.scores.min(1).indices
    rows = torch.arange(len(ARMS))
    assert (found.scores[rows, good] > 2.5).all() and (honest.scores[rows, good] < 2.0).all()


def test_models_that_cannot_be_stacked_are_tuned_one_by_one():
    found = tune({"plain": {}}, [0.01, 0.1], steps=5, vectorize=False)
    expected = tune({"plain": {}}, [0.01, 0.1], steps=5)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=0)


def test_the_table_says_what_was_tuned_how():
    summary, columns, rows = tune({"plain": {}, "clipped": {"max_norm": 1.0}}).table()
    assert "4 lrs x 3 seeds x 40 steps" in summary and "final training loss" in summary
    assert columns[:2] == ["arm", "best lr"]
    assert [row[0] for row in rows] == ["plain", "clipped"]
    assert rows[0][3] == "0.001 to 0.5"


def test_as_json_it_has_no_functions_and_no_infinities():
    arms = {"plain": {"schedule": lambda step: 1.0}}
    found = json.loads(json.dumps(tune(arms, [0.01, 1e30]).to_dict(), allow_nan=False))
    assert found["lrs"] == {"plain": 0.01} and "arms" not in found
    assert found["scores"][0][1] is None and found["lost"] == [[0, 3]]


def test_the_picture_rings_the_best_and_leaves_out_lost_lrs():
    found = tune({"plain": {}}, [0.01, 0.1, 1e30])
    curve, ring = found.plot().get_lines()
    assert curve.get_xdata().tolist() == [0.01, 0.1, 1e30]
    heights = curve.get_ydata()
    assert math.isnan(heights[2]) and heights[0] == pytest.approx(found.scores[0, 0].item())
    assert ring.get_xdata().tolist() == [found.lrs["plain"]]
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {}}, "arms must hold at least one"),
        ({"arms": {"a": {"lr": 0.1}}}, "arm 'a' sets lr=0.1, which is what is tuned: leave it out"),
        ({"arms": {"a": {}, "b": {"lrs": [0.1, 1]}}}, "'b' must try 4 lrs as the other.*got 2"),
        ({"arms": {"a": {"lrs": [0.1, 0, 1, 2]}}}, "arm 'a': lrs must be finite.*above 0, got 0"),
        ({"lrs": [0.1]}, r"lrs must hold at least two numbers, all different, got \[0.1\]"),
        ({"lrs": [0.1, 0.1]}, r"all different, got \[0.1, 0.1\]"),
        ({"lrs": [0.1, math.nan]}, "lrs must be finite numbers above 0, got nan"),
        ({"lrs": [0.1, "x"]}, "lrs must be finite numbers above 0, got 'x'"),
        ({"score": "test"}, "score must be one of 'loss', 'held out', got 'test'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seeds": ()}, "seeds must be different whole numbers, at least one"),
        ({"arms": {"a": {"momentum": -1}}}, "arm 'a, lr 0.001': momentum must be"),
    ],
)
def test_what_cannot_be_used_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tune(**change)
