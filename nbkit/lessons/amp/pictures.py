"""The pictures of lesson `amp`: each draws on the axes that it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nbkit.amp import StepReport
from nbkit.lab import plots
from nbkit.lab.evidence.intervals import Interval
from nbkit.lessons.amp.task import count_rounding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Powers of two: below the first a number rounds to zero, from the second on it has all its digits,
# from the third on it is infinite.
RANGES = {"fp32": (-150, -126, 128), "bf16": (-134, -126, 128), "fp16": (-25, -14, 16)}
LOST, SHORT, KEPT = plots.TECHNIQUE, "#E69F00", plots.BEST
COLORS = {"float32": plots.BASELINE, "bf16": plots.BEST, "yours": plots.TECHNIQUE}
COLORS |= {"fp16, no scale": plots.QUIET, "fp16, scaled": plots.TECHNIQUE}


def draw_histogram(ax: Axes, values: Tensor, precision: str, scale: float = 1.0) -> Axes:
    """Draw how large the numbers are, times the scale, against what the format can hold."""
    ax.clear()
    zero, short, top = RANGES[precision]
    left, right = -64, 48
    # log2 of each scaled gradient, at the edge of the frame where it lies outside.
    power = (values.double().abs().log2() + math.log2(scale)).clamp(left, right)
    # One bin for each power of two.
    counts, edges = torch.histogram(power, bins=right - left, range=(left, right))
    heights = 100 * counts / len(power)
    for bin_ in heights.nonzero().flatten().tolist():
        height, edge = float(heights[bin_]), float(edges[bin_])
        # Rounds to zero or overflows; keeps some digits; keeps all.
        color = LOST if edge < zero or edge >= top else SHORT if edge < short else KEPT
        ax.bar(edge, height, width=0.9, align="edge", color=color)
    # Room above the bars for the text.
    highest = 1.35 * float(heights.max())
    for low, high, color in ((left, zero, LOST), (zero, short, SHORT), (top, right, LOST)):
        if low < high and high > left and low < right:
            ax.axvspan(max(low, left), min(high, right), color=color, alpha=0.12, linewidth=0)
    found = count_rounding(values, precision, scale)
    said = {"zero": "become 0", "short": "lose digits", "kept": "kept", "infinite": "infinite"}
    lines = [
        f"{100 * found[name]:.0f} % {word}" for name, word in said.items() if found[name] >= 0.005
    ]
    ax.text(0.98, 0.95, "\n".join(lines), transform=ax.transAxes, ha="right", va="top", fontsize=9)
    ax.set_xticks(range(-60, 49, 20), [f"$2^{{{k}}}$" for k in range(-60, 49, 20)])
    ax.set(xlim=(left, right), ylim=(0, highest))
    ax.set(xlabel="size of a gradient, times the loss scale", ylabel="gradients (%)")
    ax.set_title(f"{precision}, loss scale $2^{{{math.log2(scale):.0f}}}$", fontsize=10)
    return ax


def draw_formats(ax: Axes, values: Tensor) -> Axes:
    """Draw each format's range as a bar, and where the values lie."""
    for row, (zero, short, top) in enumerate(RANGES.values()):
        # Numbers with all their digits, then the subnormal ones.
        ax.barh(row, top - short, left=short, color=KEPT, height=0.5)
        ax.barh(row, short - zero, left=zero, color=SHORT, height=0.5)
    power = values.double().abs().log2()
    # The middle 98 % of the gradients.
    low, high = (float(power.quantile(q)) for q in (0.01, 0.99))
    ax.axvspan(low, high, color=plots.BASELINE, alpha=0.25, linewidth=0)
    ax.text((low + high) / 2, -0.75, "our gradients", color=plots.BASELINE, ha="center", fontsize=9)
    ax.text(24, 2, "green: with all its digits\nyellow: with fewer", va="center", fontsize=9)
    ax.set_yticks(range(len(RANGES)), list(RANGES))
    ax.set_xticks(range(-150, 151, 50), [f"$2^{{{k}}}$" for k in range(-150, 151, 50)])
    ax.set(xlabel="size of a number (each mark is 50 doublings)", ylim=(2.5, -1.1))
    return ax


