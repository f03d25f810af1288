"""The second claim of the lesson lr_finder: a race to a test accuracy, each arm at its best lr."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor, nn

from nbkit.lab.data import Data
from nbkit.lab.evidence.comparisons import first_step
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.runs.schedules import one_cycle
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.lr_finder.task import GRID, TUNING, make_lr_net

RACE_STEPS = 150
EVERY = 5  # training steps between two looks at the accuracy


@dataclass(frozen=True)
class Race:
    """Hold what a race to a test accuracy gave.

    Attributes:
        names: the arms.
        accuracy: (arms, seeds, looks), one look every EVERY steps.
        ratio: steps of OneCycle / steps of the tuned constant lr.
        lrs: the lr of each arm.
        target: the accuracy to reach.
    """

    names: tuple[str, ...]
    accuracy: Tensor
    ratio: Interval
    lrs: Mapping[str, float]
    target: float


def race_to_target(
    data: Data,
    seeds: Sequence[int],
    suggested: float,
    *,
    depth: int,
    momentum: float,
    target: float,
) -> Race:
    """Count the steps to a test accuracy: OneCycle and a constant lr, each at its best lr of GRID.

    Beside them, and not judged, runs a suggested lr, held constant.
    """
    net = make_lr_net(data, depth)
    arms: dict[str, dict[str, Any]] = {
        "OneCycle": {"momentum": momentum, "schedule": one_cycle(total_steps=RACE_STEPS)},
        "constant": {"momentum": momentum},
    }
    # Both arms have the same budget: eleven lrs, four seeds, images that are not in the test set.
    for name, lr in tune_arrivals(net, data, arms, target=target).items():
        arms[name]["lr"] = lr
    arms["suggested"] = {"momentum": momentum, "lr": suggested}

    accuracy, arrivals = count_arrivals(net, data, arms, seeds, target=target)
    # A constant run that never arrives counts as all steps: in its favour, against the claim.
    rival = [min(steps, float(RACE_STEPS)) for steps in arrivals[1]]
    lrs = {name: arm["lr"] for name, arm in arms.items()}
    return Race(tuple(arms), accuracy, paired_ratio(arrivals[0], rival), lrs, target)


def count_arrivals(
    make_model: Callable[[], nn.Module],
    data: Data,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    target: float,
) -> tuple[Tensor, list[list[float]]]:
    """Train, and count the steps until each run's test accuracy is at least `target`.

    Returns:
        the accuracies (arms, seeds, looks), one look every EVERY steps; and for each arm and seed
        the first step that reached the target, `inf` if none did.
    """
    looks = []
    for runs in train_runs(make_model, data, arms, seeds, steps=RACE_STEPS, batch_size=64):
        if runs.step % EVERY == 0:
            looks.append(runs.evaluate(data.x_test, data.y_test)[1])
    accuracy = torch.stack(looks, dim=-1)
    when = list(range(EVERY, RACE_STEPS + 1, EVERY))
    arrivals = []
    for arm in accuracy.tolist():
        arrivals.append([first_step(seed, when, at_least=target) for seed in arm])
    return accuracy, arrivals


def tune_arrivals(
    make_model: Callable[[], nn.Module],
    data: Data,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    target: float,
) -> dict[str, float]:
    """Find for each arm the lr of GRID with which it reaches the target soonest.

    The runs have the seeds TUNING, and the accuracy is that of the training images that `hold_out`
    sets aside. A run that never arrives counts as twice the steps.
    """
    held_out = data.hold_out()
    best: dict[str, float] = {}
    for name, options in arms.items():
        grid = {f"{lr:.3g}": {**options, "lr": lr} for lr in GRID}
        _, arrivals = count_arrivals(make_model, held_out, grid, TUNING, target=target)
        means = []
        for steps in arrivals:
            means.append(geometric_mean([min(needed, 2.0 * RACE_STEPS) for needed in steps]))
        best[name] = GRID[means.index(min(means))]
    return best
