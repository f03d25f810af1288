"""The pictures of the lesson initialization: each takes axes and returns them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nbkit.initialization import InitLayer, InitReport
from nbkit.lab import plots
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.runs.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def draw_loss_race(
    ax: Axes,
    runs: Runs,
    colors: Mapping[str, str],
    *,
    room: float = 1.4,
    ylim: tuple[float, float] | None = None,
) -> Axes:
    """Draw the training losses of two arms on an `ax` that is cleared first.

    Like `plots.arms`, with plain numbers on the axis.

    Args:
        room: length of the x axis over that of the curves; the names stand in the rest.
        ylim: limits of the loss; None takes those of the data.
    """
    plots.arms(ax, runs, colors).set_xlim(1, room * runs.step + 1)
    ax.margins(y=0.12)
    if ylim:
        ax.set_ylim(ylim)
    _write_plain_numbers(ax)
    # Again, since the limits above have moved the names closer together.
    return plots.spread_names(ax)


def draw_effect_by_knob(ax: Axes, verdicts: Mapping[float, Verdict], *, x: str, y: str) -> Axes:
    """Draw an effect and its interval at each value of a knob, coloured by verdict, and the margin.

    Args:
        verdicts: value of the knob -> verdict; one without an effect is left out.
        x: label of the knob's axis.
        y: label of the effect's axis.
    """
    named: set[str] = set()
    for value, verdict in verdicts.items():
        effect, color = verdict.effect, plots.VERDICTS[verdict.verdict]
        if effect is None:
            continue
        ax.plot([value, value], [effect.low, effect.high], color=color, linewidth=3)
        # The legend names each verdict once.
        label = None if verdict.verdict in named else verdict.verdict.lower()
        ax.plot(value, effect.estimate, "o", color=color, markersize=8, label=label)
        named.add(verdict.verdict)
    ax.axhline(1, color=plots.QUIET, linewidth=0.8, linestyle=":")
    _draw_margin(ax, next(iter(verdicts.values())).claim.margin or 1.0)
    ax.set(xlabel=x, ylabel=y, yscale="log")
    _write_plain_numbers(ax)
    ax.set_xticks(list(verdicts), [f"{value:g}" for value in verdicts])
    ax.legend(frameon=False, loc="lower left")
    return ax


def _draw_margin(ax: Axes, margin: float) -> None:
    """Draw the claim's margin as a black line, named at its right end."""
    ax.axhline(margin, color="black", linewidth=1)
    ax.annotate(
        "margin",
        (1, margin),
        xycoords=("axes fraction", "data"),
        xytext=(-4, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
    )


def draw_accuracy_by_scale(
    ax: Axes, scales: Sequence[float], accuracies: Tensor, colors: Mapping[str, str]
) -> Axes:
    """Draw test accuracy against the scale of the initial weights, a dot for each run.

    Args:
        scales: (runs,) factors on Kaiming's weights.
        accuracies: (arms, runs), in the order of `colors`.
        colors: of each arm, by name.
    """
    for (name, color), row in zip(colors.items(), accuracies.tolist(), strict=True):
        is_baseline = color == plots.BASELINE
        # The baseline's ring is larger, so that a dot at the same place does not hide it.
        style: dict[str, Any] = {
            "color": color,
            "markerfacecolor": "none" if is_baseline else color,
            "markersize": 8 if is_baseline else 5,
            "alpha": 0.8,
        }
        ax.plot(scales, row, "o", label=name, **style)
    ax.axhline(0.5, color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", ylim=(0, 1), ylabel="test accuracy (300 digits)")
    ax.set_xlabel("scale of the initial weights (1 is Kaiming's)")
    ticks = [0.25, 0.5, 1, 2, 4]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.legend(frameon=False, loc="lower center", fontsize=8, handletextpad=0.1)
    return ax


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
    for (name, values), color in zip(measured.items(), (plots.TECHNIQUE, plots.BEST), strict=True):
        ax.plot(gains, values, "o", color=color, label=f"{name}, measured")
    ax.axhline(1, color=plots.QUIET, linestyle=":", linewidth=0.8)
    ax.set(xscale="log", yscale="log", xlabel="gain", ylabel="factor on the signal, a layer")
    ax.set_xticks([0.5, 1, math.sqrt(2), 2, 4], ["0.5", "1", "1.41", "2", "4"])
    ax.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
    ax.minorticks_off()
    ax.legend(frameon=False)
    return ax


def draw_varying_shares(ax: Axes, reports: Mapping[str, Sequence[InitLayer]]) -> Axes:
    """Draw how much of each layer's output differs between samples, for two inits by name."""
    colors = (plots.TECHNIQUE, plots.BASELINE)
    for (name, layers), color in zip(reports.items(), colors, strict=True):
        percents = [100 * (layer.varying_fraction or 0.0) for layer in layers]
        ax.plot(range(1, len(percents) + 1), percents, marker="o", markersize=3, color=color)
        # The name stands above the middle of its curve.
        middle = (len(percents) / 2, percents[len(percents) // 2])
        ax.annotate(
            name, middle, xytext=(4, 10), textcoords="offset points", color=color, fontsize=9
        )
    ax.set(xlabel="layer", ylabel="% that differs between samples", ylim=(0, 105))
    ax.set_xticks([1, 5, 10, 15, 20])
    return ax


def _write_plain_numbers(ax: Axes) -> None:
    """Write 0.6 instead of 6 x 10^-1 on a logarithmic y axis, unless the axis is long."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    low, high = ax.get_ylim()
    if high > 1e5 * low:
        return
    # matplotlib decides which minor ticks have room for a number; only its format is replaced.
    chooser = LogFormatter(minor_thresholds=(1.2, 0.5))
    chooser.set_axis(ax.yaxis)
    chooser.set_locs(ax.yaxis.get_minorticklocs())

    def format_major(value: float, _place: int | None) -> str:
        return f"{value:g}"

    def format_minor(value: float, place: int | None) -> str:
        return f"{value:g}" if chooser(value, place) else ""

    ax.yaxis.set_major_formatter(FuncFormatter(format_major))
    ax.yaxis.set_minor_formatter(FuncFormatter(format_minor))


def _clip_to_scale(size: float | None) -> float:
    """Clip a size to the picture's scale; None and NaN leave a gap in the line."""
    if size is None or math.isnan(size):
        return math.nan
    return min(max(size, FLOOR), CEILING)
