"""The pictures of the lesson batchnorm: each takes axes and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbkit.batchnorm import BNLayer, BNReport
from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNTING_GAP = 0.15  # standard deviations; `bn_gap` ignores smaller gaps
COLORS = {
    "as trained": plots.BASELINE,
    "best momentum": plots.BEST,
    "re-estimated": plots.TECHNIQUE,
}


def draw_layer_gaps(
    ax: Axes, reports: Mapping[str, BNReport], *, widest: float | None = None
) -> Axes:
    """Draw the gap of each layer as a bar, the larger of the mean's and the variance's.

    A gap counts from the dotted line on.

    Args:
        reports: one, or one before and one after re-estimation: a bar for each.
        widest: where the axis ends; a longer bar is cut there and its gap written on it. None fits
            the axis to the bars.
    """
    height = 0.8 / len(reports)
    end = (
        1.1 * max(COUNTING_GAP, *map(_find_widest, reports.values())) if widest is None else widest
    )
    for row, (name, report) in enumerate(reports.items()):
        color = (plots.BASELINE, plots.TECHNIQUE)[row]
        for k, layer in enumerate(report.layers):
            gap = _read_gap(layer)
            # Layer k takes the places from k to k + 0.8, shared by the reports.
            place = k + row * height
            label = name if k == 0 else None
            ax.barh(
                place, min(gap, end), height=0.9 * height, color=color, align="edge", label=label
            )
            if gap > end:
                ax.text(0.98 * end, place + height / 2, f"{gap:.0f}", ha="right", va="center")
    ax.axvline(COUNTING_GAP, color=plots.QUIET, linestyle=":")
    count = len(next(iter(reports.values())).layers)
    ax.set_yticks([k + 0.4 for k in range(count)], [f"layer {k + 1}" for k in range(count)])
    # Upside down, so that the first layer is on top.
    ax.set(xlim=(0, end), ylim=(count, -0.2), xlabel="gap of the running statistics")
    if len(reports) > 1:
        ax.legend(frameon=False)
    return ax


def _read_gap(layer: BNLayer) -> float:
    """Return the larger of a layer's two gaps; 0 if it was not measured."""
    return max(layer.mean_gap or 0.0, layer.var_gap or 0.0)


def _find_widest(report: BNReport) -> float:
    """Return the largest gap of a report."""
    return max(map(_read_gap, report.layers))


def draw_accuracies(ax: Axes, steps: Sequence[int], looks: Mapping[str, Sequence[Tensor]]) -> Axes:
    """Draw test accuracy in eval mode over training, on axes that stay where they are.

    Args:
        steps: training steps after which accuracy was measured.
        looks: for each way to evaluate, a tensor (runs,) for each of these steps.
    """
    for name, values in looks.items():
        rows = torch.stack(list(values), dim=1)  # (runs, steps)
        plots.seeds(ax, rows, label=name, color=COLORS[name], x=steps)
    # A tenth is what guessing among ten digits gets.
    ax.axhline(0.1, color=plots.QUIET, linestyle=":", linewidth=1)
    ax.text(steps[0], 0.05, "guessing", color=plots.QUIET, fontsize=8, va="center")
    # Room to the right of the last step for the names.
    ax.set(xlabel="training step", ylabel="test accuracy, eval mode")
    ax.set(xlim=(steps[0] - 5, 1.75 * steps[-1]), ylim=(0, 1.02), xticks=list(steps))
    return plots.spread_names(ax)


def draw_failure(shares: Mapping[str, float], spreads: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the two modes of one network: the share of right answers, and the signal by layer.

    Args:
        shares: mode -> share of right answers.
        spreads: mode -> standard deviation of what each BatchNorm layer puts out.
    """
    from matplotlib import pyplot

    fig, (left, right) = pyplot.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
    colors = {"train": plots.QUIET, "eval": plots.BASELINE}
    for row, (mode, share) in enumerate(shares.items()):
        left.barh(row, share, color=colors[mode], height=0.6)
        # Written inside a long bar and beside a short one.
        inside = share > 0.5
        place, color = (share - 0.02, "white") if inside else (share + 0.02, "black")
        ha = "right" if inside else "left"
        left.text(place, row, f"{share:.0%} right", ha=ha, va="center", color=color)
    left.set_yticks(range(len(shares)), [f"{mode} mode" for mode in shares])
    left.set(xlim=(0, 1), xlabel="share of the 300 test images", ylim=(len(shares) - 0.4, -0.6))
    for mode, values in spreads.items():
        layers = range(1, len(values) + 1)
        right.plot(layers, values, "o-", color=colors[mode], label=f"{mode} mode")
    right.set(xlabel="BatchNorm layer", ylabel="spread of its output", ylim=(0, None))
    right.set_xticks(list(layers))
    right.legend(frameon=False)
    return fig


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
    # As many styles as there are momenta, from the start again if there are more than three.
    for (momentum, values), style in zip(running.items(), cycle(("--", "-", ":")), strict=False):
        ax.plot(values, style, color=plots.BASELINE, label=f"momentum {momentum:g}")
    ax.plot(steps, truth, color="black", linewidth=1.8, label="all the data")
    ax.set(xlabel="step", ylabel="mean of one channel")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
