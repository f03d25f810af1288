"""A picture is tested by what its artists hold, not by its pixels."""

import math

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from nbkit.lab import plots
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.verdicts import judge
from nbkit.lab.plots.frame import list_plain_ticks

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


class Lost:
    """Two arms of four runs: of "yours" one diverged, and one is above the frame."""

    arms, step = ("yours", "suggested"), 2
    losses = torch.tensor(
        [
            [[2.0, 1.0], [2.0, 1.0], [2.0, 50.0], [2.0, math.inf]],
            [[2.0, 0.5], [2.0, 0.5], [2.0, 0.5], [9.0, 0.5]],
        ]
    )


COLORS = {"suggested": plots.TECHNIQUE, "yours": plots.BASELINE}
FRAME = {"steps": 80, "ylim": (0.05, 5.0), "chance": math.log(10)}


def test_the_frame_of_arms_stays_the_same_whatever_the_losses(ax):
    frames = []
    for runs in (SomeRuns(), Lost()):
        plots.arms(ax, runs, COLORS, **FRAME)
        frames.append((ax.get_xlim(), ax.get_ylim(), list(ax.get_xticks()), list(ax.get_yticks())))
    assert frames[0] == frames[1]
    assert frames[0][:2] == ((0, 1.4 * 80), (0.05, 5.0))
    assert max(frames[0][2]) <= 80
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["0.1", "1"] or labels == ["0.1", "0.3", "1", "3"]


def test_runs_that_diverge_or_leave_the_frame_are_named_at_its_upper_edge(ax):
    plots.arms(ax, Lost(), COLORS, **FRAME)
    (named,) = [text for text in ax.texts if "of 4" in text.get_text()]
    assert named.get_text() == "yours: 1 of 4 diverged, 1 of 4 above 5"
    assert to_hex(named.get_color()).upper() == plots.BASELINE
    assert named.get_position()[1] > 0.9 and named.get_transform() == ax.transAxes


def test_no_run_is_named_at_the_edge_where_none_is_lost(ax):
    plots.arms(ax, SomeRuns(), COLORS, **FRAME)
    assert not [text for text in ax.texts if "diverged" in text.get_text()]


def test_chance_is_a_dotted_line_with_its_name(ax):
    plots.arms(ax, SomeRuns(), COLORS, **FRAME)
    (line,) = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert list(line.get_ydata()) == [math.log(10)] * 2
    assert "chance" in [text.get_text() for text in ax.texts]


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        ({"ylim": (0, 5)}, "0 < low < high, since the axis is logarithmic, got"),
        ({"ylim": (5, 1)}, "0 < low < high"),
        ({"ylim": (1, math.inf)}, "0 < low < high"),
        ({"steps": 0}, "steps must be the number of training steps, above 0, got 0"),
    ],
)
def test_a_frame_in_which_nothing_can_be_drawn_is_refused_before_anything_is_cleared(
    ax, frame, text
):
    ax.plot([0, 1])
    with pytest.raises(ValueError, match=text):
        plots.arms(ax, SomeRuns(), COLORS, **frame)
    assert len(ax.lines) == 1


def test_names_stay_in_the_frame(ax):
    """Both arms end at its lower edge, and a third one above it."""
    runs = SomeRuns()
    runs.arms = ("a", "b", "c")
    runs.losses = torch.tensor([[[2.0, 0.05]], [[2.0, 0.0501]], [[2.0, 400.0]]])
    plots.arms(ax, runs, dict.fromkeys("abc", "k"), steps=2, ylim=(0.05, 5))
    scale = 72 / ax.figure.dpi
    bottom, top = ax.bbox.y0 * scale, ax.bbox.y1 * scale
    places = heights(ax)
    for name in "abc":
        assert bottom + 5 < places[name] < top - 5
    assert abs(places["a"] - places["b"]) > 9
    above = next(text for text in ax.texts if text.get_text() == "c")
    assert not above.get_annotation_clip()  # else matplotlib would not draw it


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.08, 5, [0.1, 0.3, 1, 3]),
        (1e-4, 10, [1e-4, 1e-3, 0.01, 0.1, 1, 10]),
        (1.9, 2.6, [2]),
        (0.4, 2.5, [0.5, 1, 2]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(ax, low, high, ticks):
    ax.set(yscale="log", ylim=(low, high))
    plots.write_plain_ticks(ax.yaxis)
    assert list(ax.get_yticks()) == ticks
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"{t:g}" for t in ticks]
    assert list(ax.get_yticks(minor=True)) == []
    assert ax.get_ylim() == (low, high)


