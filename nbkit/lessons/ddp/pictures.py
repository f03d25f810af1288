"""Draw the pictures of ddp; each function takes `ax` and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from torch import Tensor

from nbkit.base.equivalence import EquivalenceReport
from nbkit.lab import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Seconds = list[float]


def draw_costs(ax: Axes, parts: Mapping[str, Seconds], micro_batches: int, rows: int) -> Axes:
    """Draw milliseconds per 1,000 examples: of one process, and of two by what they do.

    Args:
        ax: the axes.
        parts: seconds from `update_seconds`, round by round.
        micro_batches: in an update of the two processes.
        rows: of a micro-batch, on each process.
    """
    scale = 1e6 / (2 * rows)  # from seconds for 2 * rows examples
    ax.barh(0, scale * median(parts["alone"]), color=plots.BASELINE, height=0.5)
    # The bar of the two processes is stacked from its parts, each beginning where the last ends.
    left = 0.0
    looks = {"computing": plots.TECHNIQUE, "averaging": "#F0B890", "updating": "#BBBBBB"}
    for name, color in looks.items():
        # An update of the two takes several micro-batches; one process steps after each.
        width = scale * median(parts[name]) / micro_batches
        ax.barh(1, width, left=left, color=color, height=0.5, label=name)
        left += width
    ax.set_yticks([0, 1], ["one\nprocess", "two"])
    ax.set(xlabel="ms per 1,000 examples", ylim=(2.0, -0.45), xlim=(0, None))
    # In one row below the bars, small enough for a tile of the explorer.
    ax.legend(
        loc="lower center", ncols=3, frameon=False, fontsize=7, handlelength=1, columnspacing=1
    )
    return ax


def draw_timed_losses(ax: Axes, losses: Mapping[str, Tensor], seconds: Sequence[Seconds]) -> Axes:
    """Draw the training loss against the time of the updates; one process first, then two."""
    colors, heights = (plots.BASELINE, plots.TECHNIQUE), (0.93, 0.84)
    for (name, rows), each, color, height in zip(
        losses.items(), seconds, colors, heights, strict=True
    ):
        # Update k ends after k + 1 times the median of its seconds.
        x = [1000 * median(each) * (k + 1) for k in range(rows.shape[1])]
        plots.seeds(ax, rows, label="", color=color, x=x)
        ax.plot(x[-1], float(rows[:, -1].nanmedian()), "o", color=color, markersize=5)
        ax.text(0.97, height, name, transform=ax.transAxes, ha="right", va="center", color=color)
    seeds = len(next(iter(losses.values())))
    ax.set(xlabel=f"ms of training, {seeds} seeds", ylabel="training loss", ylim=(0, 3.3))
    ax.set_xlim(left=0)
    return ax


def draw_pairs(ax: Axes, title: str, labels: tuple[str, str], seconds: Sequence[Seconds]) -> Axes:
    """Draw the milliseconds of the technique and of the other arm, with a line for each round."""
    for with_, without in zip(*seconds, strict=True):
        ax.plot([0, 1], [1000 * without, 1000 * with_], color=plots.QUIET, alpha=0.4, linewidth=1)
    for x, values, color in ((1, seconds[0], plots.TECHNIQUE), (0, seconds[1], plots.BASELINE)):
        ax.plot([x] * len(values), [1000 * v for v in values], "o", color=color, markersize=5)
    ax.set_xticks([0, 1], [labels[1], labels[0]])  # the technique stands on the right
    ax.set(title=title, ylabel="ms", xlim=(-0.4, 1.4), ylim=(0, None))
    return ax


def draw_errors(ax: Axes, reports: Mapping[str, EquivalenceReport]) -> Axes:
    """Draw how far each gradient of two processes is from that of one, and the rounding limit."""
    tolerances = []
    for row, report in enumerate(reports.values()):
        tolerances.append(report.tolerance)
        color = plots.BEST if report.equivalent else plots.TECHNIQUE
        shown = max(report.error, 1e-17)  # a log axis has no place for 0
        ax.barh(row, shown, left=1e-18, color=color, height=0.6)
        ax.text(2 * shown, row, f"{report.error:.1g}", va="center", fontsize=8, color=color)
    # One line for all: the least strict limit of the reports.
    ax.axvline(max(tolerances), color=plots.QUIET, linestyle=":")
    ax.set_yticks(range(len(reports)), list(reports))
    ax.set(xscale="log", xlim=(1e-17, 1e2), ylim=(len(reports) - 0.4, -0.6))
    ax.set_xlabel("largest error of the gradient, relative; left of the dotted line it is rounding")
    return ax


def draw_lives(
    ax: Axes, attempts: Sequence[tuple[list[int], Seconds]], whole: Seconds, every: int
) -> Axes:
    """Draw the losses of each attempt over those of a run that was never killed.

    Args:
        ax: the axes.
        attempts: for each attempt its steps and their losses.
        whole: the losses of the run that was never killed.
        every: steps from one checkpoint to the next.
    """
    # Wide and grey, so that the attempts show on top of it.
    ax.plot(range(1, len(whole) + 1), whole, color="#CCCCCC", linewidth=7, label="never killed")
    colors = (plots.BASELINE, plots.TECHNIQUE, plots.BEST)
    for k, (steps, losses) in enumerate(attempts):
        color = colors[min(k, len(colors) - 1)]  # further attempts share the last color
        ax.plot(steps, losses, color=color, linewidth=4 - 2.5 * min(k, 1), label=f"attempt {k + 1}")
        if k < len(attempts) - 1:  # every attempt but the last ended with a killed rank
            end = (steps[-1], losses[-1])
            ax.plot(*end, "X", color=color, markersize=11, zorder=5)
            ax.annotate(
                f"rank 1 killed at step {steps[-1]}",
                end,
                xytext=(10, 40),
                textcoords="offset points",
                color=color,
                arrowprops={"arrowstyle": "-", "color": color},
            )
    saved = range(every, len(whole) + 1, every)
    ax.plot(saved, [0] * len(saved), "^", color=plots.QUIET, clip_on=False, label="checkpoint")
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, len(whole) + 1), ylim=(0, None))
    ax.legend(frameon=False)
    return ax
