"""Add the optimizer "sgd", with momentum and nesterov."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import make_zeros, stack_lrs, stack_option, stack_used_option


class Sgd(OptimizerOption):
    """Train with torch.optim.SGD."""

    defaults: ClassVar = {"momentum": 0.0, "nesterov": False}
    numbers = ("momentum",)
    optimizers: ClassVar = {"sgd": torch.optim.SGD}

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check momentum, and that nesterov has one."""
        momentum = rule["momentum"]
        if not 0 <= momentum < math.inf:
            return f"momentum must be finite and at least 0, got {momentum}"
        if rule["nesterov"] and momentum == 0:
            return "nesterov needs a momentum above 0"
        return None

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of SGD for stacked runs."""
        return StackedSgd(rules, weights, steps)


class StackedSgd:
    """Update as torch.optim.SGD does.

    velocity = momentum * velocity + gradient; weight -= lr * velocity
    """

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.velocities = make_zeros(weights)
        self.momentum = stack_option(rules, "momentum", like)
        self.lrs = stack_lrs(rules, steps, like)
        self.decay = stack_used_option(rules, "weight_decay", like)
        # Some runs may use nesterov and others not: (runs, 1) says which.
        nesterov = stack_used_option(rules, "nesterov", like)
        self.nesterov = None if nesterov is None else nesterov.bool()

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, velocity = self.weights[index], self.velocities[index]
        if self.decay is not None:
            # gradient = gradient + weight_decay * weight
            gradient = torch.addcmul(gradient, weight, self.decay)
        # velocity = momentum * velocity + gradient
        velocity.mul_(self.momentum).add_(gradient)
        if self.nesterov is not None:
            # Nesterov's step looks ahead: gradient + momentum * the new velocity.
            ahead = torch.addcmul(gradient, velocity, self.momentum)
            velocity = torch.where(self.nesterov, ahead, velocity)
        weight.addcmul_(velocity, self.lrs[step], value=-1)


OPTION = Sgd()
