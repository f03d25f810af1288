"""Add the optimizer "rmsprop", with alpha and centered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import (
    make_zeros,
    stack_lrs,
    stack_option,
    stack_used_option,
    stack_values,
)


class RmsProp(OptimizerOption):
    """Train with torch.optim.RMSprop, which also takes momentum and eps."""

    defaults: ClassVar = {"alpha": 0.99, "centered": False}
    numbers = ("alpha",)
    optimizers: ClassVar = {"rmsprop": torch.optim.RMSprop}
    shared = ("momentum", "eps")

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that alpha is a share that leaves room for the new square."""
        if not 0 <= rule["alpha"] < 1:
            return f"alpha must be from 0 to below 1, got {rule['alpha']}"
        return None

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of RMSprop for stacked runs."""
        return StackedRmsProp(rules, weights, steps)


class StackedRmsProp:
    """Update as torch.optim.RMSprop does.

    square = alpha * square + (1 - alpha) * gradient^2
    velocity = momentum * velocity + gradient / (sqrt(square) + eps); weight -= lr * velocity
    """

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.squares, self.means = make_zeros(weights), make_zeros(weights)
        self.velocities = make_zeros(weights)
        self.kept = stack_option(rules, "alpha", like)
        self.new = stack_values([1 - rule["alpha"] for rule in rules], like)
        self.lrs = stack_lrs(rules, steps, like)
        self.eps = stack_option(rules, "eps", like)
        # What no run uses costs no time.
        self.momentum = stack_used_option(rules, "momentum", like)
        self.centered = stack_used_option(rules, "centered", like)
        self.decay = stack_used_option(rules, "weight_decay", like)

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, square, mean = self.weights[index], self.squares[index], self.means[index]
        if self.decay is not None:
            # gradient = gradient + weight_decay * weight
            gradient = torch.addcmul(gradient, weight, self.decay)
        square.mul_(self.kept).addcmul_(gradient * self.new, gradient)
        spread = square
        if self.centered is not None:
            # variance = square - mean^2, in the runs that are centered
            mean.lerp_(gradient, self.new)
            spread = torch.addcmul(square, mean * self.centered, mean, value=-1)
        change = gradient / spread.sqrt().add_(self.eps)
        if self.momentum is not None:
            change = self.velocities[index].mul_(self.momentum).add_(change)
        weight.addcmul_(change, self.lrs[step], value=-1)


OPTION = RmsProp()
