"""What 06_accumulation needs of its own: networks, gradients of many micro-batches, pictures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from nbkit import initialize_
from nbkit.lab import plots
from nbkit.lab.measure import MemoryReport, memory_report
from nbkit.lab.models import mlp
from nbkit.lab.seeds import Runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIB = 1024
LOSSES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]  # where an axis of losses has its ticks


def net(width: int = 64) -> nn.Module:
    """The lesson's network: two hidden layers, their weights drawn as Kaiming initialisation has it."""
    model = mlp(2, width)
    initialize_(model, "kaiming_normal")
    return model


def batchnorm_net() -> nn.Module:
    """One hidden layer, normalised by the batch."""
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def conv_net(width: int, depth: int) -> nn.Module:
    """A convolutional network for the digits: `depth` layers of `width` channels on 8 x 8."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for channels in [1] + [width] * (depth - 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10))


def random_conv_net(seed: int) -> nn.Module:
    """A convolutional network whose width and depth the seed draws: 8 to 64, and 2 to 6."""
    draw = random.Random(seed)
    return conv_net(width=draw.choice([8, 16, 24, 32, 48, 64]), depth=draw.randint(2, 6))


def step_memory(model: nn.Module, x: Tensor, y: Tensor, size: int) -> MemoryReport:
    """Where the memory of one step on these samples goes, in micro-batches of `size`.

    With SGD and momentum. All samples of the step count as held: `accumulate` reads them together.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    micro = x[:size].clone(), y[:size].clone()  # a slice would count with all that it is cut from
    report = memory_report(model, micro, cross_entropy, optimizer)
    report.batch = x.clone().untyped_storage().nbytes() + y.clone().untyped_storage().nbytes()
    return report


def micro_gradients(model: nn.Module, x: Tensor, y: Tensor, size: int) -> Tensor:
    """The gradient of each micro-batch's mean loss, in order: (micro-batches, parameters).

    Samples that fill no micro-batch at the end are left out. Nothing is changed.

    >>> model = nn.Linear(2, 3)
    >>> micro_gradients(model, torch.zeros(7, 2), torch.zeros(7, dtype=torch.long), size=2).shape
    torch.Size([3, 9])
    """
    count = len(x) // size
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights, x, y):
        return cross_entropy(functional_call(model, weights, (x,)), y)

    xs, ys = (t[: count * size].unflatten(0, (count, size)) for t in (x, y))
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, xs, ys)
    return torch.cat([gradients[name].flatten(1) for name in weights], dim=1)


def by_window(runs: Runs, group: int) -> Tensor:
    """The first arm's mean loss of each window of `group` steps so far: (seeds, windows)."""
    losses = runs.losses[0]
    windows = losses.shape[1] // group
    return losses[:, : windows * group].unflatten(1, (windows, group)).mean(-1)


