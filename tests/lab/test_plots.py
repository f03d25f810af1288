"""A picture is tested by what its artists hold, not by its pixels."""

import math

import pytest
import torch
from matplotlib.colors import to_hex

from nbkit.lab import plots
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.verdicts import judge

CLAIM = Claim("id", "01_x", "s.", "w", "m", "ratio", "below", 8, "y", "n", "o", margin=1.25)


def test_seeds_draws_a_line_a_seed_and_their_median(ax):
    values = torch.tensor([[3.0, 1.0], [4.0, 2.0], [5.0, math.nan]])
    assert plots.seeds(ax, values, label="OneCycle", color=plots.TECHNIQUE) is ax
    lines = [line.get_ydata().tolist() for line in ax.lines]
    assert lines[:2] == [[3.0, 1.0], [4.0, 2.0]]
    assert lines[2][0] == 5.0 and math.isnan(lines[2][1])
    assert lines[3] == [4.0, 1.0]  # torch's median is the lower of two
    assert ax.lines[3].get_xdata().tolist() == [1, 2]
    (name,) = ax.texts
    assert name.get_text() == "OneCycle" and name.xy == (2, 1.0)


def test_a_name_may_stand_along_the_line(ax):
    plots.seeds(ax, torch.tensor([[4.0, 3.0, 2.0, 1.0]]), label="x", color="k", at=0.25)
    assert ax.texts[0].xy == (2, 3.0)


def test_seeds_of_which_none_lived_have_no_name(ax):
    plots.seeds(ax, torch.full((2, 3), math.inf), label="x", color="k")
    assert not ax.texts


class SomeRuns:
    arms, step = ("yours", "suggested"), 2
    losses = torch.tensor([[[2.0, 1.0]], [[2.0, 0.5]]])


def test_arms_clears_and_draws_each_arm_in_its_colour(ax):
    ax.plot([0, 1])
    plots.arms(ax, SomeRuns(), {"suggested": plots.TECHNIQUE, "yours": plots.BASELINE})
    assert [line.get_ydata().tolist() for line in ax.lines[::2]] == [[2.0, 1.0], [2.0, 0.5]]
    colors = [to_hex(line.get_color()).upper() for line in ax.lines[1::2]]
    assert colors == [plots.BASELINE, plots.TECHNIQUE]
    assert [text.get_text() for text in ax.texts] == ["yours", "suggested"]


def heights(ax):
    """Where the names stand, in points, by name."""
    scale = 72 / ax.figure.dpi
    return {t.get_text(): ax.transData.transform(t.xy)[1] * scale + t.xyann[1] for t in ax.texts}


def test_names_of_lines_that_end_together_are_spread(ax):
    for label, end in (("a", 1.0), ("b", 1.001), ("c", 1.002), ("far", 9.0)):
        plots.seeds(ax, torch.tensor([[5.0, end]]), label=label, color=plots.QUIET)
    before = heights(ax)
    plots.spread_names(ax)
    a, b, c, far = (heights(ax)[name] for name in ("a", "b", "c", "far"))
    assert b - a == pytest.approx(11, abs=0.1) and c - b == pytest.approx(11, abs=0.1)
    assert abs(b - before["b"]) < 1  # the middle one stays where its line is
    assert far == before["far"]


def test_names_are_spread_anew_where_the_scale_has_changed(ax):
    for label, end in (("a", 1.0), ("b", 3.0)):
        plots.seeds(ax, torch.tensor([[5.0, end]]), label=label, color=plots.QUIET)
    spread = heights(plots.spread_names(ax))
    assert heights(plots.spread_names(ax)) == spread
    ax.set_ylim(0, 1000)  # now the lines end within a point
    told = heights(plots.spread_names(ax))
    assert told["b"] - told["a"] == pytest.approx(11, abs=0.1)
    assert heights(plots.spread_names(ax)) == pytest.approx(told)


def test_a_single_name_stays_where_it_is(ax):
    plots.seeds(ax, torch.tensor([[5.0, 1.0]]), label="a", color=plots.QUIET)
    before = heights(ax)
    assert heights(plots.spread_names(ax)) == before


