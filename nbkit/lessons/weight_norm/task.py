"""What the lesson weight_norm trains and measures: one network, with and without weight_norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.parametrizations import weight_norm

from nbkit.initialization import initialize_
from nbkit.lab.data import Data
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.comparisons import first_step
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.proportions import proportion_difference
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.evidence.verdicts import Verdict, judge
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.training import train
from nbkit.lab.runs.tuned import tuned

DEPTH, WIDTH, BATCH = 4, 32, 32
GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of plain SGD; momentum 0.9 takes a tenth of each
MOMENTUM = 0.9  # of the second claim
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them
MANY_TUNING = range(100, 108)  # more, where each seed also has a scale of its own
RACE_STEPS, WINDOW = 200, 10  # a run arrives when its mean loss over the window is low enough
GOLDEN = (math.sqrt(5) - 1) / 2


def make_small_net(data: Data) -> Callable[[], nn.Module]:
    """Return a function that builds the lesson's network for this data."""
    return partial(mlp, DEPTH, WIDTH, inputs=data.x_train.shape[1])


def start_net(model: nn.Module, *, scale: float = 1.0, normed: bool = False) -> None:
    """Draw Kaiming's weights times `scale`, and put weight_norm on each Linear layer if asked."""
    initialize_(model, "kaiming_normal", gain=scale * math.sqrt(2))
    for layer in list(model.modules()):
        if normed and isinstance(layer, nn.Linear):
            weight_norm(layer)


def find_scale(seed: int) -> float:
    """Return the scale of a seed, between a quarter and four; the scales of many fill it evenly.

    >>> all(0.25 <= find_scale(seed) <= 4 for seed in range(100))
    True
    """
    # Multiples of the golden ratio, modulo 1, leave no large gap, wherever one begins to count.
    return float(4.0 ** (2 * (seed * GOLDEN % 1) - 1))


def start_scaled(model: nn.Module, *, normed: bool) -> None:
    """Start a network at the scale of the seed with which `train_runs` has just seeded torch."""
    start_net(model, scale=find_scale(torch.initial_seed()), normed=normed)


def make_arms(start: Callable[..., None], **options: Any) -> dict[str, dict[str, Any]]:
    """Make the two arms, which differ in weight_norm alone; options are those of `train_runs`."""
    return {
        "weight norm": {**options, "init": partial(start, normed=True)},
        "plain": {**options, "init": partial(start, normed=False)},
    }


def tune_race(data: Data) -> dict[str, dict[str, Any]]:
    """Give each arm of the race its best lr of GRID, from trainings of 100 steps."""
    arms = make_arms(start_net)
    return tuned(make_small_net(data), data, arms, GRID, TUNING, steps=100, batch_size=BATCH).arms


def race_to_loss(
    data: Data, arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], target: float
) -> Interval:
    """Measure the steps to the target loss, the first arm's / the second's, pair by pair."""
    options: dict[str, Any] = {"steps": RACE_STEPS, "batch_size": BATCH}
    *_, runs = train_runs(make_small_net(data), data, arms, seeds, **options)
    return paired_ratio(*count_steps_below(runs.losses, target, window=WINDOW))


def count_steps_below(losses: Tensor, target: float, *, window: int) -> list[list[float]]:
    """Count the steps until the mean loss of the last `window` steps is below the target.

    Args:
        losses: (arms, seeds, steps).
        target: loss to get below.
        window: steps in a mean.
    Returns:
        for each arm one number of steps for each seed; a run that never arrives counts as all of
        its steps.

    >>> count_steps_below(torch.tensor([[[3.0, 2.0, 1.0, 1.0]]]), 1.2, window=2)
    [[4.0]]
    """
    total = losses.shape[-1]
    steps = range(window, total + 1)  # the step at which each mean is complete
    below = losses.unfold(-1, window, 1).mean(-1) < target
    counts = []
    for arm in below.tolist():
        # False and True count as 0 and 1, so `first_step` finds the first True.
        counts.append([min(first_step(seed, steps, at_least=1), float(total)) for seed in arm])
    return counts


