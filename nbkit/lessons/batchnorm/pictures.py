"""The pictures of the lesson batchnorm: each takes axes and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbkit.batchnorm import BNReport
from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTING_GAP = 0.15  # standard deviations; `bn_gap` ignores smaller gaps


def draw_layer_gaps(ax: Axes, reports: Mapping[str, BNReport]) -> Axes:
    """Draw the mean gap of each layer as a bar, on an `ax` that is cleared first.

    A gap counts from the dotted line on.

    Args:
        reports: one, or one before and one after re-estimation: a bar for each.
    """
    ax.clear()
    height, widest = 0.8 / len(reports), COUNTING_GAP
    count = len(next(iter(reports.values())).layers)
    for row, (name, report) in enumerate(reports.items()):
        # A layer without a gap was not measured and gets no bar.
        widths = [layer.mean_gap or 0.0 for layer in report.layers]
        # Layer k takes the places from k to k + 0.8, shared by the reports.
        places = [k + row * height for k in range(count)]
        color = (plots.BASELINE, plots.TECHNIQUE)[row]
        ax.barh(places, widths, height=0.9 * height, color=color, align="edge", label=name)
        widest = max(widest, *widths)
    ax.axvline(COUNTING_GAP, color=plots.QUIET, linestyle=":")
    for_layers = range(count)
    ax.set_yticks([k + 0.4 for k in for_layers], [f"BatchNorm {k + 1}" for k in for_layers])
    ax.set(xlim=(0, 1.1 * widest), xlabel="gap, in std. dev.")
    ax.invert_yaxis()  # the first layer on top
    if len(reports) > 1:
        ax.legend(frameon=False)
    return ax


def draw_accuracies(
    ax: Axes, steps: Sequence[int], looks: Sequence[Sequence[Tensor]], colors: Mapping[str, str]
) -> Axes:
    """Draw test accuracy over training, on an `ax` that is cleared first.

    Args:
        steps: training steps after which accuracy was measured.
        looks: for each of these steps, a tensor (runs,) for each name in `colors`.
        colors: of each way to evaluate, by name.
    """
    ax.clear()
    for k, (name, color) in enumerate(colors.items()):
        values = torch.stack([look[k] for look in looks], dim=1)  # (runs, steps)
        plots.seeds(ax, values, label="", color=color, x=steps)
        # The curves may lie on each other, so the names stand in a column beside the axes.
        ax.text(
            1.02, 0.9 - 0.12 * k, name, color=color, fontsize=9, transform=ax.transAxes, va="center"
        )
    # A tenth is what guessing among ten digits gets.
    ax.axhline(0.1, color=plots.QUIET, linestyle=":", linewidth=0.8)
    ax.set(xlabel="step", ylabel="test accuracy", ylim=(0, 1.02))
    return ax


def draw_seed_dots(
    ax: Axes,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    color: str,
    label: str,
    *,
    at: float,
) -> Axes:
    """Draw a dot for each seed at each x on a logarithmic axis; join and name their medians.

    Args:
        values: for each x the values of all seeds.
        at: position of the name along the line, from 0 to 1.
    """
    rows = torch.tensor(values)  # (x, seeds)
    for place, row in zip(x, rows, strict=True):
        ax.plot([place] * len(row), row, "o", color=color, alpha=0.3, markersize=4)
    medians = rows.median(dim=1).values
    ax.plot(x, medians, color=color, linewidth=2.2)
    point = round(at * (len(x) - 1))
    name = ax.annotate(
        label,
        (x[point], float(medians[point])),
        xytext=(6, -12),
        textcoords="offset points",
        color=color,
        fontsize=9,
    )
    # A white ground, since the name stands between dots.
    name.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    ax.set_xscale("log")
    ax.set_xticks(x, [f"{place:g}" for place in x])
    ax.minorticks_off()
    return ax


def draw_seed_pairs(ax: Axes, values: Mapping[str, Sequence[float]]) -> Axes:
    """Draw two columns of dots, without and with the technique; a line joins each seed's pair.

    Args:
        values: name of the column -> one value for each seed, "without" first.
    """
    # The lines first, so that they run below the dots.
    for pair in zip(*values.values(), strict=True):
        ax.plot([0, 1], pair, color=plots.QUIET, alpha=0.5, linewidth=0.8)
    for place, column in enumerate(values.values()):
        color = (plots.BASELINE, plots.TECHNIQUE)[place]
        ax.plot([place] * len(column), column, "o", color=color, alpha=0.7)
    ax.set_xticks([0, 1], list(values))
    ax.set_xlim(-0.5, 1.5)
    return ax


def draw_moving_averages(
    ax: Axes,
    batch: Sequence[float],
    truth: Sequence[float],
    running: Mapping[float, Sequence[float]],
) -> Axes:
    """Draw one channel's mean over training: of each batch, of all data, and moving averages.

    Args:
        batch: mean of each step's batch.
        truth: mean of all training data, with the weights of that step.
        running: momentum -> the moving average before the first step and after each step.
    """
    # The averages start at x = 0, one value before the first batch.
    steps = range(1, len(batch) + 1)
    ax.plot(steps, batch, ".", color=plots.QUIET, alpha=0.5, markersize=4, label="each batch")
    for (momentum, values), style in zip(running.items(), ("--", "-", ":"), strict=True):
        ax.plot(values, style, color=plots.BASELINE, label=f"momentum {momentum:g}")
    ax.plot(steps, truth, color="black", linewidth=1.8, label="all the data")
    ax.set(xlabel="step", ylabel="mean of one channel")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
