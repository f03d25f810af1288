"""What batchnorm needs of its own: a network with BatchNorm, two data sets, four pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.base.state import preserve_state
from nbkit.batchnorm import BNReport, reestimate_bn_
from nbkit.lab import plots
from nbkit.lab.data import Data
from nbkit.lab.runs.stacking import stack
from nbkit.lab.runs.training import train

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def net(
    depth: int = 5,
    width: int = 64,
    *,
    momentum: float | None = 0.1,
    track: bool = True,
    classes: int = 10,
) -> nn.Sequential:
    """`depth` hidden layers of Linear, BatchNorm and ReLU, then a Linear.

    Args:
        momentum: of BatchNorm, in torch's convention: the weight of the new batch.
        track: whether BatchNorm keeps running statistics.

    >>> [type(layer).__name__ for layer in net(depth=1)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([64] + [width] * depth):
        norm = nn.BatchNorm1d(fan_out, momentum=momentum, track_running_stats=track)
        layers += [nn.Linear(fan_in, fan_out), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def brighter(data: Data, shift: float) -> Data:
    """The same digits with `shift` added to each grey level, in training and in test."""
    return Data(data.x_train + shift, data.y_train, data.x_test + shift, data.y_test)


def half(data: Data, *, first: bool, train: int | None = None) -> Data:
    """The digits 0 to 4, or 5 to 9 with the labels 0 to 4: two tasks that share their strokes.

    Args:
        train: how many training samples are kept; None keeps all.
    """
    start = 0 if first else 5
    parts = []
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        ours = (y >= start) & (y < start + 5)
        parts += [x[ours], y[ours] - start]
    x, y, x_test, y_test = parts
    return Data(x[:train], y[:train], x_test, y_test)


def trained(
    seed: int, data: Data, *, lr: float, steps: int, batch_size: int, **options: Any
) -> nn.Sequential:
    """A network after an ordinary training, in train mode: the same seed, the same weights.

    Args:
        options: what `net` takes.
    """
    torch.manual_seed(seed)
    model = net(**options)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    batches = data.batches(batch_size, seed=seed, steps=steps)
    for _ in train(model, batches, optimizer, cross_entropy):
        pass
    return model


def both_ways(
    measure: Callable[..., float], seeds: Iterable[int], **changed: Any
) -> tuple[list[float], list[float]]:
    """`measure(seed, True)` of all seeds, and `measure(seed, False)`: with a technique, without."""
    values = [(measure(seed, True, **changed), measure(seed, False, **changed)) for seed in seeds]
    return [one for one, _ in values], [other for _, other in values]


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor, batch_size: int | None = None) -> float:
    """The share of right answers in the mode that the model is in, about `batch_size` at a time.

    The running statistics are afterwards what they were: train mode would have moved them.
    """
    with preserve_state(model):
        right = sum((model(a).argmax(-1) == b).sum() for a, b in _parts(x, y, batch_size))
    return float(right) / len(x)


def _parts(x: Tensor, y: Tensor, batch_size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Equal parts but for one sample: none is left over, which no batch statistics are made of."""
    count = math.ceil(len(x) / (batch_size or len(x)))
    return zip(x.tensor_split(count), y.tensor_split(count), strict=True)


class SideBySide:
    """Networks of several seeds as one, so that a slider can retrain all of them at each move.

    `model` takes (runs, samples, inputs); its BatchNorm layers hold the channels of all runs, so
    `bn_gap` and `reestimate_bn_` see them as one wide network.

    Args:
        seeds: one network each.
        options: what `net` takes.
    """

    def __init__(self, seeds: Sequence[int], **options: Any) -> None:
        self.seeds = tuple(seeds)
        models = []
        with preserve_state():
            for seed in self.seeds:
                torch.manual_seed(seed)
                models.append(net(**options))
        self.model = stack(models)

    def spread(self, x: Tensor) -> Tensor:
        """The same samples for each network."""
        return x.expand(len(self.seeds), *x.shape)

    def batches(
        self, data: Data, *, steps: int, batch_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the training set, each network's in the order of its seed."""
        orders = [data.batches(batch_size, seed=seed, steps=steps) for seed in self.seeds]
        for batches in zip(*orders, strict=True):
            x, y = (torch.stack(parts) for parts in zip(*batches, strict=True))
            yield x, y

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of the networks' cross-entropies: each gets the gradient of its own."""
        return cross_entropy(self.model(x).mT, y, reduction="none").mean(1).sum()

    def train(self, data: Data, *, lr: float, steps: int, batch_size: int) -> Iterator[int]:
        """Train all of them; yields the number of steps so far."""
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        batches = self.batches(data, steps=steps, batch_size=batch_size)
        for count, (x, y) in enumerate(batches, start=1):
            loss = self.loss(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield count

    @torch.no_grad()
    def accuracy(
        self, x: Tensor, y: Tensor, *, train: bool = False, batch_size: int | None = None
    ) -> Tensor:
        """The share of right answers of each network, in train or eval mode; nothing is changed."""
        with preserve_state(self.model):
            self.model.train(train)
            parts = _parts(x, y, batch_size)
            right = [(self.model(self.spread(a)).argmax(-1) == b).sum(1) for a, b in parts]
        return torch.stack(right).sum(0) / len(x)

    def reestimate(self, x: Tensor) -> BNReport:
        """`reestimate_bn_` of all networks on these samples, a hundred at a time."""
        return reestimate_bn_(self.model, [self.spread(part) for part in x.split(100)])

    @torch.no_grad()
    def gap(self, x: Tensor) -> Tensor:
        """How far each network's running statistics are from those of these samples.

            mean over layers of  sqrt(mean_gap^2 + var_gap^2)

        with the two gaps of `bn_gap`, root mean squares over the network's own channels.
        """
        layers = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm1d)]
        with preserve_state(self.model):
            before = [_statistics(layer) for layer in layers]
            self.reestimate(x)
            after = [_statistics(layer) for layer in layers]
        sizes = []
        for (mean, var), (true_mean, true_var) in zip(before, after, strict=True):
            squares = (mean - true_mean).square() / true_var + (var / true_var).log().square()
            sizes.append(squares.view(len(self.seeds), -1).mean(1).sqrt())
        return torch.stack(sizes).mean(0)

    def three_ways(self, data: Data, test_batch: int) -> tuple[list[Tensor], BNReport]:
        """Test accuracy with the running statistics, with re-estimated ones, with the batch's own.

        Returns:
            the accuracies (runs) in that order, and the report of the re-estimation on 500 training
            samples. The networks are as before.
        """
        x, y = data.x_test, data.y_test
        running = self.accuracy(x, y)
        own = self.accuracy(x, y, train=True, batch_size=test_batch)
        with preserve_state(self.model):
            report = self.reestimate(data.x_train[:500])
            again = self.accuracy(x, y)
        return [running, again, own], report


def _statistics(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.running_mean.clone(), layer.running_var + layer.eps


@torch.no_grad()
def true_mean(model: nn.Sequential, layer: int, x: Tensor, *, channel: int) -> float:
    """The mean over all these samples of what the model's layer of that number takes in."""
    with preserve_state(model):
        return float(model.train()[:layer](x)[:, channel].mean())


def gaps(ax: Axes, reports: Mapping[str, BNReport]) -> Axes:
    """The mean gap of each layer on an `ax` that is cleared first; it counts from the dotted line.

    Args:
        reports: one, or one before and one after: a bar each.
    """
    ax.clear()
    height, widest = 0.8 / len(reports), 0.15
    for row, (name, report) in enumerate(reports.items()):
        widths = [layer.mean_gap or 0.0 for layer in report.layers]
        places = [k + row * height for k in range(len(widths))]
        color = (plots.BASELINE, plots.TECHNIQUE)[row]
        ax.barh(places, widths, height=0.9 * height, color=color, align="edge", label=name)
        widest = max(widest, *widths)
    ax.axvline(0.15, color=plots.QUIET, linestyle=":")
    middles = [k + 0.4 for k in range(len(widths))]
    ax.set_yticks(middles, [f"BatchNorm {k + 1}" for k in range(len(widths))])
    ax.set(xlim=(0, 1.1 * widest), xlabel="gap, in std. dev.")
    ax.invert_yaxis()
    if len(reports) > 1:
        ax.legend(frameon=False)
    return ax


def three_ways(
    ax: Axes, steps: Sequence[int], looks: Sequence[Sequence[Tensor]], colors: Mapping[str, str]
) -> Axes:
    """Test accuracy over training, on an `ax` that is cleared first.

    Args:
        steps: at which somebody looked.
        looks: at each of them a tensor (runs) for each name in `colors`.
    """
    ax.clear()
    for k, (name, color) in enumerate(colors.items()):
        values = torch.stack([look[k] for look in looks], dim=1)
        plots.seeds(ax, values, label="", color=color, x=steps)
        ax.text(
            1.02, 0.9 - 0.12 * k, name, color=color, fontsize=9, transform=ax.transAxes, va="center"
        )
    ax.axhline(0.1, color=plots.QUIET, linestyle=":", linewidth=0.8)
    ax.set(xlabel="step", ylabel="test accuracy", ylim=(0, 1.02))
    return ax


def dots(
    ax: Axes,
    x: Sequence[float],
    values: Sequence[Sequence[float]],
    color: str,
    label: str,
    *,
    at: float,
) -> Axes:
    """A dot for each seed at each x on a logarithmic axis, their medians joined and named.

    Args:
        at: where along the line the name stands, from 0 to 1.
    """
    rows = torch.tensor(values)
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
    name.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})
    ax.set_xscale("log")
    ax.set_xticks(x, [f"{place:g}" for place in x])
    ax.minorticks_off()
    return ax


