"""The pictures of lesson `amp`: each draws on the axes that it is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbkit.lab import plots
from nbkit.lab.evidence.intervals import Interval
from nbkit.lessons.amp.formats import (
    FIELDS,
    RANGES,
    count_rounding,
    describe_stored,
    store_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Size = tuple[int, int]  # width of the layers, samples in a batch

# What becomes of a number: it is lost, loses digits, or keeps them. Three steps of grey, too.
LOST, SHORT, KEPT = "#555555", "#F0E442", plots.BEST
# The three fields of a number, from its sign to its fraction.
FIELD_NAMES = ("sign", "exponent", "fraction")
FIELD_COLORS = ("#222222", "#7A5195", "#7D8894")
ROW = 1.7  # from one row of bits to the next, in heights of a bit; a line of text stands between
COLORS = {"float32": plots.BASELINE, "yours": plots.TECHNIQUE}
LEFT, RIGHT = -64, 48  # powers of two at the ends of the histogram
LOWEST, HIGHEST = 0.02, 5.0  # loss relative to guessing, at the ends of the axis


# ---- one number ----


def draw_bits(ax: Axes, number: float, scale: float = 1.0) -> Axes:
    """Draw a number, times the scale, as it is stored in three formats: a box for each bit."""
    for row, precision in enumerate(FIELDS):
        stored = store_number(number * scale, precision)
        place = 0
        for bits, color in zip(stored.bits, FIELD_COLORS, strict=True):
            for bit in bits:
                _draw_bit(ax, place, ROW * row, bit, color)
                place += 1
        text = f"{precision}: {describe_stored(stored, scale)}"
        ax.text(-0.4, ROW * row - 0.5, text, fontsize=9, va="bottom")
    # The names of the fields stand under the last row.
    for x, name, color in zip((-0.4, 2.0, 9.0), FIELD_NAMES, FIELD_COLORS, strict=True):
        ax.text(x, 2 * ROW + 0.6, name, color=color, fontsize=8, va="top")
    ax.set(xlim=(-0.6, 32), ylim=(2 * ROW + 1.1, -1.2), xticks=[], yticks=[])
    ax.set_frame_on(False)
    written = f"{number:g}" if scale == 1 else f"{number:g} times $2^{{{math.log2(scale):.0f}}}$"
    ax.set_title(f"{written}, in memory", fontsize=10)
    return ax


def _draw_bit(ax: Axes, place: int, row: float, bit: str, color: str) -> None:
    """Draw one bit: a full box for 1, an empty one for 0."""
    from matplotlib.patches import Rectangle

    fill = color if bit == "1" else "white"
    box = Rectangle((place - 0.4, row - 0.4), 0.8, 0.8, facecolor=fill, edgecolor=color)
    ax.add_patch(box)
    ax.text(
        place,
        row,
        bit,
        ha="center",
        va="center",
        fontsize=7,
        color="white" if bit == "1" else color,
    )


def draw_ranges(ax: Axes, number: float, scale: float = 1.0) -> Axes:
    """Draw the range of each format as a bar, and the number before and after the scale."""
    for row, (zero, short, top) in enumerate(RANGES.values()):
        # Numbers with all their digits, then the subnormal ones.
        ax.barh(row, top - short, left=short, color=KEPT, height=0.5)
        ax.barh(row, short - zero, left=zero, color=SHORT, height=0.5)
    if number:
        power = math.log2(abs(number))
        ax.axvline(power, color="black", linewidth=1.2)
        if scale != 1:
            ax.axvline(power + math.log2(scale), color="black", linewidth=1.2, linestyle="--")
    ax.set_yticks(range(len(RANGES)), list(RANGES))
    ax.set_xticks(range(-100, 101, 50), [f"$2^{{{k}}}$" for k in range(-100, 101, 50)])
    ax.set(xlim=(-155, 135), ylim=(2.6, -0.6))
    ax.set_title("range (yellow: fewer digits)", fontsize=10)
    return ax


# ---- many gradients, and what becomes of a training ----


def draw_histogram(ax: Axes, values: Tensor, precision: str, scale: float = 1.0) -> Axes:
    """Draw how large the numbers are, times the scale, against what the format can hold."""
    zero, short, top = RANGES[precision]
    # log2 of each scaled gradient, at the edge of the frame where it lies outside.
    power = (values.double().abs().log2() + math.log2(scale)).clamp(LEFT, RIGHT)
    # One bin for each power of two.
    counts, edges = torch.histogram(power, bins=RIGHT - LEFT, range=(LEFT, RIGHT))
    heights = 100 * counts / len(power)
    for bin_ in heights.nonzero().flatten().tolist():
        height, edge = float(heights[bin_]), float(edges[bin_])
        # Rounds to zero or overflows; keeps some digits; keeps all.
        color = LOST if edge < zero or edge >= top else SHORT if edge < short else KEPT
        ax.bar(edge, height, width=0.9, align="edge", color=color)
    for low, high, color in ((LEFT, zero, LOST), (zero, short, SHORT), (top, RIGHT, LOST)):
        if low < high and high > LEFT and low < RIGHT:
            ax.axvspan(max(low, LEFT), min(high, RIGHT), color=color, alpha=0.12, linewidth=0)
    found = count_rounding(values, precision, scale)
    said = {"zero": "become 0", "short": "lose digits", "kept": "kept", "infinite": "infinite"}
    lines = [
        f"{100 * found[name]:.0f} % {word}" for name, word in said.items() if found[name] >= 0.005
    ]
    ax.text(0.98, 0.95, "\n".join(lines), transform=ax.transAxes, ha="right", va="top", fontsize=9)
    ax.set_xticks(range(-60, 41, 20), [f"$2^{{{k}}}$" for k in range(-60, 41, 20)])
    # Fixed: a bin never holds more than a quarter of these gradients.
    ax.set(xlim=(LEFT, RIGHT), ylim=(0, 25))
    ax.set(xlabel="size of a gradient, times the loss scale", ylabel="gradients (%)")
    ax.set_title(f"{precision}, loss scale $2^{{{math.log2(scale):.0f}}}$", fontsize=10)
    return ax


def draw_relative_losses(ax: Axes, arms: Mapping[str, Sequence[Tensor]], *, steps: int) -> Axes:
    """Draw the losses of each arm so far, relative to guessing, on cleared axes that stay fixed.

    Args:
        arms: name -> for each step so far the losses of all runs, (runs).
        steps: of the whole training.
    """
    ax.clear()
    for name, losses in arms.items():
        plots.seeds(ax, torch.stack(list(losses), dim=1), label=name, color=COLORS[name])
    ax.axhline(1, color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.text(1.38 * steps, 1.06, "guessing", color=plots.QUIET, fontsize=8, ha="right", va="bottom")
    ax.set(xlabel="step", ylabel="training loss / guessing", yscale="log")
    ax.set(xlim=(0, 1.4 * steps), ylim=(LOWEST, HIGHEST))
    ax.set_xticks(range(0, steps + 1, 10))
    ax.set_yticks([0.03, 0.1, 0.3, 1, 3], ["0.03", "0.1", "0.3", "1", "3"])
    ax.set_yticks([], minor=True)
    return plots.spread_names(ax)


def draw_shares(ax: Axes, shares: Mapping[float, Mapping[str, float]]) -> Axes:
    """Draw, for each unit of length, the final loss in each format, relative to guessing.

    Args:
        shares: side of a pixel in metres -> format -> final loss / guessing.
    """
    formats = list(next(iter(shares.values())))
    for row, found in enumerate(shares.values()):
        for k, name in enumerate(formats):
            place = row + 0.26 * (k - 1)
            ax.barh(place, found[name], height=0.22, color=(plots.BASELINE, KEPT, LOST)[k])
            text = f" {name}  {found[name]:.2g}"
            ax.text(found[name], place, text, va="center", fontsize=8)
    ax.axvline(1, color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(shares)), [f"a pixel is {pixel:g}" for pixel in shares])
    ax.set(xlim=(0, 1.45), ylim=(len(shares) - 0.5, -0.5))
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "guessing"])
    ax.set(xlabel="final loss / guessing")
    return ax


def show_shares(shares: Mapping[float, Mapping[str, float]]) -> None:
    """Show `draw_shares` as a picture of its own."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(7, 0.6 + 0.8 * len(shares)), layout="constrained")
    draw_shares(ax, shares)
    plt.show()


