"""Draw the pictures of the lab: each function takes `ax`, returns `ax` and never calls show.

One arm keeps one colour throughout the course; the palette is Okabe and Ito's, which colour-blind
readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from nbkit.base.numbers import read_real
from nbkit.lab.evidence.claims import INCONCLUSIVE, REFUTED, SKIPPED, SUPPORTED, Outcome
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.machine import describe_machine
from nbkit.lab.runs.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

TECHNIQUE, BASELINE, BEST, QUIET = "#D55E00", "#0072B2", "#56B4E9", "#767676"
VERDICTS = {
    SUPPORTED: "#1B7837",
    REFUTED: "#762A83",
    INCONCLUSIVE: "#8C6D1F",
    SKIPPED: "#767676",
}
SHAPES = {SUPPORTED: "o", REFUTED: "X", INCONCLUSIVE: "o", SKIPPED: "_"}
# Larger effects are drawn here: the margins of all claims lie far below.
LARGEST_EFFECT = 10.0


def style_verdict(outcome: Outcome) -> dict[str, Any]:
    """Return what `ax.plot(x, y, **style)` needs to draw the mark of a verdict."""
    color = VERDICTS[outcome]
    return {
        "marker": SHAPES[outcome],
        "color": color,
        "linestyle": "none",
        "markersize": 9,
        # The edge of a hollow circle, and the stroke of a dash, must be wide enough to be seen.
        "markeredgewidth": 0 if outcome == REFUTED else 2,
        "markerfacecolor": "none" if outcome == INCONCLUSIVE else color,
    }


def seeds(
    ax: Axes,
    values: torch.Tensor,
    *,
    label: str,
    color: str,
    x: Sequence[float] | None = None,
    at: float = 1.0,
) -> Axes:
    """Draw each seed as a thin line and their median as a thick one, with its name beside it.

    Args:
        values: (seeds, points); a diverged run's NaN and infinite points are left out of its line.
        label: the name beside the median.
        color: colour of all lines.
        x: the points' positions; 1, 2, 3, ... by default.
        at: position of the name along the median, from 0 to 1; 1 is its end.
    """
    rows = values.detach().float().cpu()
    # matplotlib leaves a gap at NaN, but an infinite point would stretch its axes.
    rows = torch.where(rows.isfinite(), rows, math.nan)
    x = range(1, rows.shape[1] + 1) if x is None else x
    # matplotlib draws one line for each column: (seeds, points) -> (points, seeds).
    ax.plot(x, rows.T, color=color, alpha=0.25, linewidth=0.8)
    median = rows.nanmedian(dim=0).values
    ax.plot(x, median, color=color, linewidth=2.2, label=label)
    # The name stands beside a point that is drawn: where all seeds diverged, there is none.
    drawn = median.isfinite().nonzero().flatten().tolist()
    if drawn:
        point = drawn[min(int(at * len(drawn)), len(drawn) - 1)]
        _write_beside(ax, label, (x[point], float(median[point])), color)
    return ax


def _write_beside(ax: Axes, label: str, point: tuple[float, float], color: str) -> None:
    """Write the name of a line beside one of its points; `spread_names` may move it later."""
    ax.annotate(
        label,
        point,
        xytext=(6, -3),
        textcoords="offset points",
        va="center",
        color=color,
        fontsize=9,
    )


def arms(ax: Axes, runs: Runs, colors: Mapping[str, str]) -> Axes:
    """Clear `ax`, and draw the training losses of each arm so far in the arm's colour."""
    ax.clear()
    for name, losses in zip(runs.arms, runs.losses, strict=True):
        seeds(ax, losses, label=name, color=colors[name])
    # The axis ends after the last step, to leave room for the names.
    ax.set(xlabel="step", ylabel="training loss", yscale="log", xlim=(1, 1.4 * runs.step + 1))
    return spread_names(ax)


def spread_names(ax: Axes, gap: float = 11.0) -> Axes:
    """Move the names beside lines up or down until neighbours are `gap` points apart.

    Call it when the limits and scales of `ax` are set, and again when they have changed.
    """
    from matplotlib.text import Annotation

    names = [text for text in ax.texts if isinstance(text, Annotation)]
    # Data -> pixels -> points (72 per inch), which is the unit of the names' offsets.
    points = 72 / ax.figure.dpi
    ends = [float(ax.transData.transform(name.xy)[1]) * points for name in names]
    heights = [end + name.xyann[1] for name, end in zip(names, ends, strict=True)]
    _push_apart(heights, gap)
    for name, end, height in zip(names, ends, heights, strict=True):
        name.xyann = (name.xyann[0], height - end)
    return ax


