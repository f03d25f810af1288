"""Many runs as one program: arms x seeds trained together, one leading dimension for the run.

The weights of R runs are stacked, so that one batched kernel does the work of R small ones:

    (R, batch, inputs) @ (R, inputs, outputs) + (R, 1, outputs)

What differs from run to run (lr, momentum, schedule) is data of the program, a number each. Runs do
not touch each other: a loss reaches the weights of its own run only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbkit.lab.data import Batches, Data
from nbkit.lab.stacking import stack
from nbkit.lab.training import train
from nbkit.state import preserve_state

CHUNK = 1024  # samples evaluated at once: keeps the activations of many runs small

Predict = Callable[[Tensor], Tensor]  # samples -> logits (runs, samples, classes)


@dataclass(frozen=True)
class Rule:
    """How one run is trained: torch's SGD, with `lr * schedule(step)` at each step."""

    lr: float
    momentum: float = 0.0
    schedule: Callable[[int], float] | None = None

    def lrs(self, steps: int) -> list[float]:
        """The lr of each step."""
        schedule = self.schedule or (lambda step: 1.0)
        return [self.lr * schedule(step) for step in range(steps)]


class Runs:
    """Runs in training, arms x seeds, as far as they have come.

    `arms` and `seeds` name the rows and columns, `step` counts the updates so far. A run whose loss
    is no longer finite has diverged and stays so: its loss is `inf` from that step on, which sorts
    after every other. Tensors stay on the device until somebody reads them.
    """

    def __init__(
        self, arms: Sequence[str], seeds: Sequence[int], steps: int, predict: Predict, like: Tensor
    ) -> None:
        self.arms = tuple(arms)
        self.seeds = tuple(seeds)
        self.step = 0
        self.diverged = torch.zeros(len(arms), len(seeds), dtype=torch.bool, device=like.device)
        self._losses = like.new_empty(len(arms), len(seeds), steps)
        self._predict = predict

    @property
    def losses(self) -> Tensor:
        """Training losses (arms, seeds, steps so far), each of its batch before the update."""
        return self._losses[..., : self.step]

    def final(self, tail: float = 0.1) -> Tensor:
        """The mean of the last losses, (arms, seeds); `tail` is the share of the steps so far.

        Raises:
            ValueError: if tail is not above 0 and at most 1, or no step has been taken.
        """
        if not 0 < tail <= 1 or self.step == 0:
            raise ValueError(
                f"tail must be above 0 and at most 1, after at least one step; got tail={tail} "
                f"after {self.step} steps."
            )
        return self.losses[..., -math.ceil(tail * self.step) :].mean(-1)

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and accuracy on these samples, (arms, seeds) each.

        Where a run has diverged, or its loss here is not finite, the loss is `inf` and the accuracy
        0: it predicts nothing.
        """
        chunks = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        losses, correct = zip(*(self._scores(*chunk) for chunk in chunks), strict=True)
        shape = self.diverged.shape
        loss = torch.stack(losses).sum(0).view(shape) / len(x)
        accuracy = torch.stack(correct).sum(0).view(shape) / len(x)
        lost = self.diverged | ~loss.isfinite()
        return loss.masked_fill(lost, torch.inf), accuracy.masked_fill(lost, 0.0)

    def _scores(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Each run's summed loss and number of correct answers."""
        logits = self._predict(x)
        labels = y.expand(len(logits), -1)
        losses = F.cross_entropy(logits.mT, labels, reduction="none")
        return losses.sum(1), (logits.argmax(-1) == labels).sum(1)

    def _record(self, losses: Tensor) -> None:
        losses = losses.view(self.diverged.shape)
        self.diverged = self.diverged | ~losses.isfinite()
        self._losses[..., self.step] = losses.masked_fill(self.diverged, torch.inf)
        self.step += 1


