"""The pictures of lesson `accumulation`: each draws on the axes that it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbkit.lab import plots
from nbkit.lab.runs.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIB = 1024

LOWEST, HIGHEST = 0.05, 10.0  # the axis of losses in the live lab
LOSSES = (0.1, 0.3, 1, 3, 10)  # its ticks
COLORS = {"a step each": plots.BASELINE, "accumulated": plots.TECHNIQUE}


def average_by_window(runs: Runs, group: int) -> Tensor:
    """Average the first arm's losses over windows of `group` steps: (seeds, windows)."""
    losses = runs.losses[0]
    # Steps of an unfinished window are left out.
    windows = losses.shape[1] // group
    grouped: Tensor = losses[:, : windows * group].unflatten(1, (windows, group))
    return grouped.mean(-1)


def draw_by_examples(ax: Axes, curves: Mapping[str, Tensor], window: int, *, examples: int) -> Axes:
    """Draw training losses against the examples seen, on axes that stay where they are.

    Args:
        curves: name -> losses (seeds, windows).
        window: examples in each.
        examples: where the trainings end.
    """
    for name, losses in curves.items():
        # Each window has seen that many examples more.
        x = [window * (k + 1) for k in range(losses.shape[1])]
        shown = losses.clamp(max=HIGHEST)  # a divergence stays at the upper edge
        plots.seeds(ax, shown, label=name, color=COLORS[name], x=x)
    ax.axhline(math.log(10), color=plots.QUIET, linestyle=":", linewidth=1)
    ax.text(0.01 * examples, 1.5 * math.log(10), "dotted: guessing", color=plots.QUIET, fontsize=8)
    ax.set(xlabel="examples seen", ylabel="training loss", yscale="log")
    ax.set(xlim=(0, 1.45 * examples), ylim=(LOWEST, HIGHEST))
    ax.set_xticks(range(0, examples + 1, examples // 4))
    ax.set_yticks(LOSSES, [f"{loss:g}" for loss in LOSSES])
    ax.minorticks_off()
    return plots.spread_names(ax)


def draw_pieces(losses: Mapping[int, Sequence[float]]) -> Figure:
    """Draw the losses of trainings whose batches are cut into so many pieces."""
    from matplotlib import pyplot

    fig, ax = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    palette = [plots.BASELINE, *["0.6"] * (len(losses) - 2), plots.TECHNIQUE]
    for (pieces, curve), color in zip(losses.items(), palette, strict=True):
        shown = [min(loss, 4.0) for loss in curve]
        ax.plot(range(1, len(curve) + 1), shown, color=color, label=f"pieces: {pieces}")
    ax.axhline(math.log(10), color=plots.QUIET, linestyle=":", linewidth=1)
    ax.set(xlabel="step", ylabel="loss on its batch", ylim=(0, 4))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def draw_memory_over_time(ax: Axes, whole: Sequence[int], pieces: Sequence[int]) -> Axes:
    """Draw the activations that a step holds, from its first forward pass to its last backward.

    Args:
        whole: bytes held over time, as one batch.
        pieces: the same in micro-batches.
    """
    for levels, color in ((whole, plots.BEST), (pieces, plots.TECHNIQUE)):
        # Both take one step: the time of each goes from 0 to 1.
        time = [k / (len(levels) - 1) for k in range(len(levels))]
        ax.fill_between(
            time, [level / KIB for level in levels], color=color, alpha=0.5, step="post"
        )
    top = max(whole) / KIB
    pieces_text = f"micro-batches: {max(pieces) / KIB:,.0f} KiB"
    ax.text(0.02, 1.32 * top, f"one batch: {top:,.0f} KiB", color=plots.BEST, fontsize=8, va="top")
    ax.text(0.02, 1.2 * top, pieces_text, color=plots.TECHNIQUE, fontsize=8, va="top")
    ax.set(xlabel="time, one step", ylabel="activations held, KiB", xlim=(0, 1))
    ax.set(ylim=(0, 1.36 * top), xticks=[])
    ax.set_title("a convolutional network", fontsize=9)
    return ax


def draw_step_worth(
    ax: Axes, rates: Sequence[float], brings: Mapping[str, Sequence[Tensor]], *, needed: float
) -> Axes:
    """Draw by how much one step lowers the loss at each lr, and how much would be needed."""
    for (name, rows), color in zip(brings.items(), (plots.BASELINE, plots.TECHNIQUE), strict=True):
        plots.seeds(ax, torch.stack(list(rows)), label="", color=color, x=rates)
        # Left of its fall, or above its rise.
        height = -0.5 if color == plots.BASELINE else 3.6
        ax.text(rates[0], height, name, color=color, va="center", fontsize=9)
    ax.axhline(needed, color=plots.QUIET, linestyle=":")
    ax.axhline(0, color=plots.QUIET, linewidth=0.8)
    told = f"needed: {needed:g} times the best step from one"
    ax.text(rates[0], needed - 0.15, told, color=plots.QUIET, va="top", fontsize=9)
    ax.set(
        xscale="log",
        xlabel="learning rate",
        ylabel="what a step brings\n(1: the best from one)",
        ylim=(-1.5, 9),
    )
    return ax
