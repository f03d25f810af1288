"""Add the optimizer "adagrad"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import make_zeros, stack_lrs, stack_option, stack_used_option


class Adagrad(OptimizerOption):
    """Train with torch.optim.Adagrad."""

    optimizers: ClassVar = {"adagrad": torch.optim.Adagrad}
    shared = ("eps",)

    def fill_defaults(self, optimizer: str) -> Mapping[str, Any]:
        """Return torch's eps of Adagrad, which is another one than Adam's."""
        return {"eps": 1e-10}

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of Adagrad for stacked runs."""
        return StackedAdagrad(rules, weights, steps)


class StackedAdagrad:
    """Update as torch.optim.Adagrad does.

    square = square + gradient^2; weight -= lr * gradient / (sqrt(square) + eps)
    """

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights, self.squares = weights, make_zeros(weights)
        self.lrs = stack_lrs(rules, steps, like)
        self.eps = stack_option(rules, "eps", like)
        self.decay = stack_used_option(rules, "weight_decay", like)

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, square = self.weights[index], self.squares[index]
        if self.decay is not None:
            # gradient = gradient + weight_decay * weight
            gradient = torch.addcmul(gradient, weight, self.decay)
        # The squares are summed, not averaged: the steps only ever become shorter.
        square.addcmul_(gradient, gradient)
        divisor = square.sqrt().add_(self.eps)
        weight.addcdiv_(gradient * self.lrs[step], divisor, value=-1)


OPTION = Adagrad()
