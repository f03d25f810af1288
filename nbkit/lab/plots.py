"""Every picture of the lab: takes `ax`, returns `ax`, never calls show.

One arm keeps one colour throughout the course; the palette is Okabe and Ito's, which colour-blind
readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from nbkit.base.numbers import read_real
from nbkit.lab.evidence.claims import INCONCLUSIVE, REFUTED, SKIPPED, SUPPORTED, Verdict
from nbkit.lab.machine import describe_machine
from nbkit.lab.runs.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TECHNIQUE, BASELINE, BEST, QUIET = "#D55E00", "#0072B2", "#009E73", "#767676"
VERDICTS = {SUPPORTED: BEST, REFUTED: TECHNIQUE, INCONCLUSIVE: "#B8860B", SKIPPED: QUIET}


def seeds(
    ax: Axes,
    values: torch.Tensor,
    *,
    label: str,
    color: str,
    x: Sequence[float] | None = None,
    at: float = 1.0,
) -> Axes:
    """Every seed a thin line, their median thick over them, with its name beside it.

    Args:
        values: (seeds, points); a diverged run's NaN and infinite points are left out of its line.
        x: the points' positions; 1, 2, 3, ... by default.
        at: where along the median its name stands: 1 is at its end.
    """
    rows = values.detach().float().cpu()
    rows = torch.where(rows.isfinite(), rows, math.nan)
    x = range(1, rows.shape[1] + 1) if x is None else x
    ax.plot(x, rows.T, color=color, alpha=0.25, linewidth=0.8)
    median = rows.nanmedian(dim=0).values
    ax.plot(x, median, color=color, linewidth=2.2, label=label)
    alive = median.isfinite().nonzero().flatten().tolist()
    if alive:
        point = alive[min(int(at * len(alive)), len(alive) - 1)]
        ax.annotate(
            label,
            (x[point], float(median[point])),
            xytext=(6, -3),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
        )
    return ax


def arms(ax: Axes, runs: Runs, colors: Mapping[str, str]) -> Axes:
    """The training losses of each arm so far, in its colour, on an `ax` that is cleared first."""
    ax.clear()
    for name, losses in zip(runs.arms, runs.losses, strict=True):
        seeds(ax, losses, label=name, color=colors[name])
    ax.set(xlabel="step", ylabel="training loss", yscale="log", xlim=(1, 1.4 * runs.step + 1))
    return spread_names(ax)


def spread_names(ax: Axes, gap: float = 11.0) -> Axes:
    """Move the names beside lines up or down until neighbours are `gap` points apart.

    Call it when the limits and scales of `ax` are set, and again when they have changed.
    """
    from matplotlib.text import Annotation

    points = 72 / ax.figure.dpi
    names = [text for text in ax.texts if isinstance(text, Annotation)]
    ends = [float(ax.transData.transform(name.xy)[1]) * points for name in names]
    heights = [end + name.xyann[1] for name, end in zip(names, ends, strict=True)]
    order = sorted(range(len(names)), key=heights.__getitem__)
    for _ in range(20):  # neighbours push each other away, half the overlap each
        for low, high in pairwise(order):
            push = max(0.0, gap - (heights[high] - heights[low])) / 2
            heights[low] -= push
            heights[high] += push
    for name, end, height in zip(names, ends, heights, strict=True):
        name.xyann = (name.xyann[0], height - end)
    return ax


def landing(
    ax: Axes, lr: float | Sequence[float], losses: torch.Tensor, *, color: str = BASELINE
) -> Axes:
    """Where trainings at these lrs end, a dot a seed, on a picture over the lr; redrawn each time.

    Args:
        lr: one for all, or one a seed.
        losses: (seeds,) final losses; a diverged run is drawn at the top edge.
    """
    for old in [artist for artist in ax.lines if artist.get_gid() == "landing"]:
        old.remove()
    one = read_real(lr)
    lrs = lr if one is None else [one] * len(losses)
    bottom, top = ax.get_ylim()
    shown = losses.detach().float().cpu().nan_to_num(math.inf, math.inf).clamp(max=top)
    ax.plot(lrs, shown, "o", color=color, alpha=0.6, markersize=5, clip_on=False, gid="landing")
    lowest = float(shown.min())
    if lowest < bottom:
        ax.set_ylim(lowest - 0.1 * abs(lowest), top)
    return ax


def ladder(ax: Axes, lrs: Sequence[float], losses: torch.Tensor, *, chance: float) -> Axes:
    """Final loss against learning rate: a dot a seed, the median as a line.

    Args:
        lrs: (lrs,) the grid.
        losses: (lrs, seeds) final training losses; a diverged run is drawn at the top edge.
        chance: the loss of guessing, drawn as a dotted line.
    """
    losses = losses.detach().float().cpu()
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
    """Each verdict a row: the effect, its interval, the margin it is held against."""
    for row, verdict in enumerate(verdicts):
        color = VERDICTS[verdict.verdict]
        effect, margin = verdict.effect, verdict.claim.margin
        if effect is None:
            continue
        high = min(effect.high, 10.0)  # an open interval runs into the frame
        ax.plot([effect.low, high], [row, row], color=color, linewidth=3, solid_capstyle="butt")
        ax.plot(min(effect.estimate, 10.0), row, "o", color=color, markersize=8)
        if margin is not None:
            ax.plot([margin, margin], [row - 0.35, row + 0.35], color="black", linewidth=1)
        told = verdict.reason if margin is None else f"{effect}"
        ax.text(1.02, row, told, transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    ax.set_yticks(range(len(verdicts)), [f"{v.claim.id}  {v.verdict}" for v in verdicts])
    ax.set_ylim(len(verdicts) - 0.4, -0.6)
    ax.set_xlabel("effect, with its interval; the black bar is the margin")
    return ax


def against_margin(ax: Axes, verdict: Verdict, *, label: str, title: str = "") -> Axes:
    """One verdict, large: the interval as a bar, its estimate as a dot, the margin as a line.

    Args:
        label: what the axis shows, in a few words.
        title: stands before the verdict.
    """
    effect, margin, color = verdict.effect, verdict.claim.margin, VERDICTS[verdict.verdict]
    ax.set_title(f"{title} {verdict.verdict}".strip(), color=color, fontsize=10)
    ax.set(yticks=[], ylim=(-1, 1), xlabel=label)
    if effect is None or margin is None:
        return ax

    far = 4 * margin  # an interval without an upper end runs into the frame
    ax.plot([effect.low, min(effect.high, far)], [0, 0], color=color, linewidth=6)
    ax.plot(min(effect.estimate, far), 0, "o", color=color, markersize=11)
    ax.axvline(margin, color="black", linewidth=1)
    ax.annotate(f"margin {margin:g}", (margin, 0.8), xytext=(4, 0), textcoords="offset points")
    if verdict.claim.measure == "ratio":
        ax.set_xlim(0, max(2 * margin, 1.15 * min(effect.high, far)))
    return ax


def grid(ax: Axes, verdicts: Mapping[tuple[float, float], Verdict], *, x: str, y: str) -> Axes:
    """A verdict a cell, over the values of two knobs: where a technique helps and where not."""
    columns = sorted({key[0] for key in verdicts})
    rows = sorted({key[1] for key in verdicts})
    for (column, row), verdict in verdicts.items():
        i, j = columns.index(column), rows.index(row)
        ax.add_patch(_square(i, j, VERDICTS[verdict.verdict]))
        ax.text(i, j, verdict.verdict.lower(), ha="center", va="center", color="white", fontsize=8)
    ax.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    ax.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel=x, ylabel=y)
    return ax


def caption(ax: Axes, text: str) -> Axes:
    """A line under the picture: how many seeds, what the band is, which hardware."""
    ax.figure.supxlabel(
        f"{text} · {describe_machine()}", fontsize=7, color=QUIET, x=0.01, ha="left"
    )
    return ax


def _square(i: int, j: int, color: str):
    from matplotlib.patches import Rectangle

    return Rectangle((i - 0.48, j - 0.48), 0.96, 0.96, color=color)
