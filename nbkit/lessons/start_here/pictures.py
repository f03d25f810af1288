"""The pictures of the lesson start_here: each takes axes and returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nbkit.lab.evidence.intervals import Interval
    from nbkit.lab.runs.seeds import Runs


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