def loss_axis(ax: Axes, low: float = 0.01) -> Axes:
    """A logarithmic axis of losses with ticks that can be read; it ends at `low` at the latest."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(FixedLocator(LOSSES))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    bottom, top = ax.get_ylim()
    ax.set_ylim(max(low, min(bottom, 0.4)), max(top, 3.0))
    return ax


def by_examples(
    ax: Axes, curves: Mapping[str, Tensor], window: int, colors: Mapping[str, str]
) -> Axes:
    """Training losses over the examples seen, in place of what the axes showed.

    Args:
        curves: name -> losses (seeds, windows).
        window: examples in each.
    """
    ax.clear()
    for name, losses in curves.items():
        x = [window * (k + 1) for k in range(losses.shape[1])]
        plots.seeds(ax, losses, label=name, color=colors[name], x=x)
    longest = max(losses.shape[1] for losses in curves.values())
    ax.set(xlabel="examples seen", ylabel="training loss", xlim=(0, 1.45 * window * longest))
    return loss_axis(ax)


def memory_bars(
    ax: Axes, model: nn.Module, x: Tensor, y: Tensor, size: int, colors: Sequence[str]
) -> Axes:
    """What a step on these samples holds, as one batch and in micro-batches of `size`."""
    pieces = f"{-(-len(x) // size)} of {size}"
    for row, (name, each) in enumerate([(f"one batch of {len(x)}", len(x)), (pieces, size)]):
        report = step_memory(model, x, y, each)
        growing = report.activations / KIB
        fixed = report.total / KIB - growing
        ax.barh(row, fixed, color=plots.QUIET, alpha=0.5, height=0.5)
        ax.barh(row, growing, left=fixed, color=colors[row], height=0.5)
        ax.text(0, row - 0.3, f"{name}: {fixed + growing:,.0f} KiB", va="bottom", fontsize=8)
    ax.text(0, 1.3, "grey: weights, gradients, momentum, samples", va="top", fontsize=6.5)
    ax.text(0, 1.52, "colour: activations", va="top", fontsize=6.5)
    ax.set_yticks([])
    ax.set(xlabel="KiB held by a step", ylim=(1.8, -0.7))
    return ax


def smoothness(ax: Axes, counts: Sequence[int], arms: Mapping[str, tuple[Tensor, str]]) -> Axes:
    """Variance of the gradient, relative to one micro-batch's, against the micro-batches in a step.

    Args:
        arms: name -> variances (seeds, counts), and the colour.
    """
    ax.plot(counts, [1 / count for count in counts], color=plots.QUIET, linestyle=":")
    for name, (variances, color) in arms.items():
        plots.seeds(ax, variances / variances[:, :1], label=name, color=color, x=counts)
    ax.text(counts[2], 0.8 / counts[2], "1 / count ", color=plots.QUIET, ha="right", va="top")
    ax.set(xscale="log", yscale="log", xlim=(0.9, 2.5 * counts[-1]))
    ax.set(xlabel="micro-batches of 8 in a step", ylabel="variance, relative to one micro-batch's")
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")
    return ax


def memory_curve(ax: Axes, model: nn.Module, x: Tensor, y: Tensor, sizes: Sequence[int]) -> Axes:
    """What a step on these samples holds against the size of its micro-batches."""
    reports = [step_memory(model, x, y, size) for size in sizes]
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


def search(
    axes: Sequence[Axes],
    grid: Sequence[float],
    searched: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    colors: Mapping[str, str],
) -> Sequence[Axes]:
    """Three pictures: the last loss at each lr, and the best lr's losses by examples and by steps.

    Args:
        searched: name -> losses (lrs, seeds, points), a point every 512 examples.
        best: name -> losses (seeds, points).
        sizes: name -> samples in a step.
    """
    for name, size in sizes.items():
        when = [512 * (k + 1) for k in range(best[name].shape[1])]
        look = {"label": name, "color": colors[name]}
        plots.seeds(axes[0], searched[name][..., -1].T, x=grid, at=0.0, label="", color=look["color"])
        plots.seeds(axes[1], best[name], x=when, **look)
        plots.seeds(axes[2], best[name], x=[n / size for n in when], **look)
    axes[0].set(xscale="log", xlabel="learning rate", ylabel=f"loss after {when[-1]:,} examples")
    axes[1].set(xlabel="examples seen", xlim=(0, 1.5 * when[-1]))
    axes[1].set(ylabel="loss of the training set, at the best lr")
    axes[2].set(xscale="log", xlabel="steps taken", xlim=(6, 10 * when[-1] / min(sizes.values())))
    for ax in axes:
        loss_axis(ax)
    return axes


def dots(ax: Axes, rows: Mapping[str, Sequence[float]], *, good: str, form: str = ".0%") -> Axes:
    """A row for each way to do it, a dot for each seed, the median written beside it."""
    for row, (name, values) in enumerate(rows.items()):
        median = float(torch.tensor(values).median())
        color = plots.TECHNIQUE if name == good else plots.BASELINE
        ax.plot(values, [row] * len(values), "o", color=color, alpha=0.5, markersize=5)
        text = f"{median:.0e}" if median < 1e-3 else f"{median:{form}}"
        ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xscale="log", ylim=(len(rows) - 0.4, -0.9))
    return ax


def noise_scales(ax: Axes, examples: Sequence[int], scales: Tensor) -> Axes:
    """The noise scale while the network trains, beside the two sizes of a step."""
    plots.seeds(ax, scales, label="noise scale", color=plots.BEST, x=examples)
    for size, color in ((8, plots.BASELINE), (64, plots.TECHNIQUE)):
        ax.axhline(size, color=color, linestyle="--", linewidth=1)
        ax.text(0, size, f"a step of {size}", color=color, va="bottom", fontsize=9)
    ax.set(xlabel="examples seen", ylabel="samples", yscale="log")
    ax.set_xlim(-0.02 * examples[-1], 1.25 * examples[-1])
    ax.yaxis.set_major_formatter("{x:g}")
    return ax
