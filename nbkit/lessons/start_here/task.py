"""What the lesson start_here trains and measures: two arms, with and without momentum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from nbkit.lab.data import Data, digits
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import Runs, train_runs
from nbkit.lab.runs.tuned import tuned

STEPS, BATCH = 60, 64
GRID = [10 ** (k / 4) for k in range(-8, 4)]  # 0.01 to 5.6, four lrs to the decade
TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them


def make_digit_net(data: Data) -> Callable[[], nn.Module]:
    """Return a function that builds the lesson's network for this data."""
    return partial(mlp, 2, inputs=data.x_train.shape[1])


def train_momentum_arms(
    data: Data, seeds: Sequence[int], *, momentum: float, lr: float, rival_lr: float | None = None
) -> Iterator[Runs]:
    """Train both arms at once: for each seed the same initial weights and the same batches.

    Args:
        rival_lr: lr of the arm without momentum; the same lr unless given.
    """
    arms = {
        "momentum": {"lr": lr, "momentum": momentum},
        "without": {"lr": lr if rival_lr is None else rival_lr},
    }
    return train_runs(make_digit_net(data), data, arms, seeds, steps=STEPS, batch_size=BATCH)


def compare_both(data: Data, seeds: Sequence[int], **settings: Any) -> Interval:
    """Measure the final loss with momentum / without, pair by pair."""
    *_, runs = train_momentum_arms(data, seeds, **settings)
    return paired_ratio(*runs.final().tolist())


def tune_momentum_arms(data: Data, momentum: float) -> dict[str, float]:
    """Find each arm's best lr: the same grid, the same seeds, the same steps for both."""
    arms = {"momentum": {"momentum": momentum}, "without": {}}
    found = tuned(make_digit_net(data), data, arms, GRID, TUNING, steps=STEPS, batch_size=BATCH)
    return found.lrs


@cache
def find_rival_lr() -> float:
    """Find the best lr of plain SGD for the live lab, once."""
    return tune_momentum_arms(digits(), 0.9)["without"]


def compare_single_seeds(data: Data, seeds: Sequence[int], lr: float) -> list[float]:
    """Measure the ratio of losses that somebody with this one seed would report."""
    *_, runs = train_momentum_arms(data, seeds, momentum=0.9, lr=lr)
    ours, theirs = runs.final()
    ratios: list[float] = (ours / theirs).tolist()
    return ratios


def list_intervals(ends: Sequence[float]) -> list[tuple[float, float]]:
    """List every interval (low, high) between two of these ends, low below high.

    >>> list_intervals([0.1, 0.4, 0.8])
    [(0.1, 0.4), (0.1, 0.8), (0.4, 0.8)]
    """
    return [(low, high) for low in ends for high in ends if low < high]


def measure_growing_samples(
    ours: Sequence[float], theirs: Sequence[float], counts: Sequence[int]
) -> list[Interval]:
    """Measure the paired ratio of the first n seeds, for each n in `counts`.

    Args:
        ours: one value for each seed, of the arm in the numerator.
        theirs: the same seeds' values in the other arm.
        counts: how many seeds to use, at most all of them.

    >>> [interval.n for interval in measure_growing_samples([1, 2, 4], [2, 3, 9], [2, 3])]
    [2, 3]
    """
    # The first n of one fixed list: a longer sample contains the shorter one.
    return [paired_ratio(ours[:n], theirs[:n]) for n in counts]


# ---- the bug hunt: three ways to sum up eight seeds ----


def report_best(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Compare the best run of each arm: the mistake of the bug hunt."""
    return ours.min() / theirs.min()


def report_paired(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Compare pair by pair, then average the logarithms."""
    return (ours / theirs).log().mean().exp()


def report_median(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Compare the medians of the two arms."""
    return ours.median() / theirs.median()


REPORTS = {"a": report_best, "b": report_paired, "c": report_median}
