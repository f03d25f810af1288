"""The pictures of the lesson start_here: each takes axes and returns them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbkit.lab import plots
from nbkit.lessons.start_here.task import STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nbkit.lab.evidence.intervals import Interval
    from nbkit.lab.runs.seeds import Runs


def draw_momentum_arms(ax: Axes, runs: Runs) -> Axes:
    """Draw the training losses of both arms so far, on fixed axes."""
    colors = {"momentum": plots.TECHNIQUE, "without": plots.BASELINE}
    return plots.arms(ax, runs, colors, steps=STEPS, ylim=(0.03, 10), chance=math.log(10))


def draw_single_seeds(ax: Axes, ratios: Sequence[float]) -> Axes:
    """Draw what each of several people would report who had one seed: a dot a person."""
    for person, ratio in enumerate(ratios, start=1):
        helps = ratio < 1
        color = plots.TECHNIQUE if helps else plots.BASELINE
        ax.plot(person, ratio, "o" if helps else "s", color=color, markersize=7)
    ax.axhline(1, color="black", linewidth=1)
    # To the right of the last dot, where no dot can be.
    end = len(ratios) + 0.8
    ax.text(end, 1.15, "momentum harms", fontsize=8, color=plots.QUIET)
    ax.text(end, 0.75, "momentum helps", fontsize=8, color=plots.QUIET)
    ax.set(yscale="log", ylim=(0.2, 5), xlim=(0.2, 1.25 * end))
    ax.set_xticks(range(1, len(ratios) + 1))
    ax.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.set(xlabel="person, each with one seed", ylabel="loss with / without")
    return ax


def draw_paired_losses(ax: Axes, runs: Runs) -> Axes:
    """Join each seed's two final losses by a line, from "without" on the left to "momentum".

    Args:
        runs: two arms, momentum first; losses (2 arms, seeds, steps).
    """
    for ours, theirs in runs.final().T.tolist():
        ax.plot([0, 1], [theirs, ours], "o-", color=plots.QUIET, alpha=0.6, markersize=4)
    ax.set(xticks=[0, 1], xticklabels=["without", "momentum"], ylabel="final training loss")
    # A ratio is a distance on a logarithmic axis: parallel lines have the same ratio.
    ax.set(xlim=(-0.3, 1.3), yscale="log")
    return ax


def draw_growing_samples(ax: Axes, counts: Sequence[int], intervals: Sequence[Interval]) -> Axes:
    """Draw the interval that each number of seeds gives, with its estimate as a dot."""
    for n, interval in zip(counts, intervals, strict=True):
        ax.plot([n, n], [interval.low, interval.high], color=plots.TECHNIQUE, linewidth=3)
        ax.plot(n, interval.estimate, "o", color=plots.TECHNIQUE, markersize=6)
    ax.set(xscale="log", xticks=counts, xticklabels=counts, xlabel="seeds")
    ax.set(ylabel="loss with momentum / without")
    ax.minorticks_off()
    return ax
