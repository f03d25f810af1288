"""The pictures of the lesson weight_norm: each takes axes and returns them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from nbkit.lab.runs.seeds import Runs

CHANCE = math.log(10)  # the loss of guessing among ten digits
LAB_STEPS = 45  # training steps of the live lab
COLORS = {
    "weight norm": plots.TECHNIQUE,
    "plain": plots.BASELINE,
    "plain at its best lr": plots.BEST,
}


def draw_normed_arms(ax: Axes, runs: Runs) -> Axes:
    """Draw the training losses of the live lab so far, on fixed axes."""
    return plots.arms(ax, runs, COLORS, steps=LAB_STEPS, ylim=(0.1, 10), chance=CHANCE)


def draw_scale_trials(ax: Axes, trials: Mapping[float, Sequence[float]]) -> Axes:
    """Draw the losses of trainings from starts of several scales; what leaves the frame is cut."""
    # From grey to black: colours belong to the arms of a comparison.
    for k, (scale, losses) in enumerate(trials.items(), start=1):
        shade = str(0.7 * (1 - k / len(trials)))
        ax.plot(range(1, len(losses) + 1), losses, color=shade, label=f"scale {scale:g}")
    ax.axhline(CHANCE, color=plots.QUIET, linestyle=":", linewidth=1)
    ax.set(xlabel="step", ylabel="training loss", yscale="log", ylim=(0.1, 1000))
    ax.legend(frameon=False, loc="upper right")
    return ax


def draw_accuracy_by_scale(
    ax: Axes, scales: Sequence[float], accuracies: Tensor, *, passing: float
) -> Axes:
    """Draw test accuracy against the scale of the initial weights, a dot for each run.

    Args:
        scales: (runs,) factors on Kaiming's weights.
        accuracies: (2 arms, runs), weight norm first.
        passing: the accuracy that counts as learned, drawn as a dotted line.
    """
    ours, theirs = accuracies.tolist()
    # The baseline's ring is larger, so that a dot at the same place does not hide it.
    ring: dict[str, Any] = {"color": plots.BASELINE, "markerfacecolor": "none", "markersize": 8}
    ax.plot(scales, theirs, "o", label="plain", **ring)
    ax.plot(scales, ours, "o", label="weight norm", color=plots.TECHNIQUE, markersize=4)
    ax.axhline(passing, color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", ylim=(0, 1.3), ylabel="test accuracy")
    ax.set_xlabel("scale of the initial weights (1 is Kaiming's)")
    ticks = [0.25, 0.5, 1, 2, 4]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_yticks([0, 0.5, 1])
    # The frame ends above 1, to leave room for the names.
    ax.legend(frameon=False, loc="upper center", ncols=2)
    return ax


def draw_lengths(ax: Axes, lengths: Mapping[float, Sequence[float]]) -> Axes:
    """Draw the mean length of v over the steps, a line for each lr."""
    for k, (lr, values) in enumerate(lengths.items(), start=1):
        shade = str(0.7 * (1 - k / len(lengths)))
        # Each line is divided by its first value: all of them start at 1.
        ax.plot([value / values[0] for value in values], color=shade, label=f"lr {lr:g}")
    ax.set(xlabel="step", ylabel="length of v / at the start")
    ax.legend(frameon=False)
    return ax
