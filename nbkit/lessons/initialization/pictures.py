"""The pictures of the lesson initialization: each takes axes and returns them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbkit.initialization import InitReport
from nbkit.lab import plots
from nbkit.lab.runs.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "PyTorch": plots.BASELINE,
    "yours": plots.TECHNIQUE,
    "PyTorch, best lr": plots.BEST,
}
FLOOR, CEILING = 1e-12, 1e6  # the range of the pictures of signal and gradient


def draw_signals(
    axes: Sequence[Axes], report: InitReport, *, label: str, color: str
) -> Sequence[Axes]:
    """Draw each layer's signal on the first of two axes and its gradient on the second.

    The scale is fixed, so that pictures can be compared; zero and values beyond the scale lie at
    its edge.
    """
    names = ("forward_rms", "backward_rms")
    titles = ("signal (RMS)", "gradient (RMS)")
    for ax, name, title in zip(axes, names, titles, strict=True):
        sizes = [_clip_to_scale(getattr(layer, name)) for layer in report.layers]
        numbers = range(1, len(sizes) + 1)
        # clip_on=False: a marker at the edge of the scale is drawn whole.
        ax.plot(numbers, sizes, marker="o", markersize=3, color=color, label=label, clip_on=False)
        ax.axhline(1, color=plots.QUIET, linewidth=0.8, linestyle=":")
        ax.set(xlabel="layer", ylabel=title, yscale="log", ylim=(FLOOR, CEILING))
    return axes


def draw_start_arms(ax: Axes, runs: Runs, *, steps: int) -> Axes:
    """Draw the training losses of the live lab so far, on fixed axes."""
    return plots.arms(ax, runs, COLORS, steps=steps, ylim=(0.03, 10), chance=math.log(10))


def draw_depths(losses: Mapping[int, Sequence[float]]) -> Figure:
    """Draw the training losses of each depth in a panel, on one scale."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(losses), figsize=(3.4 * len(losses), 2.3), sharey=True, layout="constrained"
    )
    for ax, (depth, curve) in zip(axes, losses.items(), strict=True):
        ax.plot(range(1, len(curve) + 1), curve, color="black", linewidth=1)
        ax.axhline(math.log(10), color=plots.QUIET, linestyle=":", linewidth=1)
        ax.set(title=f"{depth} hidden layers", xlabel="step", ylim=(0, 3))
    axes[0].set_ylabel("training loss")
    return figure


def draw_signal_factors(
    ax: Axes, gains: Sequence[float], measured: Mapping[str, Sequence[float]]
) -> Axes:
    """Draw the factor by which a layer multiplies the signal, against its gain.

    The line is ReLU's formula, gain / sqrt(2).

    Args:
        measured: name of the activation -> one factor for each gain.
    """
    # ReLU passes on half of the mean square, which is a factor of 1 / sqrt(2) on the RMS.
    line = [gain / math.sqrt(2) for gain in gains]
    ax.plot(gains, line, color=plots.QUIET, label="gain / 1.41")
    for (name, values), color in zip(measured.items(), ("black", plots.QUIET), strict=True):
        ax.plot(gains, values, "o", color=color, label=f"{name}, measured")
    ax.axhline(1, color=plots.QUIET, linestyle=":", linewidth=0.8)
    ax.set(xscale="log", yscale="log", xlabel="gain", ylabel="factor on the signal, a layer")
    ax.set_xticks([0.5, 1, math.sqrt(2), 2, 4], ["0.5", "1", "1.41", "2", "4"])
    ax.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
    ax.minorticks_off()
    ax.legend(frameon=False)
    return ax


def _clip_to_scale(size: float | None) -> float:
    """Clip a size to the picture's scale; None and NaN leave a gap in the line."""
    if size is None or math.isnan(size):
        return math.nan
    return min(max(size, FLOOR), CEILING)
