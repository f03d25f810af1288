"""What initialization needs of its own: centred digits, word sequences, nets, three pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nbkit.initialization import InitLayer, InitReport, initialize_
from nbkit.lab import plots
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.claims import Verdict
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACTIVATIONS: dict[str, Any] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
FLOOR, CEILING = 1e-12, 1e6  # what the pictures of signal and gradient can show


def centred_digits() -> Data:
    """The digits with the mean of each pixel taken off, and a spread of one over all pixels.

    The formulas of the lesson assume an input of that size; what is taken off comes from the
    training set alone.

    >>> data = centred_digits()
    >>> round(float(data.x_train.std()), 2), abs(float(data.x_train.mean())) < 1e-5
    (1.0, True)
    """
    raw = digits()
    mean = raw.x_train.mean(0)
    spread = (raw.x_train - mean).std()
    x_train, x_test = ((x - mean) / spread for x in (raw.x_train, raw.x_test))
    return Data(x_train, raw.y_train, x_test, raw.y_test)


def authors(words: int = 200, length: int = 8, count: int = 2000) -> Data:
    """Ten authors, each with favourite words: who wrote these eight?

    Args:
        words: in the vocabulary.
        length: words in one sample.
        count: samples, a quarter of them to test.
    Returns:
        Data: word numbers (samples, length) and author numbers, always the same.
    """
    generator = torch.Generator().manual_seed(0)
    habits = (1.5 * torch.randn(10, words, generator=generator)).softmax(1)
    y = torch.arange(count) % 10
    x = torch.multinomial(habits[y], length, replacement=True, generator=generator)
    train = count - count // 4
    return Data(x[:train], y[:train], x[train:], y[train:])


def net(depth: int, activation: str = "relu", width: int = 64) -> nn.Sequential:
    """The lesson's network: `depth` hidden layers; its Linear layers are `model[::2]`.

    Raises:
        KeyError: if the activation is not one of ACTIVATIONS.

    >>> net(1, "tanh")[1]
    Tanh()
    """
    make = ACTIVATIONS[activation]
    layers = mlp(depth, width)
    return nn.Sequential(*[make() if isinstance(x, nn.ReLU) else x for x in layers])


def start(scheme: str, gain: float, activation: str) -> Callable[[nn.Module], None]:
    """A start for `train_runs`: the scheme for this activation, all weights times `gain`."""

    def init(model: nn.Module) -> None:
        initialize_(model, scheme, nonlinearity=activation)
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.detach().mul_(gain)

    return init


def reader(words: int = 200, length: int = 8) -> nn.Sequential:
    """An embedding of 16 numbers a word, then a small network that names the author."""
    return nn.Sequential(
        nn.Embedding(words, 16),
        nn.Flatten(),
        nn.Linear(16 * length, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def signals(axes: Sequence[Axes], report: InitReport, *, label: str, color: str) -> Sequence[Axes]:
    """Signal forward on the first of two axes, gradient backward on the second, layer by layer.

    The scale is fixed, so that pictures can be compared; what is zero or beyond it lies at its
    edge.
    """
    names = ("forward_rms", "backward_rms")
    titles = ("signal (RMS)", "gradient (RMS)")
    for ax, name, title in zip(axes, names, titles, strict=True):
        sizes = [_shown(getattr(layer, name)) for layer in report.layers]
        numbers = range(1, len(sizes) + 1)
        ax.plot(numbers, sizes, marker="o", markersize=3, color=color, label=label, clip_on=False)
        ax.axhline(1, color=plots.QUIET, linewidth=0.8, linestyle=":")
        ax.set(xlabel="layer", ylabel=title, yscale="log", ylim=(FLOOR, CEILING))
    return axes


def race(
    ax: Axes,
    runs: Runs,
    colors: Mapping[str, str],
    *,
    room: float = 1.4,
    ylim: tuple[float, float] | None = None,
) -> Axes:
    """The training losses of two arms on an `ax` that is cleared first.

    Unlike with `plots.arms` the numbers are plain. `room` is the axis's length over that of the
    curves: what is beyond is for the names.
    """
    plots.arms(ax, runs, colors).set_xlim(1, room * runs.step + 1)
    ax.margins(y=0.12)
    if ylim:
        ax.set_ylim(ylim)
    _plain_numbers(ax)
    return plots.spread_names(ax)


def when(ax: Axes, verdicts: Mapping[float, Verdict], *, x: str, y: str) -> Axes:
    """An effect with its interval at each value of a knob, in its verdict's colour, the margin."""
    told = set()
    for value, verdict in verdicts.items():
        effect, color = verdict.effect, plots.VERDICTS[verdict.verdict]
        if effect is None:
            continue
        ax.plot([value, value], [effect.low, effect.high], color=color, linewidth=3)
        label = None if verdict.verdict in told else verdict.verdict.lower()
        ax.plot(value, effect.estimate, "o", color=color, markersize=8, label=label)
        told.add(verdict.verdict)
    margin = next(iter(verdicts.values())).claim.margin or 1.0
    ax.axhline(1, color=plots.QUIET, linewidth=0.8, linestyle=":")
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
    ax.set(xlabel=x, ylabel=y, yscale="log")
    _plain_numbers(ax)
    ax.set_xticks(list(verdicts), [f"{value:g}" for value in verdicts])
    ax.legend(frameon=False, loc="lower left")
    return ax


