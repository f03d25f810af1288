"""What 06_accumulation needs of its own: networks, gradients of many micro-batches, pictures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from nbkit.lab import plots
from nbkit.lab.measure import MemoryReport, memory_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIB = 1024


def conv_net(width: int, depth: int) -> nn.Sequential:
    """A convolutional network for the digits: `depth` layers of `width` channels on 8 x 8."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for channels in [1] + [width] * (depth - 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    pooled = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10)]
    return nn.Sequential(*layers, *pooled)


def random_conv_net(seed: int) -> nn.Sequential:
    """A convolutional network whose width and depth the seed draws: 8 to 64, and 2 to 6."""
    draw = random.Random(seed)
    return conv_net(width=draw.choice([8, 16, 24, 32, 48, 64]), depth=draw.randint(2, 6))


def step_memory(model: nn.Module, x: Tensor, y: Tensor) -> MemoryReport:
    """Where the memory of one step goes, with SGD and momentum; a slice counts for itself alone."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return memory_report(model, (x.clone(), y.clone()), cross_entropy, optimizer)


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




def memory_bars(ax: Axes, steps: Mapping[str, MemoryReport]) -> Axes:
    """A bar for each way to take the step: what the batch size leaves alone, and what it does not.

    Of several micro-batches the report is that of one; the batches of the window wait all together.
    """
    for row, (name, report) in enumerate(steps.items()):
        growing = (report.activations + report.batch) / KIB
        fixed = report.total / KIB - growing
        ax.barh(row, fixed, color=plots.QUIET, height=0.6)
        ax.barh(row, growing, left=fixed, color=_color(row), height=0.6)
        ax.text(0, row - 0.36, f"{name}: {fixed + growing:,.0f} KiB", va="bottom", fontsize=8)
    ax.set_yticks([])
    ax.set(xlabel="KiB: grey weights, gradients; colour activations, batch", ylim=(1.5, -0.8))
    ax.xaxis.label.set_fontsize(8)
    return ax


def _color(row: int) -> str:
    return (plots.BASELINE, plots.TECHNIQUE)[row]


def by_examples(ax: Axes, curves: Mapping[str, tuple[Tensor, int]], colors: Mapping[str, str]):
    """Training losses over the examples seen, in place of what the axes showed; returns the axes.

    Args:
        curves: name -> losses (seeds, points), and how many examples lie between two points.
    """
    ax.clear()
    last = 1.0
    for place, (name, (losses, each)) in enumerate(curves.items()):
        x = [each * (point + 1) for point in range(losses.shape[1])]
        plots.seeds(ax, losses, label=name, color=colors[name], x=x, at=(0.55, 0.3)[place % 2])
        last = max([last, *x])
    ax.set(xlabel="examples seen", ylabel="training loss", yscale="log", xlim=(0, 1.05 * last))
    return ax


def smoothness(ax: Axes, counts: Sequence[int], arms: Mapping[str, tuple[Tensor, str]]) -> Axes:
    """Variance of the gradient, relative to one micro-batch's, against the micro-batches in a step.

    Args:
        arms: name -> variances (seeds, counts), and the colour.
    """
    ax.plot(counts, [1 / count for count in counts], color=plots.QUIET, linestyle=":")
    for name, (variances, color) in arms.items():
        plots.seeds(ax, variances / variances[:, :1], label=name, color=color, x=counts, at=0.4)
    ax.annotate("1 / count", (counts[2], 1 / counts[2]), xytext=(-8, -14), ha="right",
                textcoords="offset points", color=plots.QUIET, fontsize=9)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="micro-batches in a step", ylabel="relative variance")
    ax.set_xticks(counts, [str(count) for count in counts])
    return ax


def memory_curve(ax: Axes, sizes: Sequence[int], reports: Sequence[MemoryReport]) -> Axes:
    """What one step holds against the size of its micro-batch: the fixed part, and the rest."""
    growing = [(report.activations + report.batch) / KIB for report in reports]
    fixed = [r.total / KIB - g for r, g in zip(reports, growing, strict=True)]
    whole = [f + g for f, g in zip(fixed, growing, strict=True)]
    ax.fill_between(sizes, 0, fixed, color=plots.QUIET, alpha=0.4, linewidth=0)
    ax.fill_between(sizes, fixed, whole, color=plots.TECHNIQUE, alpha=0.5, linewidth=0)
    ax.plot(sizes, whole, "o-", color=plots.TECHNIQUE, markersize=4)
    ax.text(sizes[-1], 0.5 * fixed[-1], "weights, gradients, momentum ", ha="right", va="center")
    ax.text(sizes[-1], 0.5 * (fixed[-1] + whole[-1]), "activations, batch ", ha="right")
    ax.set(xlabel="samples in a micro-batch (the step has 64)", ylabel="KiB", ylim=(0, None))
    ax.set_xticks([size for size in sizes if size >= 8])
    return ax


def gradient_errors(ax: Axes, errors: Mapping[str, Sequence[float]], tolerance: float) -> Axes:
    """The error of a gradient, a row for each way to compute it, a dot for each seed."""
    for row, (name, values) in enumerate(errors.items()):
        median = sorted(values)[len(values) // 2]
        color = plots.TECHNIQUE if median <= tolerance else plots.BASELINE
        ax.plot(values, [row] * len(values), "o", color=color, alpha=0.5, markersize=5)
        ax.text(1.02, row, f"{median:.1g}" if median <= tolerance else f"{median:.0%}",
                transform=ax.get_yaxis_transform(), va="center", fontsize=9)  # fmt: skip
    ax.axvline(tolerance, color=plots.QUIET, linestyle=":")
    ax.text(tolerance, -0.62, "rounding ends here ", color=plots.QUIET, ha="right", fontsize=8)
    ax.set_yticks(range(len(errors)), list(errors))
    ax.set(xscale="log", ylim=(len(errors) - 0.4, -0.9))
    ax.set_xlabel("largest error, as a share of the largest gradient (right: the median seed)")
    return ax


def noise_scales(ax: Axes, examples: Sequence[int], scales: Tensor, batches: Sequence[int]) -> Axes:
    """The noise scale while the network trains, and the batches that it is to be held against."""
    plots.seeds(ax, scales, label="", color=plots.BEST, x=examples)
    for batch, color in zip(batches, (plots.BASELINE, plots.TECHNIQUE), strict=True):
        ax.axhline(batch, color=color, linestyle="--", linewidth=1)
        ax.text(examples[-1], batch, f"a step of {batch}", color=color, ha="right", va="bottom")
    ax.set(xlabel="examples seen", ylabel="noise scale (samples)", yscale="log")
    return ax
