"""The pictures of the lesson lr_finder: each takes axes and returns them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbkit.lab import plots
from nbkit.lab.runs.seeds import Runs
from nbkit.lessons.lr_finder.race import EVERY, Race
from nbkit.lr_finder import LRCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANCE = math.log(10)  # the loss of guessing among ten digits
LAB_STEPS = 60  # training steps of the live lab
COLORS = {
    "yours": plots.BASELINE,
    "suggested": plots.TECHNIQUE,
    "best of a grid": plots.BEST,
}


def draw_range_test(ax: Axes, curve: LRCurve, *, yours: float) -> Axes:
    """Draw a range test on axes that stay where they are, with the reader's lr as a line."""
    ax.plot(curve.lrs, curve.losses, color="0.7", linewidth=0.8)
    ax.plot(curve.lrs, curve.smoothed, color="black", linewidth=2, gid="ghost")
    ax.axhline(CHANCE, color=plots.QUIET, linestyle=":", linewidth=1)
    ax.axvline(yours, color=COLORS["yours"], linestyle="--")
    # Beside the line, and on its left where the frame ends on its right.
    side = "right" if yours > 1 else "left"
    ax.text(yours, 4.05, " yours ", color=COLORS["yours"], fontsize=9, ha=side)
    lr = curve.suggest()
    if lr is not None:
        ax.axvline(lr, color=COLORS["suggested"])
        ax.text(lr, 3.75, f" suggested {lr:.2g}", color=COLORS["suggested"], fontsize=9)
    # Fixed, so that a move of a slider shows in the curve and not in the axes.
    ax.set(xscale="log", xlim=(1e-5, 10), ylim=(0, 4.3))
    ax.set(xlabel="learning rate of the rung", ylabel="training loss", title="range test")
    return ax


def draw_arms(ax: Axes, runs: Runs) -> Axes:
    """Draw the trainings of the live lab so far, on fixed axes."""
    plots.arms(ax, runs, COLORS, steps=LAB_STEPS, ylim=(0.03, 10), chance=CHANCE)
    ax.set_title("training")
    return ax


def draw_trials(losses: Mapping[float, Sequence[float]]) -> Figure:
    """Draw the training losses at each lr in a panel, on one scale; what leaves it is clipped."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(losses), figsize=(3 * len(losses), 2.2), sharey=True, layout="constrained"
    )
    for ax, (lr, curve) in zip(axes, losses.items(), strict=True):
        ax.plot(range(1, len(curve) + 1), curve, color="black", linewidth=1)
        ax.axhline(CHANCE, color=plots.QUIET, linestyle=":", linewidth=1)
        ax.set(title=f"lr {lr:g}", xlabel="step", ylim=(0, 6))
    axes[0].set_ylabel("training loss")
    return figure


def draw_race(ax: Axes, race: Race) -> Axes:
    """Draw the test accuracy of each arm over the steps: a thin line a seed, the median thick."""
    palette = {"OneCycle": plots.TECHNIQUE, "constant": plots.BASELINE, "suggested": "black"}
    when = range(EVERY, EVERY * race.accuracy.shape[-1] + 1, EVERY)
    for name, accuracy in zip(race.names, race.accuracy, strict=True):
        label = f"{name}, lr {race.lrs[name]:.2g}"
        plots.seeds(ax, accuracy, label=label, color=palette[name], x=when)
    # The curves end on one another, so a legend names them.
    for text in list(ax.texts):
        text.remove()
    ax.legend(frameon=False, loc="lower right")
    ax.axhline(race.target, color=plots.QUIET, linestyle=":")
    ax.set(xlabel="step", ylabel="test accuracy", xlim=(0, when[-1]), ylim=(0, 1))
    return ax


def draw_delivery(ax: Axes, lrs: Sequence[float], shares: Mapping[int, Sequence[float]]) -> Axes:
    """Draw what a step delivers of its promise against its lr, a curve for each training step.

    Args:
        lrs: the learning rates of all curves.
        shares: training step, counted from 1 -> one share for each lr.
    """
    # From grey to black: colours belong to the arms of a comparison.
    for k, (step, values) in enumerate(shares.items(), start=1):
        shade = str(0.75 * (1 - k / len(shares)))
        ax.plot(lrs, values, color=shade, linewidth=2, label=f"step {step}")
    # Below this line a step has overshot: the loss is higher than before.
    ax.axhline(0, color=plots.QUIET, linewidth=0.8)
    ax.set(xscale="log", ylim=(-1, 1.4), xlabel="learning rate", ylabel="delivered / promised")
    ax.legend(frameon=False)
    return ax
