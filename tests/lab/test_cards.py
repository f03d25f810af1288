"""Verdict cards, tested by what their artists hold; as text they are the verdicts alone."""

import base64
import math
from dataclasses import replace

import pytest
from matplotlib.colors import to_hex

from nbkit.lab import plots
from nbkit.lab.cards import draw_cards, show_cards
from nbkit.lab.evidence.claims import SKIPPED, Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.predictions import Prediction
from nbkit.lab.evidence.verdicts import Verdict, judge
from nbkit.lab.lesson_predictions import LessonPredictions

ABOUT = {"lesson": "x", "sentence": "It costs $x$ and $y$ of `n`.", "source": "w", "metric": "a/b"}
RATIO = Claim("ratio", **ABOUT, measure="ratio", side="below", n=8, margin=1.25, axis=(0.5, 4))
SHARE = Claim("share", **ABOUT, measure="proportion", side="above", n=8, margin=0.6)
SAME = Claim("same", **ABOUT, measure="difference", side="within", n=8, margin=0.1)
EQUAL = Claim("equal", **ABOUT, measure="equality", side=None, n=8)
HELD, LOST = Interval(1.1, 1.0, 1.2, 8), Interval(2.0, 1.5, math.inf, 8)


def texts(figure):
    """All texts of a figure."""
    own = [text.get_text() for text in figure.texts]
    return own + [text.get_text() for ax in figure.axes for text in ax.texts]


def lines(ax, marker):
    """The lines of an axis that are drawn with this marker, as (x, y)."""
    found = [line for line in ax.lines if line.get_marker() == marker]
    return [(*line.get_xdata(), *line.get_ydata()) for line in found]


def test_each_claim_has_an_axis_of_its_own():
    share = Interval(0.8, 0.7, 0.9, 8)
    figure = draw_cards([judge(RATIO, HELD), judge(SHARE, share)], {})
    ratio, proportion = figure.axes
    assert (ratio.get_xscale(), ratio.get_xlim()) == ("log", (0.5, 4.0))
    assert (proportion.get_xscale(), proportion.get_xlim()) == ("linear", (0.0, 1.0))
    assert ratio.get_position().y0 > proportion.get_position().y1  # in the order that was given
    assert [label.get_text() for label in ratio.get_xticklabels()] == ["0.5", "1", "2"]


def test_a_card_shows_interval_margin_mark_and_numbers():
    figure = draw_cards([judge(replace(RATIO, task="digits, 100 steps"), HELD)], {})
    (ax,) = figure.axes
    margin, interval, _ = ax.lines
    assert list(margin.get_xdata()) == [1.25, 1.25] and list(interval.get_xdata()) == [1.0, 1.2]
    assert to_hex(interval.get_color()) == plots.VERDICTS["SUPPORTED"].lower()
    assert lines(ax, plots.SHAPES["SUPPORTED"]) == [(1.1, 0)]
    told = texts(figure)
    assert {"SUPPORTED", "margin 1.25", "← better", "task: digits, 100 steps"} <= set(told)
    assert "1.1 [1, 1.2]\nn = 8 seeds" in told
    assert "It costs $x$ and $y$ of n." in told  # a sentence is no formula
    assert not any(text.get_parse_math() for text in figure.texts)


@pytest.mark.parametrize(
    ("claim", "arrow"),
    [
        (RATIO, "← better"),
        (SHARE, "better →"),
        (replace(RATIO, better="above"), "better →"),
        (SAME, "→ no difference ←"),
    ],
)
def test_an_arrow_points_to_the_better_side(claim, arrow):
    effect = Interval(0.0, 0.0, 0.01, 8, confidence=claim.confidence)
    assert arrow in texts(draw_cards([judge(claim, effect)], {}))


def test_two_margins_are_drawn_where_no_difference_is_claimed():
    (ax,) = draw_cards([judge(SAME, Interval(0.0, -0.01, 0.01, 8, confidence=0.9))], {}).axes
    assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[-0.1, -0.1], [0.1, 0.1]]


def test_what_leaves_the_axis_is_drawn_at_its_end_and_told_beside_it():
    figure = draw_cards([judge(RATIO, Interval(9.0, 2.0, math.inf, 8))], {})
    (ax,) = figure.axes
    assert list(ax.lines[1].get_xdata()) == [2.0, 4.0]
    assert lines(ax, plots.SHAPES["REFUTED"]) == [(4.0, 0)]
    assert "9 [2, inf]\nn = 8 seeds" in texts(figure)


def test_the_reader_s_prediction_is_a_hollow_diamond():
    (ax,) = draw_cards([judge(RATIO, HELD)], {"ratio": Prediction(RATIO, 2.0, 70)}).axes
    assert lines(ax, "D") == [(2.0, 0)]
    (mark,) = (line for line in ax.lines if line.get_marker() == "D")
    assert mark.get_markerfacecolor() == "none"
    assert [text.xy for text in ax.texts if text.get_text() == "you"] == [(2.0, 0)]
    assert not lines(draw_cards([judge(RATIO, HELD)], {}).axes[0], "D")


def test_each_further_task_has_a_row():
    verdict = judge(RATIO, HELD, {"signals": LOST})
    figure = draw_cards([verdict], {})
    (ax,) = figure.axes
    assert lines(ax, "o") == [(1.1, 0)] and lines(ax, "X") == [(2.0, 1)]
    told = texts(figure)
    assert "SUPPORTED  1 of 2 tasks" in told
    assert "1.1 [1, 1.2]\nthis task, n = 8 seeds" in told
    assert "2 [1.5, inf]\nsignals, n = 8 seeds" in told


def test_an_equality_is_a_line_of_text():
    figure = draw_cards([judge(EQUAL, [True] * 7 + [False], {"signals": [True] * 8})], {})
    assert figure.axes == []
    assert {"this task: 7 of 8 pairs equal", "signals: 8 of 8 pairs equal"} <= set(texts(figure))
    assert "8 of 8 pairs equal" in texts(draw_cards([judge(EQUAL, [True] * 8)], {}))


def test_a_claim_without_a_measurement_says_why():
    figure = draw_cards([Verdict(RATIO, SKIPPED, "needs cuda")], {})
    told = texts(figure)
    assert {"SKIPPED", "needs cuda", "not measured"} <= set(told)
    assert len(figure.axes[0].lines) == 1  # the margin


def test_cards_are_stored_with_a_text_for_nbval_and_one_for_a_screen_reader(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append((data, more)))
    verdicts = {"ratio": judge(RATIO, HELD), "share": judge(SHARE, Interval(0.8, 0.7, 0.9, 100))}
    predictions = LessonPredictions(verdicts)
    predictions.made["ratio"] = Prediction(RATIO, 2.0, 70)
    predictions.made["share"] = Prediction(SHARE, 0.5, 70, {"lr": 1.0})  # for other settings
    show_cards(list(verdicts.values()), predictions)
    ((data, more),) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == "ratio  SUPPORTED\nshare  SUPPORTED"
    alt = more["metadata"]["image/png"]["alt"]
    assert alt.startswith("Verdict cards. ratio  SUPPORTED: 1.1 [1, 1.2]")
    numbers = more["metadata"]["nbkit"]
    assert numbers["kind"] == "cards"
    assert [(one["claim"], one["guess"]) for one in numbers["predictions"]] == [("ratio", 2.0)]
