"""TuneReport: what the table says, JSON, and the picture."""

import json
import math

import pytest
from matplotlib import pyplot
from tunings import Recorder

from nbkit import SearchRange, successive_halving


@pytest.fixture
def report():
    """Number 3 is the best and number 8 is lost; fresh seeds are 0.25 worse."""

    def loss(config, seed, update):
        if config["k"] == 8:
            return math.nan
        return abs(config["k"] - 3) + 0.5 + (0.25 if seed < 100 else 0)

    configs = [{"k": k, "lr": 0.1 * (k + 1)} for k in range(9)]
    return successive_halving(Recorder(loss), configs, 9)


def test_the_table_says_what_was_chosen_what_it_is_worth_and_what_it_cost(report):
    assert str(report).splitlines() == [
        "best of 9: k=3, lr=0.4; loss 0.5 when chosen, 0.75 on 3 fresh seeds; "
        "43 steps, and 27 on fresh seeds",
        "up to update  configs  lost  promoted  best loss  steps",
        "3             9        1     3         0.5        25",
        "9             3        0     1         0.5        18",
    ]


def test_an_edge_is_named_in_the_table():
    train = Recorder(lambda config, seed, update: -config["k"])
    configs = [{"k": k} for k in (1.0, 2.0, 3.0)]
    report = successive_halving(train, configs, 9)
    assert report.at_edge == {"k": "highest"}
    assert "k=3 (at the edge: highest)" in str(report)
    # In a space that reaches far beyond, the best is at no edge.
    space = {"k": SearchRange(0, 100)}
    assert not successive_halving(train, [{"k": 50.0}], 9, space=space).at_edge


def test_without_fresh_seeds_it_says_so():
    report = successive_halving(Recorder(lambda *_: 1.0), [{"k": 0}], 3, fresh_seeds=())
    assert "loss 1 when chosen, not measured on fresh seeds" in str(report)
    assert math.isnan(report.fresh_loss) and report.to_dict()["fresh_loss"] is None
    one = successive_halving(Recorder(lambda *_: 1.0), [{"k": 0}], 3, fresh_seeds=(7,))
    assert "1 on 1 fresh seed;" in str(one)


def test_it_is_json(report):
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["best"] == {"k": 3, "lr": 0.4} and told["fresh_loss"] == 0.75
    assert told["rungs"][0]["scores"]["8"] is None and told["rungs"][1]["promoted"] == [3]
    assert told["fresh"] == {"0": 0.75, "1": 0.75, "2": 0.75}
    assert told["steps"] == 43 and told["fresh_steps"] == 27 and told["seeds"] == [100]


def test_the_picture_shows_every_score_the_winner_and_its_fresh_seeds(report):
    ax = report.plot()
    try:
        *others, winner, fresh = ax.lines
        # The eight others; the lost one has no finite score, those of the last rung have two.
        assert sorted(len(line.get_xdata()) for line in others) == [0, 1, 1, 1, 1, 1, 2, 2]
        assert list(winner.get_xdata()) == [3, 9] and list(winner.get_ydata()) == [0.5, 0.5]
        assert list(fresh.get_xdata()) == [9] * 3 and list(fresh.get_ydata()) == [0.75] * 3
        assert ax.get_title() == "best of 9 in 43 steps; 1 lost"
    finally:
        pyplot.close(ax.figure)
