"""What lesson `clipping` measures: networks with clipping and without, each at its best lr."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.clipping import ClipHistory, clip_gradients_
from nbkit.lab.data import Data
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.evidence.proportions import proportion_difference
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.runs.seeds import train_runs
from nbkit.lab.runs.tuned import Tuned, tuned
from nbkit.lessons.clipping.networks import build_adder, count_firing_units

TUNING = range(100, 104)  # seeds that choose an lr; no claim is decided on them
TOO_HIGH = 5  # times the best lr without clipping
SGD: dict[str, Any] = {"momentum": 0.9}
ADAMW: dict[str, Any] = {"optimizer": "adamw"}
# Four lrs to the decade. The recurrent network trains fast: it can afford nine of them.
ADDER_LRS = [10 ** (k / 4) for k in range(-9, 0)]  # 0.0056 to 0.56
SGD_LRS = [10 ** (k / 4) for k in range(-6, 0)]  # 0.032 to 0.56
ADAMW_LRS = [10 ** (k / 4) for k in range(-10, -4)]  # 0.0032 to 0.056


# ---- one network, step by step ----


@dataclass(frozen=True)
class Recorded:
    """One trained network, with its loss and its gradient's norm at every step.

    Attributes:
        model: as it is after the last step.
        losses: before each update.
        history: the norms before clipping.
    """

    model: nn.Sequential
    losses: list[float]
    history: ClipHistory


def start_adder(
    *, lr: float, seed: int = 0, optimizer: str = "sgd"
) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """Build the recurrent network and its optimizer: the same seed gives the same weights."""
    torch.manual_seed(seed)
    model = build_adder()
    if optimizer == "adamw":
        return model, torch.optim.AdamW(model.parameters(), lr=lr)
    return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=SGD["momentum"])


def train_recorded(
    data: Data, *, lr: float, max_norm: float, optimizer: str, steps: int
) -> Recorded:
    """Train one recurrent network in a plain loop, and record what its gradient does."""
    model, stepper = start_adder(lr=lr, optimizer=optimizer)
    history, losses = ClipHistory(), []
    for x, y in data.batches(64, seed=0, steps=steps):
        loss = cross_entropy(model(x), y)
        stepper.zero_grad()
        loss.backward()
        history.add(clip_gradients_(model, max_norm=max_norm, nonfinite="ignore"))
        stepper.step()
        losses.append(loss.item())
    return Recorded(model, losses, history)


# ---- the measurement ----


@dataclass(frozen=True)
class Comparison:
    """Both arms at their best lr, and both at an lr too high, on seeds that tuned nothing.

    Attributes:
        found: how the lrs were chosen.
        ends: final losses (seeds,) by arm: "no clipping", "clipped", and each with "too high".
        classes: number of answers; the loss of guessing is its logarithm.
    """

    found: Tuned
    ends: dict[str, Tensor]
    classes: int

    def compare_losses(self) -> Interval:
        """Compute the ratio of final losses, clipped / without clipping, each at its best lr."""
        return paired_ratio(self.ends["clipped"].tolist(), self.ends["no clipping"].tolist())

    def compare_lost(self) -> Interval:
        """Compute the share of runs lost at the lr too high, with clipping minus without."""
        with_clip = find_lost_runs(self.ends["clipped, too high"], self.classes)
        without = find_lost_runs(self.ends["no clipping, too high"], self.classes)
        count, other = int(with_clip.sum()), int(without.sum())
        return proportion_difference(count, len(with_clip), other, len(without))


def train_both(
    make_model: Callable[[], nn.Module],
    data: Data,
    options: Mapping[str, Any],
    lrs: Sequence[float],
    seeds: Sequence[int],
    *,
    max_norm: float,
    too_high: bool = True,
    **size: Any,
) -> Comparison:
    """Tune both arms on the same lrs, then train them on fresh seeds; also at five times that lr.

    Args:
        make_model, data: as for `train_runs`.
        options: of both arms, such as the momentum.
        lrs: the grid of both arms, tried with the seeds TUNING.
        seeds: the fresh ones.
        max_norm: threshold of the clipped arm.
        too_high: whether to train at five times the lr, too.
        size: steps and batch_size.
    """
    arms = {"no clipping": {**options}, "clipped": {**options, "max_norm": max_norm}}
    found = tuned(make_model, data, arms, lrs, TUNING, **size)
    high = TOO_HIGH * found.lrs["no clipping"]
    fresh = dict(found.arms)
    for name, arm in arms.items():
        if too_high:
            fresh[f"{name}, too high"] = {**arm, "lr": high}
    *_, runs = train_runs(make_model, data, fresh, seeds, **size)
    ends = dict(zip(runs.arms, runs.final(), strict=True))
    return Comparison(found, ends, classes=1 + int(data.y_train.max()))


def find_lost_runs(losses: Tensor, classes: int) -> Tensor:
    """Find the runs that end no better than guessing: not 5 % below log(classes), or not finite.

    >>> find_lost_runs(torch.tensor([0.4, 0.69, math.inf]), classes=2)
    tensor([False,  True,  True])
    """
    # Written with a negation, so that NaN counts as lost.
    return ~(losses < 0.95 * math.log(classes))


# ---- two bites: one gradient, clipped by several functions ----


def clip_first_gradient(clip: Callable[[nn.Sequential], Any], data: Data) -> Tensor:
    """Compute the first gradient of a new network, call clip(model), return it as one vector."""
    model, _ = start_adder(lr=0.1)
    cross_entropy(model(data.x_train[:256]), data.y_train[:256]).backward()
    clip(model)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


# ---- when not: a map over lr and threshold ----


def map_thresholds(
    data: Data,
    rival: Mapping[str, Any],
    lrs: Sequence[float],
    thresholds: Sequence[float],
    seeds: Sequence[int],
    **size: Any,
) -> dict[tuple[float, float], Interval]:
    """Measure the ratio of final losses, clipped at each (lr, threshold) / the rival arm.

    Args:
        data: the adding problem.
        rival: the arm without clipping, at its best lr.
        lrs, thresholds: of the clipped arms.
        seeds: of all arms.
        size: steps and batch_size.
    """
    places = {}
    for lr in lrs:
        for limit in thresholds:
            places[f"lr {lr:g}, max_norm {limit:g}"] = (lr, limit)
    arms = {"rival": dict(rival)}
    for name, (lr, limit) in places.items():
        arms[name] = {**rival, "lr": lr, "max_norm": limit}
    *_, runs = train_runs(build_adder, data, arms, seeds, **size)
    first, *others = runs.final().tolist()
    ratios = {}
    for place, losses in zip(places.values(), others, strict=True):
        ratios[place] = paired_ratio(losses, first)
    return ratios


# ---- why: what is along the gradient ----


def find_steepest_step(
    data: Data, *, lr: float, max_norm: float, steps: int = 100
) -> tuple[nn.Sequential, Tensor, Tensor, float]:
    """Train with clipping; return model, batch and norm at the longest gradient."""
    model, optimizer = start_adder(lr=lr)
    longest = 0.0
    for x, y in data.batches(64, seed=0, steps=steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        # The report has the norm from before the clip.
        norm = clip_gradients_(model, max_norm=max_norm).total_norm
        if norm > longest:
            # A copy: the step below changes the weights.
            longest, moment = norm, (copy.deepcopy(model), x, y)
        optimizer.step()
    return *moment, longest


def walk_along_gradient(
    model: nn.Sequential, x: Tensor, y: Tensor, distances: Iterable[float]
) -> tuple[list[float], list[int]]:
    """Walk these distances from the weights along minus the gradient; measure what is there.

        w - distance * g / |g|

    Returns:
        the loss of the batch, and how many units of the memory still fire on it, at each distance.

    The model is not changed.
    """
    weights = list(model.parameters())
    gradients = torch.autograd.grad(cross_entropy(model(x), y), weights)
    # |g| over all parameters together.
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    walker, losses, firing = copy.deepcopy(model), [], []
    with torch.no_grad():
        for distance in distances:
            for moved, w, g in zip(walker.parameters(), weights, gradients, strict=True):
                moved.copy_(w - distance / norm * g)
            losses.append(float(cross_entropy(walker(x), y)))
            firing.append(count_firing_units(walker, x))
    return losses, firing


# ---- the bug hunt ----


def clip_each_step(hand_over: Callable[[nn.Module], Any], data: Data) -> list[bool]:
    """Clip three steps' gradients to 0.1 by torch's function; say after each if it is that short.

    Args:
        hand_over: called once, before the first step; returns what the clip gets at each step.
        data: the training data; the steps leave the weights as they are.
    """
    torch.manual_seed(0)
    model, short = build_adder(), []
    parameters = hand_over(model)
    for x, y in data.batches(64, seed=0, steps=3):
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        with warnings.catch_warnings():
            # The reader is to find out first.
            warnings.simplefilter("ignore")
            torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        short.append(clip_gradients_(model, max_norm=math.inf).total_norm < 0.1001)
    return short
