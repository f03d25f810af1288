"""The pictures of the lesson embeddings: each takes axes and returns them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from nbkit.lab.runs.seeds import Runs

CHANCE = math.log(10)  # the loss of guessing among ten authors
LAB_STEPS = 45  # training steps of the live lab
COLORS = {
    "yours": plots.TECHNIQUE,
    "PyTorch": plots.BASELINE,
    "PyTorch at its best lr": plots.BEST,
}


def draw_table_arms(ax: Axes, runs: Runs) -> Axes:
    """Draw the training losses of the live lab so far, on fixed axes."""
    return plots.arms(ax, runs, COLORS, steps=LAB_STEPS, ylim=(0.03, 10), chance=CHANCE)


def draw_spread_trials(ax: Axes, trials: Mapping[float, Sequence[float]]) -> Axes:
    """Draw the losses of trainings from tables of several spreads; what leaves the frame is cut."""
    # From grey to black: colours belong to the arms of a comparison.
    for k, (spread, losses) in enumerate(trials.items(), start=1):
        shade = str(0.7 * (1 - k / len(trials)))
        ax.plot(range(1, len(losses) + 1), losses, color=shade, label=f"spread {spread:g}")
    ax.axhline(CHANCE, color=plots.QUIET, linestyle=":", linewidth=1)
    ax.set(xlabel="step", ylabel="training loss", ylim=(0, 6))
    ax.legend(frameon=False, loc="upper right")
    return ax


def draw_turns(ax: Axes, turns: Mapping[float, Tensor]) -> Axes:
    """Draw how far each word's row has turned: a dot a word, a bar for the median.

    Args:
        turns: spread of the table -> (words,) angles in degrees.
    """
    for place, angles in enumerate(turns.values()):
        # Side by side, so that dots of one height do not hide one another.
        beside = [place - 0.25 + 0.5 * k / len(angles) for k in range(len(angles))]
        ax.plot(beside, angles.tolist(), ".", color=plots.QUIET, markersize=4)
        middle = float(angles.median())
        ax.plot([place - 0.35, place + 0.35], [middle, middle], color="black", linewidth=2.5)
    ax.axhline(90, color=plots.QUIET, linestyle=":", linewidth=1)
    ax.set_xticks(range(len(turns)), [f"{spread:g}" for spread in turns])
    ax.set(xlabel="spread of the table at the start", ylabel="turn of a row, degrees")
    ax.set_ylim(0, 130)
    return ax