# ---- where it pays ----


def draw_ratio_grid(
    ax: Axes, found: Mapping[Size, Interval | float], *, better: str, title: str
) -> Axes:
    """Draw a ratio in each cell of width and batch, in the colour of the precision that wins.

    Args:
        found: (width, batch) -> the ratio; grey where its interval reaches 1.00.
        better: "above" if a ratio above 1 is good for bf16, "below" if one below 1 is.
    """
    widths, batches = (sorted({key[i] for key in found}) for i in (0, 1))
    for (width, batch), ratio in found.items():
        # A float is a count and has no interval.
        value = ratio.estimate if isinstance(ratio, Interval) else ratio
        low, high = (ratio.low, ratio.high) if isinstance(ratio, Interval) else (value, value)
        half, full = plots.TECHNIQUE, plots.BASELINE
        up, down = (half, full) if better == "above" else (full, half)
        color = up if low > 1.005 else down if high < 0.995 else plots.QUIET
        i, j = widths.index(width), batches.index(batch)
        ax.fill([i - 0.48, i + 0.48, i + 0.48, i - 0.48], [j - 0.48] * 2 + [j + 0.48] * 2, color)
        ax.text(i, j, f"{value:.2f}", ha="center", va="center", color="white")
    ax.set_xticks(range(len(widths)), [str(width) for width in widths])
    ax.set_yticks(range(len(batches)), [str(batch) for batch in batches])
    ax.set(xlabel="width of the layers", ylabel="batch size")
    ax.set_title(title, fontsize=10)
    return ax


def show_map(faster: Mapping[Size, Interval], smaller: Mapping[Size, float]) -> None:
    """Show speed and memory over width and batch, side by side."""
    import matplotlib.pyplot as plt

    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    draw_ratio_grid(left, faster, better="above", title="times as fast as float32")
    draw_ratio_grid(right, smaller, better="below", title="memory of a step, bf16 / float32")
    plots.caption(left, "orange: bf16 wins, blue: float32 wins · 6 rounds a cell, in one process")
    plt.show()
