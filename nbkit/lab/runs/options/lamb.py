"""Add the optimizer "lamb"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import (
    make_zeros,
    stack_lrs,
    stack_option,
    stack_steps,
    stack_values,
)
from nbkit.optimizers import Lamb, divide_norms


class LambOption(OptimizerOption):
    """Train with LAMB, which also takes betas and eps."""

    optimizers: ClassVar = {"lamb": Lamb}
    shared = ("betas", "eps")

    def fill_defaults(self, optimizer: str) -> Mapping[str, Any]:
        """Return the eps and the weight decay of Lamb."""
        return {"eps": 1e-6, "weight_decay": 0.01}

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of LAMB for stacked runs."""
        return StackedLamb(rules, weights, steps)


class StackedLamb:
    """Update as Lamb does; a row of the stacked weights is one run's parameter."""

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.means, self.squares = make_zeros(weights), make_zeros(weights)
        kept2, new1, new2, scales, roots = [], [], [], [], []
        for rule in rules:
            beta1, beta2 = rule["betas"]
            kept2.append(beta2)
            new1.append(1 - beta1)
            new2.append(1 - beta2)
            # The bias corrections; t counts steps from 1.
            scales.append([1 - beta1**t for t in range(1, steps + 1)])
            roots.append([math.sqrt(1 - beta2**t) for t in range(1, steps + 1)])
        self.kept2 = stack_values(kept2, like)
        self.new1, self.new2 = stack_values(new1, like), stack_values(new2, like)
        self.scales, self.roots = stack_steps(scales, like), stack_steps(roots, like)
        self.lrs, self.eps = stack_lrs(rules, steps, like), stack_option(rules, "eps", like)
        self.decay = stack_option(rules, "weight_decay", like)

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, mean, square = self.weights[index], self.means[index], self.squares[index]
        mean.lerp_(gradient, self.new1)
        square.mul_(self.kept2).addcmul_(gradient * self.new2, gradient)
        divisor = square.sqrt().div_(self.roots[step]).add_(self.eps)
        direction = mean.div(self.scales[step]).div_(divisor).addcmul_(weight, self.decay)
        # (runs, 1): each run has a norm and a ratio of its own.
        ratio = divide_norms(weight, direction)
        weight.addcmul_(direction, ratio * self.lrs[step], value=-1)


OPTION = LambOption()
