"""The experiments of the lesson lr_finder: its network, its range tests, what a step delivers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nbkit import lr_range_test
from nbkit.lab.data import Data, digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import train
from nbkit.lab.runs.tuned import tuned
from nbkit.lr_finder import LRCurve

GRID = [10 ** (k / 4) for k in range(-9, 2)]  # 0.0056 to 1.8, four lrs to the decade
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them
MIN_LR, MAX_LR = 1e-5, 10.0  # the ends of the range test's ladder


def make_lr_net(data: Data, depth: int) -> Callable[[], nn.Module]:
    """Return a function that builds the lesson's network for this data."""
    return partial(mlp, depth, inputs=data.x_train.shape[1])


def make_start(
    seed: int, *, depth: int, momentum: float, data: Data | None = None
) -> tuple[nn.Module, torch.optim.SGD]:
    """Build a network and its optimizer: the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = make_lr_net(data or digits(), depth)()
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=momentum)


def find_lr(
    data: Data,
    seed: int,
    *,
    depth: int,
    momentum: float,
    batch_size: int,
    num_steps: int = 100,
) -> LRCurve:
    """Run the library's range test on a new network with this seed, from 1e-5 to 10."""
    model, optimizer = make_start(seed, depth=depth, momentum=momentum, data=data)
    batches = data.batches(batch_size, seed=seed)
    return lr_range_test(
        model, optimizer, batches, cross_entropy, min_lr=MIN_LR, max_lr=MAX_LR, num_steps=num_steps
    )


def train_plainly(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, *, steps: int = 100
) -> list[float]:
    """Train on batches of 64 and return the loss of each step: ten lines of plain PyTorch."""
    losses = []
    for x, y in data.batches(64, seed=0, steps=steps):
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def describe_training(losses: Sequence[float]) -> str:
    """Say how a training ended, by its last losses beside that of guessing."""
    last = sum(losses[-10:]) / 10
    if not last < math.log(10) * 1.1:  # NaN counts as worse
        return "worse than guessing"
    if last > math.log(10) * 0.9:
        return "as good as guessing"
    return "learned"


def make_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Data
) -> Callable[[], float]:
    """Return a function that does one step of training and returns its loss."""
    steps = train(model, data.batches(64, seed=0), optimizer, cross_entropy, steps=10_000)
    return lambda: next(steps).loss.item()


def suggest_lrs(
    data: Data, seeds: Sequence[int], *, depth: int, momentum: float, batch_size: int
) -> list[float]:
    """Find the suggestion of each seed's range test; where there is none, the ladder's first lr."""
    found = []
    for seed in seeds:
        curve = find_lr(data, seed, depth=depth, momentum=momentum, batch_size=batch_size)
        found.append(curve.suggest() or MIN_LR)
    return found


def tune_constant(data: Data, *, depth: int, momentum: float, batch_size: int, steps: int) -> float:
    """Find the lr of GRID with the lowest final training loss, on the seeds TUNING."""
    arms = {"constant": {"momentum": momentum}}
    net = make_lr_net(data, depth)
    found = tuned(net, data, arms, GRID, TUNING, steps=steps, batch_size=batch_size)
    return found.lrs["constant"]


def train_at(
    rates: Sequence[float | Sequence[float]],
    data: Data,
    seeds: Sequence[int],
    *,
    depth: int,
    momentum: float,
    batch_size: int,
    steps: int,
) -> list[list[float]]:
    """Train an arm at each of these lrs, one or one a seed; return final losses (arms, seeds)."""
    arms = {f"arm {k}": {"lr": lr, "momentum": momentum} for k, lr in enumerate(rates)}
    net = make_lr_net(data, depth)
    *_, runs = train_runs(net, data, arms, seeds, steps=steps, batch_size=batch_size)
    final: list[list[float]] = runs.final().tolist()
    return final


def follow_delivery(
    data: Data,
    lr: float,
    *,
    depth: int,
    momentum: float,
    lrs: Sequence[float],
    moments: Sequence[int] = (1, 21, 100),
) -> dict[int, list[float]]:
    """Measure what a step delivers at these moments, counted from 1, of one training at this lr."""
    model, optimizer = make_start(0, depth=depth, momentum=momentum, data=data)
    optimizer.param_groups[0]["lr"] = lr
    shares = {}
    batches = data.batches(64, seed=0, steps=max(moments))
    for step in train(model, batches, optimizer, cross_entropy):
        if step.index + 1 in moments:
            shares[step.index + 1] = measure_delivery(
                model, cross_entropy, data.x_train, data.y_train, lrs
            )
    return shares


def measure_delivery(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    lrs: Sequence[float],
) -> list[float]:
    """Measure, for each lr, the share of the promised decrease that one plain step delivers.

        (loss(w) - loss(w - lr * g)) / (lr * |g|²)

    Where the loss is a plane the share is 1. It falls as the loss curves up along the gradient, is
    1/2 at the best lr for that step, and below 0 the step has overshot: on a parabola of curvature
    c it is exactly 1 - lr * c / 2.

    Args:
        model: used in its current mode; its weights and `.grad` are not changed.
        loss_fn: called as `loss_fn(model(x), y)`; returns one number.
        x: samples (samples, ...); loss and gradient are those of this batch.
        y: their targets.
        lrs: positive.
    Raises:
        ValueError: if the gradient is zero, so that no decrease is promised.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> x, y = torch.ones(1, 1), torch.zeros(1, 1)
    >>> shares = measure_delivery(model, nn.functional.mse_loss, x, y, [0.5])
    >>> round(shares[0], 6)  # curvature 2: one step to the bottom
    0.5
    """
    weights = dict(model.named_parameters())
    loss = loss_fn(model(x), y)
    # autograd.grad returns the gradients and leaves `.grad` as it was.
    gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    squared = sum(float(gradient.square().sum()) for gradient in gradients.values())  # |g|²
    if squared == 0:
        raise ValueError("the gradient is zero here: no step promises anything. Move the weights.")

    shares = []
    with torch.no_grad():
        for lr in lrs:
            # w - lr * g, in new tensors: the model keeps its weights.
            moved = {name: w - lr * gradients[name] for name, w in weights.items()}
            after = loss_fn(functional_call(model, moved, (x,)), y)
            # The gradient promises lr * |g|² for a step of -lr * g.
            shares.append(float(loss - after) / (lr * squared))
    return shares


def smooth_debiased(losses: Sequence[float], beta: float = 0.9) -> Iterator[float]:
    """Average with weights that sum to one after each loss."""
    mean = 0.0
    for k, loss in enumerate(losses, start=1):
        mean = beta * mean + (1 - beta) * loss
        yield mean / (1 - beta**k)


def smooth_from_first(losses: Sequence[float], beta: float = 0.9) -> Iterator[float]:
    """Start the average at the first loss, which then weighs more than the others."""
    mean = None
    for loss in losses:
        mean = loss if mean is None else beta * mean + (1 - beta) * loss
        yield mean


def smooth_off_by_one(losses: Sequence[float], beta: float = 0.9) -> Iterator[float]:
    """Divide by the weights of one loss too many: the mistake of the bug hunt."""
    mean = 0.0
    for k, loss in enumerate(losses, start=1):
        mean = beta * mean + (1 - beta) * loss
        yield mean / (1 - beta ** (k + 1))


SMOOTHERS = {"a": smooth_debiased, "b": smooth_from_first, "c": smooth_off_by_one}
