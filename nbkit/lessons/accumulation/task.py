"""What lesson `accumulation` trains and measures: networks, their memory, gradients in bulk."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from nbkit import initialize_
from nbkit.base.batch_gradients import compute_gradients, copy_gradients
from nbkit.base.equivalence import compare_gradients
from nbkit.lab.cost.timing import MemoryReport, memory_report
from nbkit.lab.data import Data
from nbkit.lab.models import mlp

if TYPE_CHECKING:
    pass


def build_net(width: int = 64) -> nn.Module:
    """Build the lesson's network: two hidden layers, with Kaiming initialisation."""
    model = mlp(2, width)
    initialize_(model, "kaiming_normal")
    return model


def build_batchnorm_net() -> nn.Module:
    """Build a network with one hidden layer, normalised by the batch."""
    return nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def start_training(seed: int, lr: float = 0.1) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Build the lesson's network and its optimizer; the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = build_net()
    return model, torch.optim.SGD(model.parameters(), lr=lr)


def shuffle_epoch(data: Data, size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Shuffle one epoch into batches of this size; the last batch holds the rest."""
    # A generator of the epoch: the global random state stays as it is.
    order = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(seed))
    return [(data.x_train[rows], data.y_train[rows]) for rows in order.split(size)]


def have_equal_weights(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have the same weights, up to rounding."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(one, two, rtol=1e-4, atol=1e-5) for one, two in pairs)


def accumulate_window(
    model: nn.Module,
    window: tuple[Tensor, Tensor],
    sizes: Sequence[int],
    weights: Sequence[float],
    step_after: Sequence[int],
) -> Iterator[None]:
    """Accumulate over a window's micro-batches of these sizes; yield where a step is due.

    Args:
        weights: of each micro-batch's mean loss.
        step_after: which micro-batches, counted from 1, a step follows.
    """
    # x and y are cut at the same places.
    parts = zip(*(tensor.split(list(sizes)) for tensor in window), strict=True)
    for number, ((x, y), weight) in enumerate(zip(parts, weights, strict=True), start=1):
        # backward() adds to .grad, so the weighted mean losses add up.
        (cross_entropy(model(x), y) * weight).backward()
        if number in step_after:
            yield


def train_in_a_way(
    model: nn.Module,
    windows: Sequence[tuple[Tensor, Tensor]],
    sizes: Sequence[int],
    weights: Sequence[float],
    step_after: Sequence[int],
) -> float:
    """Train a model on these windows in a given way, which may be a wrong one.

    Returns:
        The error of its first step's gradient against the gradient of that window as one batch.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # The truth: the gradient of the whole window as one batch.
    reference = compute_gradients(model, cross_entropy, windows[0])
    errors: list[float] = []
    optimizer.zero_grad()
    for window in windows:
        for _ in accumulate_window(model, window, sizes, weights, step_after):
            # Later steps start from other weights than the reference.
            if not errors:
                errors.append(compare_gradients(reference, copy_gradients(model)).error)
            optimizer.step()
            optimizer.zero_grad()
    return errors[0]


def build_conv_net(width: int, depth: int) -> nn.Module:
    """Build a convolutional network for the digits: `depth` layers of `width` channels on 8 x 8."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for channels in [1] + [width] * (depth - 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10))


def draw_conv_net(seed: int) -> nn.Module:
    """Build a convolutional network; the seed draws its width and depth: 8 to 64, and 2 to 6."""
    draw = random.Random(seed)
    return build_conv_net(width=draw.choice([8, 16, 24, 32, 48, 64]), depth=draw.randint(2, 6))


def measure_step_memory(model: nn.Module, x: Tensor, y: Tensor, size: int) -> MemoryReport:
    """Measure what one step on these samples holds in memory, in micro-batches of `size`.

    With SGD and momentum. All samples of the step count as held: `accumulate` reads them together.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    micro = x[:size].clone(), y[:size].clone()  # a slice would count with all that it is cut from
    report = memory_report(model, micro, cross_entropy, optimizer)
    # The waiting samples of the whole step, not only the micro-batch.
    report.batch = x.clone().untyped_storage().nbytes() + y.clone().untyped_storage().nbytes()
    return report


def compute_micro_gradients(model: nn.Module, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Compute the gradient of each micro-batch's mean loss: (micro-batches, parameters).

    Samples that fill no micro-batch at the end are left out. Nothing is changed.

    >>> model = nn.Linear(2, 3)
    >>> x, y = torch.zeros(7, 2), torch.zeros(7, dtype=torch.long)
    >>> compute_micro_gradients(model, x, y, size=2).shape
    torch.Size([3, 9])
    """
    count = len(x) // size
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, (x,)), y)

    # (micro-batches, size, ...): the batch axis that vmap takes apart.
    xs, ys = (t[: count * size].unflatten(0, (count, size)) for t in (x, y))
    # One gradient for each micro-batch, at the same weights.
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(weights, xs, ys)
    return torch.cat([gradients[name].flatten(1) for name in weights], dim=1)


@torch.no_grad()
def measure_mean_decrease(
    model: nn.Module, gradients: Tensor, x: Tensor, y: Tensor, lrs: Sequence[float]
) -> Tensor:
    """Measure by how much a step along one of these gradients lowers the loss: mean, (lrs,).

    Args:
        gradients: (steps, parameters), as `compute_micro_gradients` gives them.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}
    # Back from one long row to the shape of each parameter.
    columns = gradients.split([w.numel() for w in weights.values()], dim=1)
    along = {
        name: column.unflatten(1, w.shape)
        for (name, w), column in zip(weights.items(), columns, strict=True)
    }

    def loss(direction: dict[str, Tensor], lr: float) -> Tensor:
        moved = {name: w - lr * direction[name] for name, w in weights.items()}
        return cross_entropy(functional_call(model, moved, (x,)), y)

    # The mean over all directions, for each lr.
    after = [vmap(loss, in_dims=(0, None))(along, lr).mean() for lr in lrs]
    return cross_entropy(model(x), y) - torch.stack(after)