def test_landing_moves_its_dots_and_keeps_the_rest(ax):
    ax.plot([0.1, 1.0], [0.0, 3.0])
    ax.set_ylim(0, 4)
    plots.landing(ax, 0.1, torch.tensor([9.0, 9.0]))
    plots.landing(ax, 0.5, torch.tensor([1.0, math.nan]))
    _, dots = ax.lines
    assert list(dots.get_xdata()) == [0.5, 0.5]
    assert list(dots.get_ydata()) == [1.0, 4.0]
    assert to_hex(dots.get_color()).upper() == plots.BASELINE
    assert ax.get_ylim() == (0.0, 4.0)
    plots.landing(ax, 0.5, torch.tensor([-1.0]))
    assert ax.get_ylim() == (pytest.approx(-1.1), 4.0)


def test_landing_takes_an_lr_a_seed(ax):
    plots.landing(ax, [0.1, 0.2], torch.tensor([0.3, 0.4]))
    assert list(ax.lines[0].get_xdata()) == [0.1, 0.2]


def test_ladder_keeps_diverged_runs_at_the_top(ax):
    losses = torch.tensor([[0.1, 0.3, 0.2], [math.nan, math.inf, 0.5]])
    plots.ladder(ax, [0.1, 1.0], losses, chance=2.0)
    dots = [line.get_ydata().tolist() for line in ax.lines[:2]]
    assert dots[1] == pytest.approx([6.0, 6.0, 0.5])
    assert ax.lines[2].get_ydata().tolist() == pytest.approx([0.2, 6.0])
    assert ax.get_xscale() == "log"


def test_effects_draws_each_interval_against_its_margin(ax):
    plots.effects(ax, [judge(CLAIM, Interval(1.1, 1.0, 1.2, 8))])
    interval, point, margin = ax.lines
    assert list(interval.get_xdata()) == [1.0, 1.2]
    assert list(point.get_xdata()) == [1.1]
    assert list(margin.get_xdata()) == [1.25, 1.25]
    assert to_hex(interval.get_color()) == plots.VERDICTS["SUPPORTED"].lower()
    assert "n = 8" in ax.texts[0].get_text()
    assert ax.get_yticklabels()[0].get_text() == "id  SUPPORTED"
    plots.effects(ax, [judge(CLAIM, Interval(1.1, 1.0, 1.2, 3))])  # room is for the picture
    assert ax.get_yticklabels()[0].get_text() == "id  SKIPPED"


def test_against_margin_draws_the_interval_beside_the_margin(ax):
    verdict = judge(CLAIM, Interval(1.1, 1.0, 1.2, 8))
    plots.against_margin(ax, verdict, label="ratio of losses", title="lr 0.1")
    bar, dot, margin = ax.lines
    xs = [list(line.get_xdata()) for line in (bar, dot, margin)]
    assert xs == [[1.0, 1.2], [1.1], [1.25, 1.25]]
    assert ax.get_title() == "lr 0.1 SUPPORTED"
    assert to_hex(bar.get_color()) == plots.VERDICTS["SUPPORTED"].lower()
    assert ax.get_xlim()[1] >= 2.5


def test_against_margin_keeps_an_open_interval_in_the_frame(ax):
    plots.against_margin(ax, judge(CLAIM, Interval(9.0, 2.0, math.inf, 8)), label="x")
    bar, dot, _ = ax.lines
    assert list(bar.get_xdata()) == [2.0, 5.0] and list(dot.get_xdata()) == [5.0]


def test_against_margin_of_a_skipped_claim_says_so_without_a_bar(ax):
    needy = Claim(**{**vars(CLAIM), "needs": ("two gpus",)})
    if needy.find_missing_needs():
        plots.against_margin(ax, judge(needy), label="x")
        assert not ax.lines and ax.get_title() == "SKIPPED"


def test_grid_has_a_cell_for_each_pair(ax):
    measured = {(8, 20): (1.3, 1.4), (64, 20): (1.0, 1.1), (8, 100): (1.0, 1.4)}
    cells = {pair: judge(CLAIM, Interval(1.2, *ends, 8)) for pair, ends in measured.items()}
    plots.grid(ax, cells, x="batch_size", y="num_steps")
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "refuted",
        (1, 0): "supported",
        (0, 1): "inconclusive",
    }
    assert [label.get_text() for label in ax.get_xticklabels()] == ["8", "64"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["20", "100"]
    assert len(ax.patches) == 3


def test_caption_names_the_hardware(ax):
    plots.caption(ax, "8 seeds")
    assert "8 seeds" in ax.figure.get_supxlabel() and "torch" in ax.figure.get_supxlabel()
