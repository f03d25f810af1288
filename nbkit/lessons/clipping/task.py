"""clipping: the adding problem and its recurrent network, a small transformer, the pictures."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nbkit.clipping import clip_gradients_
from nbkit.lab import plots
from nbkit.lab.data import Data, digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BY_VALUE, ADAPTIVE = "#CC79A7", "#56B4E9"  # with plots.TECHNIQUE for clipping by norm
SAMPLES, TEST_SAMPLES, SEED = 2000, 500, 7


def adding(length: int) -> Data:
    """The adding problem: is the sum of the two marked numbers above zero?

    A sample is (length, 3): at each time a number from -1 to 1, a marker, and a 1 that stands for
    the bias. The marker is 1 twice, once in each half, and 0 elsewhere.

    Raises:
        ValueError: if length is less than 2.

    Source: Hochreiter & Schmidhuber 1997, Long Short-Term Memory, where the answer is the sum.

    >>> adding(5)
    Data(2000 train and 500 test samples, 5x3 torch.float32, on cpu)
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, one number in each half, got {length}.")
    generator = torch.Generator().manual_seed(SEED)
    count, half = SAMPLES + TEST_SAMPLES, length // 2
    numbers = 2 * torch.rand(count, length, generator=generator) - 1
    early = torch.randint(half, (count,), generator=generator)
    late = half + torch.randint(length - half, (count,), generator=generator)
    markers = torch.zeros(count, length)
    markers[torch.arange(count), early] = 1
    markers[torch.arange(count), late] = 1
    x = torch.stack([numbers, markers, torch.ones_like(numbers)], dim=-1)
    y = ((numbers * markers).sum(1) > 0).long()
    return Data(x[:SAMPLES], y[:SAMPLES], x[SAMPLES:], y[SAMPLES:])


class Memory(nn.Module):
    """A recurrent layer of ReLU units that starts by remembering: h_t = relu(W h_{t-1} + U x_t).

    W starts as the identity, so that what is in h stays in h; the bias (the last column of U)
    starts at zero.

    Source: Le, Jaitly & Hinton 2015, A Simple Way to Initialize Recurrent Networks of Rectified
    Linear Units.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.rnn = rnn = nn.RNN(3, units, nonlinearity="relu", bias=False, batch_first=True)
        nn.init.eye_(cast(Tensor, rnn.weight_hh_l0))
        nn.init.zeros_(cast(Tensor, rnn.weight_ih_l0)[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, 3) -> the last state, (batch, units)."""
        return self.rnn(x)[0][:, -1]


def adder(units: int = 16) -> nn.Sequential:
    """The network for the adding problem: a memory, then a Linear with two answers."""
    return nn.Sequential(Memory(units), nn.Linear(units, 2))


def patches() -> Data:
    """The digits as sequences: 16 patches of 4 pixels, row by row."""
    whole = digits()
    x_train, x_test = (x.unflatten(1, (16, 4)) for x in (whole.x_train, whole.x_test))
    return Data(x_train, whole.y_train, x_test, whole.y_test)


class Transformer(nn.Module):
    """A vision transformer of one block, 16 wide: patches, places, attention, mean, ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.place = nn.Parameter(0.5 * torch.randn(16, 16))
        self.block = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 16, 4) -> logits (batch, 10)."""
        return self.head(self.norm(self.block(self.embed(x) + self.place)).mean(1))


