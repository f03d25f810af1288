"""The picture of the lesson lr_finder: it takes axes and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_delivery(ax: Axes, lrs: Sequence[float], shares: Mapping[int, Sequence[float]]) -> Axes:
    """Draw what a step delivers of its promise against its lr, a curve for each training step.

    Args:
        lrs: the learning rates of all curves.
        shares: training step, counted from 1 -> one share for each lr.
    """
    for step, values in shares.items():
        ax.plot(lrs, values, label=f"step {step}")
    # Below this line a step has overshot: the loss is higher than before.
    ax.axhline(0, color=plots.QUIET, linewidth=0.8)
    ax.set(xscale="log", ylim=(-1, 1.4), xlabel="learning rate", ylabel="delivered / promised")
    ax.legend(frameon=False)
    return ax