def _push_apart(heights: list[float], gap: float) -> None:
    """Change the heights in place until neighbours are about `gap` apart; their order stays."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    # Pushing two names apart may push one onto the next: 20 rounds are enough for a picture.
    for _ in range(20):
        for low, high in pairwise(order):
            # Each of the two neighbours moves by half the overlap.
            push = max(0.0, gap - (heights[high] - heights[low])) / 2
            heights[low] -= push
            heights[high] += push


def landing(
    ax: Axes, lr: float | Sequence[float], losses: torch.Tensor, *, color: str = BASELINE
) -> Axes:
    """Draw one dot per seed for the final losses of trainings at these lrs, over the lr.

    Args:
        lr: one learning rate for all seeds, or one for each.
        losses: (seeds,) final losses; a diverged run is drawn at the top edge.
        color: colour of the dots.

    The dots of an earlier call are removed.
    """
    # A copy of the list: removing a line while iterating would skip the next one.
    for line in list(ax.lines):
        if line.get_gid() == "landing":
            line.remove()
    single = read_real(lr)
    lrs = lr if single is None else [single] * len(losses)
    bottom, top = ax.get_ylim()
    # A loss that is not finite, or lies above the picture, becomes a dot at its top edge.
    shown = losses.detach().float().cpu().nan_to_num(math.inf, math.inf).clamp(max=top)
    ax.plot(lrs, shown, "o", color=color, alpha=0.6, markersize=5, clip_on=False, gid="landing")
    # A loss below the picture is a real result: the axis grows to show its value.
    lowest = float(shown.min())
    if lowest < bottom:
        ax.set_ylim(lowest - 0.1 * abs(lowest), top)
    return ax


def ladder(ax: Axes, lrs: Sequence[float], losses: torch.Tensor, *, chance: float) -> Axes:
    """Draw final loss against learning rate: one dot per seed, and the median as a line.

    Args:
        lrs: (lrs,) the grid of learning rates.
        losses: (lrs, seeds) final training losses; a diverged run is drawn at the top edge.
        chance: the loss of guessing, drawn as a dotted line.
    """
    losses = losses.detach().float().cpu()
    # A training that is far worse than guessing counts as diverged.
    top = 3 * chance
    shown = torch.where(losses.isfinite(), losses, math.inf).clamp(max=top)
    for lr, row in zip(lrs, shown, strict=True):
        ax.plot([lr] * len(row), row, "o", color=BASELINE, alpha=0.35, markersize=4, clip_on=False)
    ax.plot(lrs, shown.median(dim=1).values, color=BASELINE, linewidth=2)
    ax.axhline(chance, color=QUIET, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="final training loss")
    ax.set_ylim(top=top)
    return ax


def effects(ax: Axes, verdicts: Sequence[Verdict]) -> Axes:
    """Draw one row for each verdict: the effect, its interval, and the margin of its claim."""
    labels = []
    for row, verdict in enumerate(verdicts):
        labels.append(f"{verdict.claim.id}  {verdict.verdict}")
        # A verdict without an effect was not measured: its row has a label only.
        if verdict.effect is not None:
            _draw_effect_row(ax, row, verdict, verdict.effect)
    ax.set_yticks(range(len(verdicts)), labels)
    # The axis runs downwards, so that the first verdict stands at the top.
    ax.set_ylim(len(verdicts) - 0.4, -0.6)
    ax.set_xlabel("effect, with its interval; the black bar is the margin")
    return ax


def _draw_effect_row(ax: Axes, row: int, verdict: Verdict, effect: Interval) -> None:
    color, margin = VERDICTS[verdict.verdict], verdict.claim.margin
    # An interval without an upper end has to end somewhere on the axis.
    high = min(effect.high, LARGEST_EFFECT)
    ax.plot([effect.low, high], [row, row], color=color, linewidth=3, solid_capstyle="butt")
    ax.plot(min(effect.estimate, LARGEST_EFFECT), row, "o", color=color, markersize=8)
    if margin is not None:
        ax.plot([margin, margin], [row - 0.35, row + 0.35], color="black", linewidth=1)
    text = verdict.reason if margin is None else str(effect)
    # x in fractions of the axes, y in data: the text stands to the right of the frame.
    ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=8)


def against_margin(ax: Axes, verdict: Verdict, *, label: str, title: str = "") -> Axes:
    """Draw one verdict: the interval as a bar, its estimate as a dot, the margin as a line.

    Args:
        label: name of the axis, in a few words.
        title: text in front of the verdict.
    """
    effect, margin, color = verdict.effect, verdict.claim.margin, VERDICTS[verdict.verdict]
    ax.set_title(f"{title} {verdict.verdict}".strip(), color=color, fontsize=10)
    ax.set(yticks=[], ylim=(-1, 1), xlabel=label)
    if effect is None or margin is None:
        return ax

    # An interval without an upper end has to end somewhere on the axis.
    far = 4 * margin
    ax.plot([effect.low, min(effect.high, far)], [0, 0], color=color, linewidth=6)
    ax.plot(min(effect.estimate, far), 0, "o", color=color, markersize=11)
    ax.axvline(margin, color="black", linewidth=1)
    ax.annotate(f"margin {margin:g}", (margin, 0.8), xytext=(4, 0), textcoords="offset points")
    # The axis of a ratio starts at 0, so that lengths can be compared by eye.
    if verdict.claim.measure == "ratio":
        ax.set_xlim(0, max(2 * margin, 1.15 * min(effect.high, far)))
    return ax


def grid(ax: Axes, verdicts: Mapping[tuple[float, float], Verdict], *, x: str, y: str) -> Axes:
    """Draw one verdict per cell over the values of two knobs, to show where a technique helps.

    Args:
        verdicts: the verdict for each pair of values (of the knob on x, of the knob on y).
        x, y: names of the two knobs.
    """
    columns = sorted({column for column, _ in verdicts})
    rows = sorted({row for _, row in verdicts})
    # Cells have equal sizes: they stand at the places 0, 1, 2, ... and not at their values.
    for (column, row), verdict in verdicts.items():
        i, j = columns.index(column), rows.index(row)
        ax.add_patch(_make_square(i, j, VERDICTS[verdict.verdict]))
        ax.text(i, j, verdict.verdict.lower(), ha="center", va="center", color="white", fontsize=8)
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel=x, ylabel=y)
    return ax


def caption(ax: Axes, text: str) -> Axes:
    """Write a line under the picture: the given text, and the hardware."""
    line = f"{text} · {describe_machine()}"
    ax.figure.supxlabel(line, fontsize=7, color=QUIET, x=0.01, ha="left")
    return ax


def _make_square(i: int, j: int, color: str) -> Rectangle:
    """Make the square of one cell of a grid, with a little white around it."""
    from matplotlib.patches import Rectangle

    return Rectangle((i - 0.48, j - 0.48), 0.96, 0.96, color=color)
