"""The pictures of lesson `clipping`: each draws on the axes that it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nbkit.lab import plots
from nbkit.lessons.clipping.task import find_lost_runs, measure_downhill

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BY_VALUE, ADAPTIVE = "#CC79A7", "#56B4E9"  # with plots.TECHNIQUE for clipping by norm


def draw_strips(ax: Axes, rows: Mapping[str, Tensor], *, classes: Mapping[str, int]) -> Axes:
    """Draw each arm as a row of dots, one a seed, at its final loss / that of guessing.

    Args:
        rows: name -> (seeds,) final losses; names that end in "no clipping" are the baseline.
        classes: how many answers the task of each row has.
    """
    right = 1.6  # where a run that ends above, or nowhere, is drawn
    for place, (name, losses) in enumerate(rows.items()):
        color = plots.BASELINE if name.endswith("no clipping") else plots.TECHNIQUE
        # 1 is the loss of guessing, log(classes), so that tasks share one axis.
        share = losses.detach().cpu() / math.log(classes[name])
        # What diverged stays in the frame, at its right edge.
        shown = share.nan_to_num(right, right).clamp(max=right).tolist()
        # Seeds are spread up and down inside their row, so that equal losses stay visible.
        spread = [place + 0.5 * (k / max(1, len(shown) - 1) - 0.5) for k in range(len(shown))]
        ax.plot(shown, spread, "o", color=color, alpha=0.5, markersize=4, clip_on=False)
        count = int(find_lost_runs(losses, classes[name]).sum())
        ax.text(right + 0.06, place, f"{count} of {len(shown)} lost", va="center", color=color)
    ax.axvline(0.95, color=plots.QUIET, linestyle=":")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, right), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xlabel("final loss / loss of guessing (right of the dotted line: lost)")
    return ax


def draw_clipped_elements(
    ax: Axes, before: Tensor, after: Mapping[str, Tensor], colors: Sequence[str]
) -> Axes:
    """Draw every element of one gradient after each rule against the element before."""
    for (name, clipped), color in zip(after.items(), colors, strict=True):
        ax.plot(before, clipped, "o", color=color, label=name, markersize=3, alpha=0.7)
    ax.legend(frameon=False)
    ax.set(xlabel="element of the gradient", ylabel="the same element after clipping")
    return ax


def draw_spike(ax: Axes, values: Sequence[Tensor], name: str) -> Axes:
    """Draw one number a step, on a logarithmic scale."""
    ax.plot(range(1, len(values) + 1), values, color=plots.BASELINE)
    ax.set(xlabel="step", ylabel=name, yscale="log")
    return ax


def draw_training_losses(ax: Axes, losses: Tensor, colors: Mapping[str, str]) -> Axes:
    """Draw losses (arms, seeds, steps) as means of ten steps, on cleared axes."""
    ax.clear()
    steps = losses.shape[-1] // 10 * 10
    # Means of ten steps: single steps are too noisy to compare.
    means = losses[..., :steps].unflatten(-1, (-1, 10)).mean(-1)
    for row, ((name, color), values) in enumerate(zip(colors.items(), means, strict=True)):
        plots.seeds(ax, values, label="", color=color, x=range(10, steps + 1, 10))
        ax.text(0.03, 0.03 + 0.09 * row, name, color=color, transform=ax.transAxes)
    ax.axhline(math.log(2), color=plots.QUIET, linestyle=":", linewidth=0.8)
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, steps + 1), ylim=(0.2, 1.0))
    return ax


def draw_journey(ax: Axes, norms: Mapping[str, Sequence[float]]) -> Axes:
    """Draw the gradient's norm at each state against the distance from the end."""
    for (name, values), color in zip(norms.items(), (plots.QUIET, plots.BASELINE), strict=True):
        # From the end of the sequence to its beginning: the way that the gradient takes.
        back = values[::-1]
        ax.plot(range(len(back)), back, "o-", color=color, markersize=3)
        ax.text(len(back), back[-1], name, va="center", color=color)
    ax.set(yscale="log", xlabel="numbers back from the end", ylabel="norm of the gradient for h")
    ax.set_xlim(-0.5, 1.45 * len(back))
    return ax


def draw_cliff(
    ax: Axes, model: nn.Module, x: Tensor, y: Tensor, *, steps: Mapping[str, float]
) -> Axes:
    """Draw the loss straight down the gradient, and where steps of these lengths end."""
    reach = 2 * max(steps.values())
    # Four decades, evenly spaced in the logarithm.
    distances = [reach * 10 ** (k / 40) for k in range(-160, 1)]
    ax.plot(distances, measure_downhill(model, x, y, distances), color=plots.QUIET)
    ends = measure_downhill(model, x, y, list(steps.values()))
    colors = (plots.TECHNIQUE, plots.BASELINE)
    beside: Any = {"textcoords": "offset points", "ha": "right"}
    for (name, distance), loss, color in zip(steps.items(), ends, colors, strict=True):
        ax.plot(distance, loss, "o", color=color, markersize=8)
        ax.annotate(name, (distance, loss), (-4, 20), color=color, **beside)
    ax.set(xscale="log", yscale="log", xlabel="distance down the gradient", ylabel="loss")
    return ax


def draw_sweep(
    ax: Axes, thresholds: Sequence[float], losses: Tensor, rates: Sequence[float]
) -> Axes:
    """Draw the final loss against the threshold, and the share of clipped steps above it."""
    # One dot a seed; a loss above 1 is drawn at 1.
    for limit, row in zip(thresholds, losses.clamp(max=1.0), strict=True):
        ax.plot([limit] * len(row), row, "o", color=plots.TECHNIQUE, alpha=0.35, markersize=4)
    ax.plot(thresholds, losses.median(dim=1).values, color=plots.TECHNIQUE, linewidth=2)
    ax.axhline(math.log(2), color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", xlabel="max_norm", ylabel="final training loss", ylim=(0.2, 1.0))
    ax.yaxis.label.set_color(plots.TECHNIQUE)
    # The share of clipped steps has its own axis on the right.
    above = ax.twinx()
    above.plot(thresholds, rates, "s--", color=plots.QUIET, markersize=4)
    above.set(ylabel="clip-rate", ylim=(-0.05, 1.05))
    above.yaxis.label.set_color(plots.QUIET)
    return ax