def pairs(ax: Axes, values: Mapping[str, Sequence[float]]) -> Axes:
    """Two columns of dots, without the technique and with it; a thin line joins a seed's two."""
    for seed in zip(*values.values(), strict=True):
        ax.plot([0, 1], seed, color=plots.QUIET, alpha=0.5, linewidth=0.8)
    for place, column in enumerate(values.values()):
        color = (plots.BASELINE, plots.TECHNIQUE)[place]
        ax.plot([place] * len(column), column, "o", color=color, alpha=0.7)
    ax.set_xticks([0, 1], list(values))
    ax.set_xlim(-0.5, 1.5)
    return ax


def averages(
    ax: Axes,
    batch: Sequence[float],
    truth: Sequence[float],
    running: Mapping[float, Sequence[float]],
) -> Axes:
    """One channel's mean over training: of each batch, of all data, and moving averages of it.

    Args:
        running: momentum -> its average, before the first step and after each.
    """
    steps = range(1, len(batch) + 1)
    ax.plot(steps, batch, ".", color=plots.QUIET, alpha=0.5, markersize=4, label="each batch")
    for (momentum, values), style in zip(running.items(), ("--", "-", ":"), strict=True):
        ax.plot(values, style, color=plots.BASELINE, label=f"momentum {momentum:g}")
    ax.plot(steps, truth, color="black", linewidth=1.8, label="all the data")
    ax.set(xlabel="step", ylabel="mean of one channel")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