def train_scaled(data: Data, seeds: Sequence[int], *, steps: int = 80) -> Tensor:
    """Train both arms from each seed's own scale, each at its best lr; return test accuracies.

    Returns:
        (2 arms, seeds), weight norm first.
    """
    options: dict[str, Any] = {"steps": steps, "batch_size": BATCH}
    make, lrs = make_small_net(data), [lr / 10 for lr in GRID]
    arms = make_arms(start_scaled, momentum=MOMENTUM)
    found = tuned(make, data, arms, lrs, MANY_TUNING, **options)
    *_, runs = train_runs(make, data, found.arms, seeds, **options)
    return runs.evaluate(data.x_test, data.y_test)[1]


def compare_failures(accuracies: Tensor, passing: float) -> Interval:
    """Measure the share of runs below the passing accuracy, first arm - second arm."""
    n = accuracies.shape[1]
    ours, theirs = (accuracies < passing).sum(1).tolist()
    return proportion_difference(ours, n, theirs, n)


def judge_speed_cells(
    claim: Claim, data: Data, seeds: Sequence[int], lrs: Iterable[float], scales: Sequence[float]
) -> dict[tuple[float, float], Verdict]:
    """Judge the claim about speed with both arms at one lr and one scale, for each pair of them."""
    arms, pairs = {}, [(lr, scale) for lr in lrs for scale in scales]
    for lr, scale in pairs:
        for name, arm in make_arms(partial(start_net, scale=scale), lr=lr).items():
            arms[f"{name}, lr {lr}, scale {scale}"] = arm
    options: dict[str, Any] = {"steps": RACE_STEPS, "batch_size": BATCH}
    # One call for all cells: many runs at once cost little more than a few.
    *_, runs = train_runs(make_small_net(data), data, arms, seeds, **options)
    counts = count_steps_below(runs.losses, 0.5, window=WINDOW)
    cells = {}
    for k, pair in enumerate(pairs):
        cells[pair] = judge(claim, paired_ratio(counts[2 * k], counts[2 * k + 1]))
    return cells


def train_from_scale(data: Data, *, scale: float, lr: float, steps: int = 80) -> list[float]:
    """Train one network without weight_norm, and return the loss of each step."""
    torch.manual_seed(0)
    model = make_small_net(data)()
    start_net(model, scale=scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    batches = data.batches(BATCH, seed=0, steps=steps)
    return [step.loss.item() for step in train(model, batches, optimizer, cross_entropy)]


def describe_scaled_end(losses: Sequence[float]) -> str:
    """Say how a training ended, by its last losses beside that of guessing."""
    last = sum(losses[-10:]) / len(losses[-10:])
    if not last < 1.1 * math.log(10):  # NaN counts as worse
        return "worse than guessing"
    return "learned" if last < 0.6 * math.log(10) else "little better than guessing"


def follow_lengths(data: Data, lr: float, *, steps: int = 80) -> list[float]:
    """Train with weight_norm by plain SGD; return the mean length of v, steps + 1 numbers.

    The rows are those of the second Linear layer.
    """
    torch.manual_seed(0)
    model = make_small_net(data)()
    start_net(model, normed=True)
    # torch calls the length `original0` and the direction `original1`.
    v = dict(model.named_parameters())["2.parametrizations.weight.original1"].detach()
    lengths = [float(v.norm(dim=1).mean())]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in train(model, data.batches(BATCH, seed=0, steps=steps), optimizer, cross_entropy):
        lengths.append(float(v.norm(dim=1).mean()))
    return lengths


# ---- the bug hunt: three ways to give each row of v the length g ----


def divide_by_rows(g: Tensor, v: Tensor) -> Tensor:
    """Divide each row by its length."""
    lengths: Tensor = v.norm(dim=1, keepdim=True)
    return g[:, None] * v / lengths


def divide_by_matrix(g: Tensor, v: Tensor) -> Tensor:
    """Divide by the length of the whole matrix: the mistake of the bug hunt."""
    length: Tensor = v.norm()
    return g[:, None] * v / length


def call_normalize(g: Tensor, v: Tensor) -> Tensor:
    """Let torch divide each row by its length."""
    return g[:, None] * normalize(v, dim=1)


NORMERS = {"a": divide_by_rows, "b": divide_by_matrix, "c": call_normalize}
