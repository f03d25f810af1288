"""Train at some weights and evaluate at others: what schedule-free optimizers need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nbkit.lab.runs.option import Rule
from nbkit.lab.runs.run_values import stack_lrs, stack_option, stack_steps


@runtime_checkable
class Averaging(Protocol):
    """Hold averages of the weights; an optimizer or a stacked update may be one."""

    def list_averages(self) -> list[tuple[Tensor, Tensor]]:
        """List each weight that trains, with the average that is evaluated in its place."""


@contextmanager
def evaluate_averages(*optimizers: object) -> Iterator[None]:
    """Put the averages in the place of the weights; put the same weights back on every way out.

    What is no `Averaging` is evaluated with the weights that it trains.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    for optimizer in optimizers:
        if isinstance(optimizer, Averaging):
            pairs += optimizer.list_averages()
    # Copies: to compute the weights back from the average would round them.
    kept = [weight.detach().clone() for weight, _ in pairs]
    try:
        with torch.no_grad():
            for weight, average in pairs:
                weight.copy_(average)
        yield
    finally:
        with torch.no_grad():
            for (weight, _), before in zip(pairs, kept, strict=True):
                weight.copy_(before)


def list_average_shares(lrs: Sequence[float]) -> list[float]:
    """List the share of each step's point in the average: lr_max^2 / the sum of all so far.

    `lr_max` is the highest lr up to that step. With a constant lr the share of step t is 1 / t; in
    a warm-up the early points, which moved little, count little.

    >>> list_average_shares([0.1, 0.1, 0.1, 0.1])
    [1.0, 0.5, 0.3333333333333333, 0.25]
    """
    shares, highest, total = [], 0.0, 0.0
    for lr in lrs:
        highest = max(highest, lr)
        total += highest**2
        # Before the first lr above 0 nothing has moved, and there is nothing to average.
        shares.append(highest**2 / total if total > 0 else 0.0)
    return shares


class StackedAverage:
    """Move stacked weights as a schedule-free optimizer does, along a given direction.

        z -= lr * direction
        x = (1 - share) * x + share * z
        y = (1 - beta) * z + beta * x

    Gradients are taken at y, the weights; x is evaluated.
    """

    def __init__(
        self, rules: Sequence[Rule], weights: Sequence[Tensor], betas: Sequence[float], steps: int
    ) -> None:
        like = weights[0]
        self.weights = weights
        self.points = [weight.clone() for weight in weights]  # z
        self.averages = [weight.clone() for weight in weights]  # x
        self.lrs = stack_lrs(rules, steps, like)
        self.shares = stack_steps(
            [list_average_shares(rule.list_lrs(steps)) for rule in rules], like
        )
        self.betas = torch.tensor(betas, dtype=like.dtype, device=like.device)[:, None]
        self.decay = stack_option(rules, "weight_decay", like)

    def move_weights(self, step: int, index: int, direction: Tensor) -> None:
        """Update one parameter of all runs in place; the weight decay joins the direction."""
        weight, point, average = self.weights[index], self.points[index], self.averages[index]
        direction = torch.addcmul(direction, weight, self.decay)
        point.addcmul_(direction, self.lrs[step], value=-1)
        average.lerp_(point, self.shares[step])
        torch.lerp(point, average, self.betas, out=weight)

    def list_averages(self) -> list[tuple[Tensor, Tensor]]:
        """List each weight, with the average that is evaluated in its place."""
        return list(zip(self.weights, self.averages, strict=True))


class ScheduleFree(torch.optim.Optimizer):
    """Move the weights of one model in the same way; subclasses say along which direction.

    Each group has `beta`, the share of the average in the weights. Other than in the package
    `schedulefree` there is no mode to switch: `evaluate_averages` puts the averages into place.
    """

    def find_direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Find the direction in which z steps, without the weight decay."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        for group in self.param_groups:
            group["highest"] = max(group.get("highest", 0.0), group["lr"])
            group["total"] = group.get("total", 0.0) + group["highest"] ** 2
            share = group["highest"] ** 2 / group["total"] if group["total"] > 0 else 0.0
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move_parameter(parameter, group, share)

    def _move_parameter(self, parameter: Tensor, group: dict[str, Any], share: float) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, z=parameter.clone(), x=parameter.clone())
        state["step"] += 1
        direction = self.find_direction(parameter, group) + group["weight_decay"] * parameter
        state["z"].sub_(direction, alpha=group["lr"])
        state["x"].lerp_(state["z"], share)
        parameter.copy_(state["z"].lerp(state["x"], group["beta"]))

    def list_averages(self) -> list[tuple[Tensor, Tensor]]:
        """List each weight that has moved, with the average that is evaluated in its place."""
        return [(parameter, state["x"]) for parameter, state in self.state.items()]
