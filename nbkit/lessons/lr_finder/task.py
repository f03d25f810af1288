"""The experiments of the lesson lr_finder: what the live lab trains, and what the cells measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from nbkit import lr_range_test
from nbkit.lab import plots
from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.comparisons import compare_losses, first_step
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import train
from nbkit.lab.runs.tuned import tuned
from nbkit.lessons.lr_finder import pictures
from nbkit.lr_finder.curve import LRCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GRID = [10 ** (k / 4) for k in range(-9, 2)]  # 0.0056 to 1.8, four lrs to the decade
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them
LAB_STEPS = 60
EVERY = 5  # training steps between two looks at the accuracy


def make_net(data: Data, depth: int) -> Callable[[], nn.Module]:
    """Return a function that builds the lesson's network for this data."""
    return partial(mlp, depth, inputs=data.x_train.shape[1])


def make_start(
    seed: int, *, depth: int, momentum: float, data: Data | None = None
) -> tuple[nn.Module, torch.optim.SGD]:
    """Build a network and its optimizer: the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = make_net(data or digits(), depth)()
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
        model, optimizer, batches, cross_entropy, min_lr=1e-5, max_lr=10, num_steps=num_steps
    )


# ---- the live lab ----


@cache
def find_best_of_grid(depth: int, momentum: float, batch_size: int) -> float:
    """Find the best constant lr for the live lab's trainings, on every other lr of the grid."""
    data = digits()
    arms = {"constant": {"momentum": momentum}}
    options = {"steps": LAB_STEPS, "batch_size": batch_size}
    found = tuned(make_net(data, depth), data, arms, GRID[::2], TUNING[:3], **options)
    return found.lrs["constant"]


def draw_lab(
    fig: Figure,
    *,
    lr: float,
    momentum: float,
    batch_size: int,
    depth: int,
    best_of_grid: bool,
    seeds: Sequence[int],
) -> Iterator[None]:
    """Draw a range test, and train at your lr, at the suggestion, and at the best lr of a grid."""
    left, right = fig.subplots(1, 2)
    data = digits()
    curve = find_lr(data, 0, depth=depth, momentum=momentum, batch_size=batch_size)
    pictures.draw_range_test(left, curve, yours=lr)

    rates = {"yours": lr, "suggested": curve.suggest()}
    if best_of_grid:
        rates["best of a grid"] = find_best_of_grid(depth, momentum, batch_size)
    arms: dict[str, dict[str, Any]] = {}
    for name, rate in rates.items():
        # A range test may suggest nothing; then there is no such arm.
        if rate is not None:
            arms[name] = {"lr": rate, "momentum": momentum}
    options = {"steps": LAB_STEPS, "batch_size": batch_size}
    for runs in train_runs(make_net(data, depth), data, arms, seeds, **options):
        if runs.step % 15 == 0:
            pictures.draw_arms(right, runs)
            yield
    return describe_lab(dict(zip(runs.arms, runs.final().tolist(), strict=True)), curve)


def describe_lab(final: Mapping[str, Sequence[float]], curve: LRCurve) -> str:
    """Say in a sentence how your lr did, and which goal it has reached."""
    if "suggested" not in final:
        return curve.explain()
    yours, suggested = final["yours"], final["suggested"]
    sentence = compare_losses("yours", yours, "suggested", suggested)
    # log(10) is the loss of guessing among ten digits.
    if sum(loss > math.log(10) for loss in yours) > len(yours) / 2:
        return f"goal 1 reached, worse than guessing: {sentence}"
    if sentence.startswith("yours ends lower"):
        return f"goal 2 reached: {sentence}"
    return sentence


# ---- the second claim: steps to an accuracy ----


def count_arrivals(
    make_model: Callable[[], nn.Module],
    data: Data,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    steps: int,
    target: float,
    held_out: bool = False,
) -> tuple[Tensor, list[list[float]]]:
    """Train, and count the steps until each run's accuracy is at least `target`.

    Args:
        held_out: look at a quarter of the training images that is kept out, in place of the test
            set, so that an lr can be chosen without it.
    Returns:
        the accuracies (arms, seeds, looks), one look every EVERY steps; and for each arm and seed
        the first step that reached the target, `inf` if none did.
    """
    if held_out:
        quarter = len(data.x_train) // 4
        x, y = data.x_train[:quarter], data.y_train[:quarter]
        data = Data(data.x_train[quarter:], data.y_train[quarter:], x, y)
    looks = []
    for runs in train_runs(make_model, data, arms, seeds, steps=steps, batch_size=64):
        if runs.step % EVERY == 0:
            looks.append(runs.evaluate(data.x_test, data.y_test)[1])
    accuracy = torch.stack(looks, dim=-1)
    when = list(range(EVERY, steps + 1, EVERY))
    arrivals = []
    for arm in accuracy.tolist():
        arrivals.append([first_step(seed, when, at_least=target) for seed in arm])
    return accuracy, arrivals


def tune_arrivals(
    make_model: Callable[[], nn.Module],
    data: Data,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    steps: int,
    target: float,
) -> dict[str, dict[str, Any]]:
    """Give each arm the lr of GRID with which it reaches the target soonest, on the seeds TUNING.

    Every arm has the same budget: as many lrs, seeds and steps. A run that never arrives counts as
    twice the steps.
    """
    candidates = {}
    for name, options in arms.items():
        for lr in GRID:
            candidates[name, lr] = {"lr": lr, **options}
    named = {f"{name} {lr:.2g}": arm for (name, lr), arm in candidates.items()}
    _, arrivals = count_arrivals(
        make_model, data, named, TUNING, steps=steps, target=target, held_out=True
    )
    best: dict[str, tuple[float, float]] = {}
    for (name, lr), steps_needed in zip(candidates, arrivals, strict=True):
        mean = geometric_mean([min(needed, 2.0 * steps) for needed in steps_needed])
        best[name] = min(best.get(name, (math.inf, 0.0)), (mean, lr))
    return {name: {"lr": best[name][1], **options} for name, options in arms.items()}


# ---- why: what a step delivers ----


def follow_delivery(
    data: Data, lr: float, *, depth: int, momentum: float, lrs: Sequence[float]
) -> dict[int, list[float]]:
    """Measure what a step delivers at the steps 1, 21 and 100 of one training at this lr."""
    model, optimizer = make_start(0, depth=depth, momentum=momentum, data=data)
    optimizer.param_groups[0]["lr"] = lr
    shares = {}
    batches = data.batches(64, seed=0, steps=100)
    for step in train(model, batches, optimizer, cross_entropy):
        if step.index in (0, 20, 99):
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