def train_runs(
    make_model: Callable[[], nn.Module],
    data: Data,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    steps: int,
    batch_size: int,
    vectorize: bool = True,
) -> Iterator[Runs]:
    """Train every arm with every seed, all at once, by SGD on the cross-entropy.

    Args:
        make_model: builds a model from torch's random state, which is seeded for it and given back.
        data: trained on where it is.
        arms: name -> `{"lr": 0.1, "momentum": 0.9, "schedule": step -> factor}`; lr is required,
            one for the arm or a list with one for each seed.
        seeds: one run each, in every arm. Runs of one seed are paired: the same initial weights,
            and the same batches in the same order.
        steps: optimizer updates of each run.
        batch_size: samples of each.
        vectorize: False trains the runs one by one in turn: any model, the same result, slower.
    Returns:
        Iterator[Runs]: yields after each update of all runs, always the same object, grown.
    Raises:
        ValueError: if arms or seeds cannot be read, or the model has a layer that is not batched.

    Batched so far: Sequential of Linear, Flatten and elementwise activations.

    >>> from nbkit.lab.data import digits
    >>> from nbkit.lab.models import mlp
    >>> arms = {"slow": {"lr": 0.01}, "fast": {"lr": 0.1}}
    >>> for runs in train_runs(mlp, digits(), arms, seeds=range(4), steps=20, batch_size=64):
    ...     pass
    >>> runs.losses.shape, bool((runs.final() < 2.4).all())
    (torch.Size([2, 4, 20]), True)
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different whole numbers, at least one, got {seeds}.")
    rules = _read_arms(arms, len(seeds), steps)
    orders = [data.batches(batch_size, seed=seed, steps=steps) for seed in seeds]

    with preserve_state():
        models = [_seeded(make_model, seed).to(data.x_train.device) for seed in seeds]
    if len({id(model) for model in models}) < len(models):
        raise ValueError("make_model must build a new model at each call, got the same one again.")
    start = _stacked if vectorize else _separate
    predict, losses = start(models * len(arms), data, rules, orders * len(arms))
    return _follow(Runs(list(arms), seeds, steps, predict, next(models[0].parameters())), losses)


def _follow(runs: Runs, losses: Iterator[Tensor]) -> Iterator[Runs]:
    for step_losses in losses:
        runs._record(step_losses)
        yield runs


def _read_arms(arms: Mapping[str, Mapping[str, Any]], seeds: int, steps: int) -> list[Rule]:
    """The rule of each run: arm after arm, in each of them seed after seed."""
    if not arms:
        raise ValueError('arms must hold at least one, such as {"plain": {"lr": 0.1}}, got none.')
    known = [field.name for field in fields(Rule)]
    rules = []
    for name, values in arms.items():
        if "lr" not in values or not set(values) <= set(known):
            raise ValueError(
                f"arm {name!r} must have lr and may have {' and '.join(known[1:])}, got "
                f"{', '.join(values) or 'nothing'}."
            )
        lrs = values["lr"] if isinstance(values["lr"], Sequence) else [values["lr"]] * seeds
        if len(lrs) != seeds:
            raise ValueError(f"arm {name!r} must have one lr, or {seeds}, got {len(lrs)}.")
        rules += [_checked(name, Rule(**{**values, "lr": lr}), steps) for lr in lrs]
    return rules


def _checked(name: str, rule: Rule, steps: int) -> Rule:
    if not isinstance(rule.lr, int | float):
        raise ValueError(f"arm {name!r}: lr must be a number, got {rule.lr!r}.")
    lrs = rule.lrs(steps)
    numbers = [rule.lr, rule.momentum, *lrs]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(
            f"arm {name!r}: momentum and lr * schedule(step) must be finite and at least 0, "
            f"got momentum={rule.momentum} and lr={rule.lr}, scheduled from "
            f"{min(numbers[2:])} to {max(numbers[2:])}."
        )
    return rule


def _seeded(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make_model()


def _separate(
    models: list[nn.Module], data: Data, rules: list[Rule], orders: list[Batches]
) -> tuple[Predict, Iterator[Tensor]]:
    """The plain version: an ordinary loop for each run, one step of each in turn."""
    runs, trainings = [], []
    for model, rule, order in zip(models, rules, orders, strict=True):
        runs.append(copy.deepcopy(model))
        sgd = torch.optim.SGD(runs[-1].parameters(), lr=rule.lr, momentum=rule.momentum)
        trainings.append(train(runs[-1], order, sgd, F.cross_entropy, schedule=rule.schedule))
    losses = (torch.stack([step.loss for step in steps]) for steps in zip(*trainings, strict=True))
    return (lambda x: torch.stack([_evaluated(run, x) for run in runs])), losses


def _evaluated(model: nn.Module, x: Tensor) -> Tensor:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return model(x)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _stacked(
    models: list[nn.Module], data: Data, rules: list[Rule], orders: list[Batches]
) -> tuple[Predict, Iterator[Tensor]]:
    """The fast version: one model whose every tensor has a leading dimension for the run."""
    model = stack(models)
    return (
        (lambda x: model(x.expand(len(models), *x.shape))),
        _train_stacked(model, data, rules, orders),
    )


def _train_stacked(
    model: nn.Module, data: Data, rules: list[Rule], orders: list[Batches]
) -> Iterator[Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    velocities = [torch.zeros_like(p) for p in parameters]
    lrs = _per_run([rule.lrs(orders[0].steps) for rule in rules], parameters[0])
    momentum = _per_run([[rule.momentum] for rule in rules], parameters[0])[0]
    seeds = len({order.seed for order in orders})
    draws = zip(*(order.indices() for order in orders[:seeds]), strict=True)
    for lr, rows in zip(lrs, draws, strict=True):
        drawn = torch.stack(rows)  # one draw for all arms: that is what pairs them
        x = torch.cat([data.x_train[drawn]] * (len(rules) // seeds))
        y = torch.cat([data.y_train[drawn]] * (len(rules) // seeds))
        # Classes before samples: over a last dimension torch's softmax takes nine times as long.
        losses = F.cross_entropy(model(x).mT, y, reduction="none").mean(1)
        _sgd_(parameters, torch.autograd.grad(losses.sum(), parameters), velocities, lr, momentum)
        yield losses.detach()


def _per_run(values: list[list[float]], like: Tensor) -> Tensor:
    """A list of numbers for each run -> (numbers, runs, 1, 1), to multiply stacked weights with."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).T[..., None, None]


@torch.no_grad()
def _sgd_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    velocities: Sequence[Tensor],
    lr: Tensor,
    momentum: Tensor,
) -> None:
    """torch's convention: velocity = momentum * velocity + gradient; weight -= lr * velocity."""
    for weight, gradient, velocity in zip(parameters, gradients, velocities, strict=True):
        velocity.mul_(momentum).add_(gradient)
        weight.addcmul_(velocity, lr, value=-1)