def steepest(
    data: Data, *, lr: float, momentum: float, max_norm: float, batch_size: int, steps: int = 150
) -> tuple[nn.Module, Tensor, Tensor, float]:
    """The moment of the longest gradient of a training with clipping: model, batch and norm."""
    torch.manual_seed(0)
    model, longest = adder(), 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for x, y in data.batches(batch_size, seed=0, steps=steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        norm = clip_gradients_(model, max_norm=max_norm).total_norm
        if norm > longest:
            longest, moment = norm, (copy.deepcopy(model), x, y)
        optimizer.step()
    return *moment, longest


def lost(losses: Tensor, classes: int) -> Tensor:
    """Which runs end no better than guessing: not 5 % below log(classes), or not finite.

    >>> lost(torch.tensor([0.4, 0.69, math.inf]), classes=2)
    tensor([False,  True,  True])
    """
    return ~(losses < 0.95 * math.log(classes))


def back_in_time(model: nn.Sequential, x: Tensor, y: Tensor) -> list[float]:
    """The norm of the loss's gradient with respect to the state at each time, the first first.

    dL/dh_t = dL/dh_T * product over s = t+1 ... T of diag(h_s > 0) W
    """
    memory: Any = model[0].rnn
    inputs = x @ memory.weight_ih_l0.mT
    state = x.new_zeros(len(x), memory.hidden_size)
    states = []
    for time in range(x.shape[1]):
        state = torch.relu(inputs[:, time] + state @ memory.weight_hh_l0.mT)
        states.append(state)
    gradients = torch.autograd.grad(cross_entropy(model[1](state), y), states)
    return [float(gradient.norm()) for gradient in gradients]


def downhill(model: nn.Module, x: Tensor, y: Tensor, distances: Sequence[float]) -> list[float]:
    """The loss at these distances from the weights, straight down the gradient.

        loss(w - distance * g / |g|)

    The model is not changed.
    """
    weights = dict(model.named_parameters())
    gradients = torch.autograd.grad(cross_entropy(model(x), y), list(weights.values()))
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    ways = dict(zip(weights, gradients, strict=True))
    losses = []
    with torch.no_grad():
        for distance in distances:
            moved = {name: w - distance / norm * ways[name] for name, w in weights.items()}
            losses.append(float(cross_entropy(functional_call(model, moved, (x,)), y)))
    return losses


def strips(ax: Axes, rows: Mapping[str, Tensor], *, classes: Mapping[str, int]) -> Axes:
    """Each arm a row, each seed a dot at its final loss / that of guessing; how many are lost.

    Args:
        rows: name -> (seeds,) final losses; names that end in "no clipping" are the baseline.
        classes: how many answers the task of each row has.
    """
    right = 1.6  # where a run that ends above, or nowhere, is drawn
    for place, (name, losses) in enumerate(rows.items()):
        color = plots.BASELINE if name.endswith("no clipping") else plots.TECHNIQUE
        share = losses.detach().cpu() / math.log(classes[name])
        shown = share.nan_to_num(right, right).clamp(max=right).tolist()
        spread = [place + 0.5 * (k / max(1, len(shown) - 1) - 0.5) for k in range(len(shown))]
        ax.plot(shown, spread, "o", color=color, alpha=0.5, markersize=4, clip_on=False)
        count = int(lost(losses, classes[name]).sum())
        ax.text(right + 0.06, place, f"{count} of {len(shown)} lost", va="center", color=color)
    ax.axvline(0.95, color=plots.QUIET, linestyle=":")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlim=(0, right), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xlabel("final loss / loss of guessing (right of the dotted line: lost)")
    return ax


def kept(ax: Axes, before: Tensor, after: Mapping[str, Tensor], colors: Sequence[str]) -> Axes:
    """What each rule makes of every element of one gradient: before, across; after, up."""
    for (name, clipped), color in zip(after.items(), colors, strict=True):
        ax.plot(before, clipped, "o", color=color, label=name, markersize=3, alpha=0.7)
    ax.legend(frameon=False)
    ax.set(xlabel="element of the gradient", ylabel="the same element after clipping")
    return ax


def spike(ax: Axes, values: Sequence[Tensor], name: str) -> Axes:
    """One number a step, on a logarithmic scale."""
    ax.plot(range(1, len(values) + 1), values, color=plots.BASELINE)
    ax.set(xlabel="step", ylabel=name, yscale="log")
    return ax


def curves(ax: Axes, losses: Tensor, colors: Mapping[str, str]) -> Axes:
    """The losses (arms, seeds, steps), each the mean of ten, on an `ax` that is cleared first."""
    ax.clear()
    steps = losses.shape[-1] // 10 * 10
    means = losses[..., :steps].unflatten(-1, (-1, 10)).mean(-1)
    for row, ((name, color), values) in enumerate(zip(colors.items(), means, strict=True)):
        plots.seeds(ax, values, label="", color=color, x=range(10, steps + 1, 10))
        ax.text(0.03, 0.03 + 0.09 * row, name, color=color, transform=ax.transAxes)
    ax.axhline(math.log(2), color=plots.QUIET, linestyle=":", linewidth=0.8)
    ax.set(xlabel="step", ylabel="training loss", xlim=(0, steps + 1), ylim=(0.2, 1.0))
    return ax


def journey(ax: Axes, norms: Mapping[str, Sequence[float]]) -> Axes:
    """The gradient's norm at each state, by how many numbers it has come back from the end."""
    for (name, values), color in zip(norms.items(), (plots.QUIET, plots.BASELINE), strict=True):
        back = values[::-1]
        ax.plot(range(len(back)), back, "o-", color=color, markersize=3)
        ax.text(len(back), back[-1], name, va="center", color=color)
    ax.set(yscale="log", xlabel="numbers back from the end", ylabel="norm of the gradient for h")
    ax.set_xlim(-0.5, 1.45 * len(back))
    return ax


def cliff(ax: Axes, model: nn.Module, x: Tensor, y: Tensor, *, steps: Mapping[str, float]) -> Axes:
    """The loss straight down the gradient, and where steps of these lengths end."""
    reach = 2 * max(steps.values())
    distances = [reach * 10 ** (k / 40) for k in range(-160, 1)]
    ax.plot(distances, downhill(model, x, y, distances), color=plots.QUIET)
    ends = downhill(model, x, y, list(steps.values()))
    colors = (plots.TECHNIQUE, plots.BASELINE)
    beside: Any = {"textcoords": "offset points", "ha": "right"}
    for (name, distance), loss, color in zip(steps.items(), ends, colors, strict=True):
        ax.plot(distance, loss, "o", color=color, markersize=8)
        ax.annotate(name, (distance, loss), (-4, 20), color=color, **beside)
    ax.set(xscale="log", yscale="log", xlabel="distance down the gradient", ylabel="loss")
    return ax


def sweep(ax: Axes, thresholds: Sequence[float], losses: Tensor, rates: Sequence[float]) -> Axes:
    """Final loss against the threshold, and over it the share of steps that were clipped."""
    for limit, row in zip(thresholds, losses.clamp(max=1.0), strict=True):
        ax.plot([limit] * len(row), row, "o", color=plots.TECHNIQUE, alpha=0.35, markersize=4)
    ax.plot(thresholds, losses.median(dim=1).values, color=plots.TECHNIQUE, linewidth=2)
    ax.axhline(math.log(2), color=plots.QUIET, linewidth=0.8, linestyle=":")
    ax.set(xscale="log", xlabel="max_norm", ylabel="final training loss", ylim=(0.2, 1.0))
    ax.yaxis.label.set_color(plots.TECHNIQUE)
    above = ax.twinx()
    above.plot(thresholds, rates, "s--", color=plots.QUIET, markersize=4)
    above.set(ylabel="clip-rate", ylim=(-0.05, 1.05))
    above.yaxis.label.set_color(plots.QUIET)
    return ax
