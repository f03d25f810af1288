"""The live labs of lesson `clipping`: two arms that train, and a walk along one gradient."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from nbkit.lab.evidence.comparisons import compare_losses
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import tuned
from nbkit.lessons.clipping import pictures, task
from nbkit.lessons.clipping.networks import build_adder, count_firing_units, make_adding_problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LENGTH, STEPS = 10, 60
SIZE: dict[str, Any] = {"steps": STEPS, "batch_size": 64}
OPTIONS = {"sgd": task.SGD, "adamw": task.ADAMW}
# The lab's baseline chooses among fewer lrs than the measurement's: it has to be quick.
FEW_LRS = [0.01, 0.02, 0.03, 0.05, 0.1]
MARGIN = 1.02  # smaller differences than 2 % count as none
# Where the walk looks: 24 distances a decade, from 0.001 to 18.
DISTANCES = [10 ** (k / 24) for k in range(-72, 31)]


@cache
def find_best_lr(optimizer: str) -> float:
    """Find the best lr without clipping for the live lab's trainings."""
    data, arms = make_adding_problem(LENGTH), {"plain": OPTIONS[optimizer]}
    return tuned(build_adder, data, arms, FEW_LRS, task.TUNING, **SIZE).lrs["plain"]


def draw_lab(
    fig: Figure,
    *,
    lr: float,
    max_norm: float,
    optimizer: str,
    tuned_baseline: bool,
    seeds: Sequence[int],
) -> Generator[None, None, str]:
    """Draw one clipped network's gradients, and train networks with clipping and without."""
    left, right = fig.subplots(1, 2)
    data = make_adding_problem(LENGTH)
    settings: Any = {"lr": lr, "max_norm": max_norm, "optimizer": optimizer}
    one = task.train_recorded(data, **settings, steps=STEPS)
    firing = count_firing_units(one.model, data.x_test)
    pictures.draw_norms(left, one.history.norms, max_norm=max_norm, firing=firing)
    yield

    plain = {"lr": lr, **OPTIONS[optimizer]}
    arms = {"no clipping": plain, "clipped": {**plain, "max_norm": max_norm}}
    if tuned_baseline:
        arms["no clipping, best lr"] = {**plain, "lr": find_best_lr(optimizer)}
    for runs in train_runs(build_adder, data, arms, seeds, **SIZE):
        # To draw takes longer than to train: once on the way, and at the end.
        if runs.step in (STEPS // 3, STEPS):
            pictures.draw_losses(right, runs, steps=STEPS)
        yield
    ends = dict(zip(runs.arms, runs.final(), strict=True))
    lost, kept = count_lost(ends["no clipping"]), count_lost(ends["clipped"])
    right.set_title(f"lost of {len(seeds)}: {lost} without clipping, {kept} with it", fontsize=9)
    return describe_lab(ends)


def describe_lab(ends: Mapping[str, torch.Tensor]) -> str:
    """Say in a short sentence how clipping did, or which goal that reaches."""
    clipped, plain = ends["clipped"], ends["no clipping"]
    rival = ends.get("no clipping, best lr")
    if rival is not None:
        # With the baseline at its best, only beating that one counts.
        told = compare_arms(clipped, "best lr", rival)
        return f"goal 3 reached: {told}" if "ends lower" in told else told
    lost, kept = count_lost(plain), count_lost(clipped)
    if lost > len(plain) / 2 and kept < len(plain) / 4:
        return f"goal 1 reached: lost without clipping {lost} of {len(plain)}, with it {kept}"
    told = compare_arms(clipped, "unclipped", plain)
    return f"goal 2 reached: {told}" if "clipped ends higher" in told else told


def compare_arms(clipped: torch.Tensor, name: str, other: torch.Tensor) -> str:
    """Compare the clipped arm with another one in a sentence that has a margin."""
    return compare_losses("clipped", clipped.tolist(), name, other.tolist(), margin=MARGIN)


def count_lost(losses: torch.Tensor) -> int:
    """Count the recurrent networks that end no better than guessing."""
    return int(task.find_lost_runs(losses, 2).sum())


@cache
def prepare_walk() -> tuple[Any, ...]:
    """Find the longest gradient of a clipped training, and measure the loss along it."""
    data = make_adding_problem(LENGTH)
    model, x, y, norm = task.find_steepest_step(data, lr=0.1, max_norm=0.5)
    return (model, x, y, norm, *task.walk_along_gradient(model, x, y, DISTANCES))


def draw_walk(fig: Figure, *, lr: float, max_norm: float) -> Generator[None, None, str]:
    """Draw the loss along the longest gradient, and where a whole and a clipped step end."""
    model, x, y, norm, losses, firing = prepare_walk()
    lengths = {"whole step": lr * norm, "clipped step": lr * min(norm, max_norm)}
    steps = {}
    for name, length in lengths.items():
        # A step may be longer or shorter than the frame: it is drawn at the edge.
        inside = min(max(length, DISTANCES[0]), DISTANCES[-1])
        (loss,), (units,) = task.walk_along_gradient(model, x, y, [inside])
        steps[name] = (inside, loss, units)
    axes = fig.subplots(1, 2)
    pictures.draw_steps(axes, DISTANCES, losses, firing, steps=steps)
    yield
    whole, clipped = steps["whole step"], steps["clipped step"]
    return f"the whole step leaves {whole[2]} units, the clipped one {clipped[2]}"
