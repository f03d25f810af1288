"""The live lab of the lesson lr_finder: a range test, and trainings at three learning rates."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from nbkit.lab.data import digits
from nbkit.lab.evidence.comparisons import compare_losses
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import tuned
from nbkit.lessons.lr_finder.pictures import LAB_STEPS, draw_arms, draw_range_test
from nbkit.lessons.lr_finder.task import GRID, TUNING, find_lr, make_lr_net
from nbkit.lr_finder import LRCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@cache
def find_best_of_grid(depth: int, momentum: float, batch_size: int) -> float:
    """Find the best constant lr for the lab: every other lr of the grid, two seeds."""
    data = digits()
    arms = {"constant": {"momentum": momentum}}
    net, seeds = make_lr_net(data, depth), TUNING[:2]
    found = tuned(net, data, arms, GRID[1::2], seeds, steps=LAB_STEPS, batch_size=batch_size)
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
) -> Generator[None, None, str]:
    """Draw a range test, and train at your lr, at the suggestion, and at the best lr of a grid."""
    left, right = fig.subplots(1, 2)
    data = digits()
    curve = find_lr(data, 0, depth=depth, momentum=momentum, batch_size=batch_size)
    draw_range_test(left, curve, yours=lr)
    yield

    rates = {"yours": lr, "suggested": curve.suggest()}
    if best_of_grid:
        rates["best of a grid"] = find_best_of_grid(depth, momentum, batch_size)
    arms: dict[str, dict[str, Any]] = {}
    for name, rate in rates.items():
        # A range test may suggest nothing; then there is no such arm.
        if rate is not None:
            arms[name] = {"lr": rate, "momentum": momentum}
    net = make_lr_net(data, depth)
    for runs in train_runs(net, data, arms, seeds, steps=LAB_STEPS, batch_size=batch_size):
        # To draw takes longer than to train: once on the way, and at the end.
        if runs.step in (LAB_STEPS // 3, LAB_STEPS):
            draw_arms(right, runs)
        yield
    return describe_lr_lab(dict(zip(runs.arms, runs.final().tolist(), strict=True)), curve)


def describe_lr_lab(final: Mapping[str, Sequence[float]], curve: LRCurve) -> str:
    """Say in a sentence how your lr did, and which goal it has reached."""
    if "suggested" not in final:
        return curve.explain()
    yours, suggested = final["yours"], final["suggested"]
    sentence = compare_losses("yours", yours, "suggested", suggested)
    # log(10) is the loss of guessing among ten digits; a tenth more is not noise.
    if sum(not loss < 1.1 * math.log(10) for loss in yours) > len(yours) / 2:
        return "goal 1 reached: worse than guessing"
    if sentence.startswith("yours ends lower"):
        return f"goal 2 reached: {sentence}"
    return sentence
