"""The pictures of lesson `accumulation`: each draws on the axes that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nbkit.lab import plots
from nbkit.lab.runs.seeds import Runs
from nbkit.lessons.accumulation.task import measure_step_memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIB = 1024

# Where an axis of losses has its ticks.
LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10)


def average_by_window(runs: Runs, group: int) -> Tensor:
    """Average the first arm's losses over windows of `group` steps: (seeds, windows)."""
    losses = runs.losses[0]
    # Steps of an unfinished window are left out.
    windows = losses.shape[1] // group
    grouped: Tensor = losses[:, : windows * group].unflatten(1, (windows, group))
    return grouped.mean(-1)


def set_loss_axis(ax: Axes) -> Axes:
    """Give an axis of losses a logarithmic scale with readable ticks, down to 0.01 at most."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(FixedLocator(LOSSES))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    # The frame never shrinks, so that pictures of different settings compare.
    ax.set_ylim(max(0.01, min(low, 0.4)), max(high, 3.0))
    return ax


def draw_by_examples(
    ax: Axes, curves: Mapping[str, Tensor], window: int, colors: Mapping[str, str]
) -> Axes:
    """Draw training losses against the examples seen, on cleared axes.

    Args:
        curves: name -> losses (seeds, windows).
        window: examples in each.
    """
    ax.clear()
    for name, losses in curves.items():
        # Each window has seen that many examples more.
        x = [window * (k + 1) for k in range(losses.shape[1])]
        plots.seeds(ax, losses, label=name, color=colors[name], x=x)
    longest = max(losses.shape[1] for losses in curves.values())
    ax.set(xlabel="examples seen", ylabel="training loss", xlim=(0, 1.45 * window * longest))
    return plots.spread_names(set_loss_axis(ax))


def draw_smoothness(
    ax: Axes, counts: Sequence[int], arms: Mapping[str, tuple[Tensor, str]]
) -> Axes:
    """Draw the gradient's variance, relative to one micro-batch's, by micro-batches in a step.

    Args:
        arms: name -> variances (seeds, counts), and the colour.
    """
    # Independent micro-batches would fall along this line.
    ax.plot(counts, [1 / count for count in counts], color=plots.QUIET, linestyle=":")
    for name, (variances, color) in arms.items():
        plots.seeds(ax, variances / variances[:, :1], label=name, color=color, x=counts)
    ax.text(counts[2], 0.8 / counts[2], "1 / count ", color=plots.QUIET, ha="right", va="top")
    ax.set(xscale="log", yscale="log", xlim=(0.9, 4 * counts[-1]))
    ax.set(xlabel="micro-batches of 8 in a step", ylabel="variance of the gradient, relative")
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")
    return ax


def draw_lr_search(
    axes: Sequence[Axes],
    grid: Sequence[float],
    searched: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    colors: Mapping[str, str],
) -> Sequence[Axes]:
    """Draw the last loss at each lr, and the best lr's losses by examples and by steps.

    Args:
        searched: name -> losses (lrs, seeds, points), a point every 512 examples.
        best: name -> losses (seeds, points).
        sizes: name -> samples in a step.
    """
    for name, size in sizes.items():
        # A point every 512 examples.
        when = [512 * (k + 1) for k in range(best[name].shape[1])]
        # (lrs, seeds): the loss that the search compares.
        color, at_end = colors[name], searched[name][..., -1]
        plots.seeds(axes[0], at_end.T, label="", color=color, x=grid)
        plots.seeds(axes[1], best[name], label=name, color=color, x=when)
        plots.seeds(axes[2], best[name], label="", color=color, x=[n / size for n in when])
    axes[0].set(xscale="log", xlabel="learning rate", ylabel=f"loss after {when[-1]:,} examples")
    axes[1].set(xlabel="examples seen", xlim=(0, 1.5 * when[-1]))
    axes[1].set(ylabel="training loss at the best lr")
    axes[2].set(xscale="log", xlabel="steps taken", xlim=(6, None))
    for height, name in zip((0.14, 0.06), sizes, strict=True):
        place = axes[2].transAxes
        axes[2].text(0.04, height, name, transform=place, color=colors[name], fontsize=9)
    for ax in axes:
        set_loss_axis(ax)
    return axes


def draw_mistakes(
    axes: Sequence[Axes], errors: Mapping[str, Sequence[float]], ends: Mapping[str, Sequence[float]]
) -> Sequence[Axes]:
    """Draw the gradient's error and the final loss of each way to accumulate, a dot for each seed.

    The first way of each is the right one; the medians are written beside the dots.
    """
    for ax, rows, form in zip(axes, (errors, ends), (".0%", ".2f"), strict=True):
        for row, values in enumerate(rows.values()):
            median = float(torch.tensor(values).median())
            color = plots.BASELINE if row else plots.TECHNIQUE
            ax.plot(values, [row] * len(values), "o", color=color, alpha=0.5, markersize=5)
            # Rounding errors need powers of ten; the others read better as shares.
            text = f"{median:.0e}" if median < 1e-3 else f"{median:{form}}"
            ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set(ylim=(len(rows) - 0.4, -0.6))
    axes[0].set(xscale="log", xlabel="error of the gradient, as a share of its largest entry")
    axes[1].set_xlabel("training loss at the end")
    return axes


def draw_step_worth(
    ax: Axes, rates: Sequence[float], brings: Mapping[str, Sequence[Tensor]], *, needed: float
) -> Axes:
    """Draw by how much one step lowers the loss at each lr, and how much would be needed."""
    for (name, rows), color in zip(brings.items(), (plots.BASELINE, plots.TECHNIQUE), strict=True):
        plots.seeds(ax, torch.stack(list(rows)), label="", color=color, x=rates)
        # Left of its fall, or above its rise.
        height = -0.5 if color == plots.BASELINE else 3.6  # left of its fall, or above its rise
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


def draw_memory_bars(ax: Axes, model: nn.Module, x: Tensor, y: Tensor, size: int) -> Axes:
    """Draw what a step on these samples holds, as one batch and in micro-batches of `size`."""
    pieces = f"{-(-len(x) // size)} of {size}"
    for row, (name, each) in enumerate([(f"one batch of {len(x)}", len(x)), (pieces, size)]):
        report = measure_step_memory(model, x, y, each)
        # Activations grow with the micro-batch; the rest does not.
        growing = report.activations / KIB
        fixed = report.total / KIB - growing
        ax.barh(row, fixed, color=plots.QUIET, alpha=0.5, height=0.5)
        color = plots.TECHNIQUE if row else plots.BEST
        ax.barh(row, growing, left=fixed, color=color, height=0.5)
        ax.text(0, row - 0.3, f"{name}: {fixed + growing:,.0f} KiB", va="bottom", fontsize=8)
    told = "grey: weights, gradients,\nmomentum, samples\ncolour: activations"
    ax.text(0, 1.32, told, va="top", fontsize=7)
    ax.set_yticks([])
    ax.set(xlabel="KiB held by a step", ylim=(2.1, -0.7))
    return ax


def draw_memory_curve(
    ax: Axes, model: nn.Module, x: Tensor, y: Tensor, sizes: Sequence[int]
) -> Axes:
    """Draw what a step on these samples holds against the size of its micro-batches."""
    reports = [measure_step_memory(model, x, y, size) for size in sizes]
    # The floor that no micro-batch can lower.
    fixed = [(report.total - report.activations) / KIB for report in reports]
    whole = [report.total / KIB for report in reports]
    ax.fill_between(sizes, 0, fixed, color=plots.QUIET, alpha=0.4, linewidth=0)
    ax.fill_between(sizes, fixed, whole, color=plots.TECHNIQUE, alpha=0.4, linewidth=0)
    ax.plot(sizes, whole, "o-", color=plots.TECHNIQUE, markersize=4)
    told = "weights, gradients, momentum, samples "
    ax.text(sizes[-1], 0.5 * fixed[-1], told, ha="right", va="center", fontsize=9)
    ax.text(sizes[-1], 0.5 * whole[-1], "activations ", ha="right", fontsize=9)
    ax.set(xlabel=f"samples in a micro-batch (a step has {len(x)})", ylabel="KiB held by a step")
    ax.set(ylim=(0, None), xlim=(0, None))
    ax.set_xticks([size for size in sizes if size >= 8])
    return ax