def scales(
    ax: Axes, scales: Sequence[float], accuracies: torch.Tensor, colors: Mapping[str, str]
) -> Axes:
    """Test accuracy against the scale of the initial weights, a dot a run.

    Args:
        scales: (runs,) factors on Kaiming's weights.
        accuracies: (arms, runs), in the order of `colors`.
        colors: of each arm, by name.
    """
    for (name, color), row in zip(colors.items(), accuracies.tolist(), strict=True):
        filled = "none" if color == plots.BASELINE else color
        size = 8 if filled == "none" else 5  # a ring around the dot that hits the same place
        style: dict[str, Any] = {
            "color": color,
            "markerfacecolor": filled,
            "markersize": size,
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


def factors(ax: Axes, gains: Sequence[float], measured: Mapping[str, Sequence[float]]) -> Axes:
    """By how much a layer multiplies the signal, against its gain; the line is ReLU's formula."""
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


def shares(ax: Axes, reports: Mapping[str, Sequence[InitLayer]]) -> Axes:
    """How much of each layer's output differs from sample to sample, for two starts by name."""
    for (name, layers), color in zip(
        reports.items(), (plots.TECHNIQUE, plots.BASELINE), strict=True
    ):
        shown = [100 * (layer.varying_fraction or 0.0) for layer in layers]
        ax.plot(range(1, len(shown) + 1), shown, marker="o", markersize=3, color=color)
        middle = (len(shown) / 2, shown[len(shown) // 2])
        ax.annotate(
            name, middle, xytext=(4, 10), textcoords="offset points", color=color, fontsize=9
        )
    ax.set(xlabel="layer", ylabel="% that differs between samples", ylim=(0, 105))
    ax.set_xticks([1, 5, 10, 15, 20])
    return ax


def _plain_numbers(ax: Axes) -> None:
    """On a log scale 0.6 in place of 6 x 10^-1, unless the scale is long."""
    from matplotlib.ticker import FuncFormatter, LogFormatter

    low, high = ax.get_ylim()
    if high > 1e5 * low:
        return
    between = LogFormatter(minor_thresholds=(1.2, 0.5))
    between.set_axis(ax.yaxis)
    between.set_locs(ax.yaxis.get_minorticklocs())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(
        FuncFormatter(lambda value, at: f"{value:g}" if between(value, at) else "")
    )


def _shown(size: float | None) -> float:
    if size is None or math.isnan(size):
        return math.nan
    return min(max(size, FLOOR), CEILING)