def draw_two_noises(
    ax: Axes, differences: Sequence[float], mean: Interval, one: Interval, *, margin: float
) -> Axes:
    """Draw two kinds of noise on one scale: from the seeds, and from the test digits.

    Args:
        differences: of each seed, accuracy with the technique - without.
        mean: of these, over the seeds.
        one: the accuracy of a single model, over the test examples.
        margin: how far from zero still counts as the same.
    """
    rows = ("test digits: one model", "seeds: mean difference", "each seed")
    # The interval of one model, moved so that its centre is 0: only its width counts here.
    low, high = 100 * (one.low - one.estimate), 100 * (one.high - one.estimate)
    ax.plot([low, high], [0, 0], color=plots.QUIET, linewidth=4, solid_capstyle="butt")
    ends = [100 * mean.low, 100 * mean.high]
    ax.plot(ends, [1, 1], color=plots.TECHNIQUE, linewidth=4, solid_capstyle="butt")
    ax.plot(100 * mean.estimate, 1, "o", color=plots.TECHNIQUE)
    # Seeds are spread around their row.
    spread = [2 + 0.3 * (k / max(1, len(differences) - 1) - 0.5) for k in range(len(differences))]
    points = [100 * difference for difference in differences]
    ax.plot(points, spread, "o", color=plots.TECHNIQUE, alpha=0.5, markersize=4)
    for end in (-margin, margin):
        ax.axvline(100 * end, color="black", linewidth=1)
    ax.text(100 * margin, -0.55, " margin", fontsize=8)
    ax.axvline(0, color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(3), rows)
    ax.set(ylim=(-0.6, 2.6), xlabel="accuracy, bf16 - fp32 (points)")
    return ax


def draw_relative_losses(ax: Axes, arms: Mapping[str, Sequence[Tensor]]) -> Axes:
    """Draw the losses of each arm's trainings, relative to guessing, on cleared axes."""
    ax.clear()
    for name, losses in arms.items():
        plots.seeds(ax, torch.stack(list(losses)), label="", color=COLORS[name])
        ax.lines[-1].set_label(name)  # a legend: arms that end alike would write over each other
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    ax.legend(loc="lower left", frameon=False, fontsize=8)
    ax.set(xlabel="step", ylabel="training loss / guessing", yscale="log")
    return ax


def draw_skips(ax: Axes, reports: Sequence[StepReport]) -> Axes:
    """Draw the loss scale of each step, and which steps were skipped."""
    # A skipped step shows the scale that was too large.
    for stepped, color, word in ((False, LOST, "skipped"), (True, KEPT, "made")):
        steps = [k for k, report in enumerate(reports, 1) if report.stepped is stepped]
        scales = [reports[k - 1].scale for k in steps]
        ax.plot(steps, scales, "o", color=color, markersize=4)
        if steps:
            first = (steps[0], scales[0])
            ax.annotate(word, first, xytext=(8, 6), textcoords="offset points", color=color)
    ax.set_yscale("log", base=2)
    ax.margins(y=0.2)
    ax.set(xlabel="step", ylabel="loss scale")
    return ax


def draw_against_scale(
    ax: Axes, scales: Sequence[float], arms: Mapping[str, Sequence[Any]], *, ylabel: str
) -> Axes:
    """Draw how a number falls as the loss scale grows: seeds thin, their median thick.

    Args:
        arms: name -> a value a scale; or such a row for each seed.
    """
    for color, (name, rows) in zip((plots.TECHNIQUE, plots.BASELINE), arms.items(), strict=False):
        # (seeds, scales); a single row becomes one seed.
        values = torch.tensor(rows).reshape(-1, len(scales))
        plots.seeds(ax, values, label="", color=color, x=scales)
        ax.lines[-1].set_label(name)
    ax.legend(frameon=False)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="loss scale", ylabel=ylabel, ylim=(0, None))
    return ax


def draw_ratio_grid(
    ax: Axes, found: Mapping[tuple[int, int], Interval | float], *, better: str, title: str
) -> Axes:
    """Draw a ratio in each cell of width and batch: green where the technique wins, else orange.

    Args:
        found: (width, batch) -> the ratio; grey where its interval reaches 1.00.
        better: "above" if a ratio above 1 is good, "below" if one below 1 is.
    """
    widths, batches = (sorted({key[i] for key in found}) for i in (0, 1))
    for (width, batch), ratio in found.items():
        # A float is a count and has no interval.
        value = ratio.estimate if isinstance(ratio, Interval) else ratio
        low, high = (ratio.low, ratio.high) if isinstance(ratio, Interval) else (value, value)
        # Green means good, whichever side that is.
        up, down = (KEPT, LOST) if better == "above" else (LOST, KEPT)
        color = up if low > 1.005 else down if high < 0.995 else plots.QUIET
        i, j = widths.index(width), batches.index(batch)
        ax.fill([i - 0.48, i + 0.48, i + 0.48, i - 0.48], [j - 0.48] * 2 + [j + 0.48] * 2, color)
        ax.text(i, j, f"{value:.2f}", ha="center", va="center", color="white")
    ax.set_xticks(range(len(widths)), [str(width) for width in widths])
    ax.set_yticks(range(len(batches)), [str(batch) for batch in batches])
    ax.set(xlabel="width of the layers", ylabel="batch size")
    ax.set_title(title, fontsize=10)
    return ax