def test_many_decades_have_few_ticks():
    assert 3 <= len(list_plain_ticks(1e-12, 1e6)) <= 7


def test_verdicts_and_arms_share_no_colour_and_each_verdict_has_a_mark():
    """The colours as the course states them; an arm that looks like a verdict would mislead."""
    assert (plots.TECHNIQUE, plots.BASELINE) == ("#D55E00", "#0072B2")
    assert (plots.BEST, plots.QUIET) == ("#56B4E9", "#767676")
    assert plots.VERDICTS == {
        "SUPPORTED": "#1B7837",
        "REFUTED": "#762A83",
        "INCONCLUSIVE": "#8C6D1F",
        "SKIPPED": "#767676",
    }
    assert not {plots.TECHNIQUE, plots.BASELINE, plots.BEST} & set(plots.VERDICTS.values())
    looks = [tuple(plots.style_verdict(outcome).items()) for outcome in plots.VERDICTS]
    marks = {(dict(look)["marker"], dict(look)["markerfacecolor"] == "none") for look in looks}
    assert marks == {("o", False), ("X", False), ("o", True), ("_", False)}


def heights(ax):
    """Where the names stand, in points, by name."""
    ax.get_ylim()  # until then, limits that follow the data are not worked out
    scale = 72 / ax.figure.dpi
    names = [text for text in ax.texts if isinstance(text, Annotation)]
    return {t.get_text(): ax.transData.transform(t.xy)[1] * scale + t.xyann[1] for t in names}


def test_names_of_lines_that_end_together_are_spread(ax):
    for label, end in (("a", 1.0), ("b", 1.001), ("c", 1.002), ("far", 9.0)):
        plots.seeds(ax, torch.tensor([[5.0, end]]), label=label, color=plots.QUIET)
    ax.set_ylim(-10, 10)  # so that no name is near the edge
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
        (0, 0): "refuted\n1.2",
        (1, 0): "supported\n1.2",
        (0, 1): "inconclusive\n1.2",
    }
    assert [label.get_text() for label in ax.get_xticklabels()] == ["8", "64"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["20", "100"]
    assert len(ax.patches) == 3


def test_caption_names_the_hardware(ax):
    plots.caption(ax, "8 seeds")
    assert "8 seeds" in ax.figure.get_supxlabel() and "torch" in ax.figure.get_supxlabel()


WITHIN = {"r": (1.3, 1.4), "s": (1.0, 1.1), "i": (1.0, 1.4)}


def cells_of(**outcomes):
    """A map with the outcome of each cell: `a1="s"` is supported at x = 1, y = 10."""
    cells = {}
    for name, outcome in outcomes.items():
        cell = ("abc".index(name[0]) + 1, 10 * int(name[1]))
        cells[cell] = judge(CLAIM, Interval(1.2, *WITHIN[outcome], 8))
    return cells


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        (cells_of(a1="s"), "Supported in the only cell."),
        (cells_of(a1="s", b1="s", a2="s", b2="s"), "Supported in all 4 cells."),
        (
            cells_of(a1="r", b1="s", c1="s", a2="r", b2="s", c2="s"),
            "Refuted at size = 1; supported at size = 2 and 3; steps does not change the verdict.",
        ),
        (
            cells_of(a1="r", b1="r", a2="s", b2="s"),
            "Refuted at steps = 10; supported at steps = 20; size does not change the verdict.",
        ),
        (
            cells_of(a1="s", b1="s", a2="s", b2="i"),
            "Supported in 3 of 4 cells; inconclusive at (size = 2, steps = 20).",
        ),
        # One row only: that the other knob does not matter has not been seen.
        (
            cells_of(a1="s", b1="s", c1="r"),
            "Supported in 2 of 3 cells; refuted at (size = 3, steps = 10).",
        ),
    ],
)
def test_the_map_in_one_sentence(cells, sentence):
    assert plots.conclude(cells, x="size", y="steps") == sentence


def test_a_map_without_cells_has_no_sentence():
    with pytest.raises(ValueError, match="at least one cell, got none"):
        plots.conclude({}, x="size", y="steps")


def test_a_cell_of_an_equality_counts_its_pairs(ax):
    fields = {**vars(CLAIM), "measure": "equality", "side": None, "margin": None, "n": 3}
    plots.grid(ax, {(1, 1): judge(Claim(**fields), [True, True, False])}, x="a", y="b")
    assert ax.texts[0].get_text() == "refuted\n2 of 3"
