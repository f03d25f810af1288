"""Set up the frame of a picture: plain numbers at its ticks, names beside lines, a caption."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from nbkit.lab.machine import describe_machine
from nbkit.lab.plots.palette import QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

EDGE = 6.0  # points between the middle of a name and the frame: half of the height of its letters
# First digits of the ticks within each decade: the sparsest of these that gives enough ticks.
DIGITS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))
FEWEST_TICKS = 3


def write_plain_ticks(axis: Axis) -> None:
    """Put ticks such as 0.1, 0.3, 1, 3 on a logarithmic axis, in place of powers of ten.

    Call it when the limits of the axis are set, and again when they have changed.
    """
    low, high = sorted(axis.get_view_interval())
    ticks = list_plain_ticks(low, high)
    # matplotlib would write 3 x 10^-1; all ticks lie inside, so the limits stay as they are.
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def list_plain_ticks(low: float, high: float) -> list[float]:
    """List round numbers between two limits of a logarithmic axis, a few in each decade.

    Args:
        low: lower limit, above 0.
        high: upper limit.

    >>> list_plain_ticks(0.08, 5)
    [0.1, 0.3, 1.0, 3.0]
    """
    ticks: list[float] = []
    for digits in DIGITS:
        ticks = []
        for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
            for digit in digits:
                # From the text, since 3 * 10**-1 is 0.30000000000000004.
                tick = float(f"{digit}e{exponent}")
                if low <= tick <= high:
                    ticks.append(tick)
        if len(ticks) >= FEWEST_TICKS:
            break
    # More than seven decades: every second, third, ... tick.
    return ticks[:: math.ceil(len(ticks) / 7)] if ticks else ticks


def draw_chance(ax: Axes, chance: float) -> None:
    """Draw the loss of guessing as a dotted line, with the name "chance" at its right end."""
    ax.axhline(chance, color=QUIET, linewidth=0.8, linestyle=":")
    # An annotation, so that `spread_names` moves it away from the names of the lines.
    ax.annotate(
        "chance",
        (ax.get_xlim()[1], chance),
        xytext=(-3, 6),
        textcoords="offset points",
        ha="right",
        va="center",
        color=QUIET,
        fontsize=8,
    )


def write_beside(ax: Axes, label: str, point: tuple[float, float], color: str) -> None:
    """Write the name of a line beside one of its points; `spread_names` may move it later."""
    ax.annotate(
        label,
        point,
        xytext=(6, -3),
        textcoords="offset points",
        va="center",
        color=color,
        fontsize=9,
        # Also where the point lies outside of the frame: spread_names brings the name back in.
        annotation_clip=False,
    )


def spread_names(ax: Axes, gap: float = 11.0) -> Axes:
    """Move the names beside lines up or down until neighbours are `gap` points apart.

    No name leaves the frame, where it would run into the ticks. Call this when the limits and
    scales of `ax` are set, and again when they have changed.
    """
    from matplotlib.text import Annotation

    names = [text for text in ax.texts if isinstance(text, Annotation)]
    # matplotlib works out limits that follow the data when somebody asks for them.
    ax.get_ylim()
    # Data -> pixels -> points (72 per inch), which is the unit of the names' offsets.
    points = 72 / ax.figure.dpi
    ends = [float(ax.transData.transform(name.xy)[1]) * points for name in names]
    heights = [end + name.xyann[1] for name, end in zip(names, ends, strict=True)]
    bottom, top = ax.bbox.y0 * points + EDGE, ax.bbox.y1 * points - EDGE
    _push_apart(heights, gap, bottom, top)
    for name, end, height in zip(names, ends, heights, strict=True):
        name.xyann = (name.xyann[0], height - end)
    return ax


def _push_apart(heights: list[float], gap: float, bottom: float, top: float) -> None:
    """Change the heights in place until neighbours are about `gap` apart; their order stays.

    No height stays below the bottom or above the top.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    # Pushing two names apart may push one onto the next: 20 rounds are enough for a picture.
    for _ in range(20):
        for index in order:
            heights[index] = min(max(heights[index], bottom), top)
        for low, high in pairwise(order):
            # Each of the two neighbours moves by half the overlap.
            push = max(0.0, gap - (heights[high] - heights[low])) / 2
            heights[low] -= push
            heights[high] += push
    # The last word is the frame's: in a crowded one the names overlap.
    for index in order:
        heights[index] = min(max(heights[index], bottom), top)


def caption(ax: Axes, text: str) -> Axes:
    """Write a line under the picture: the given text, and the hardware."""
    line = f"{text} · {describe_machine()}"
    ax.figure.supxlabel(line, fontsize=7, color=QUIET, x=0.01, ha="left")
    return ax
