"""Add the optimizers "adam" and "adamw", with betas and eps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nbkit.base.numbers import read_real
from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import make_zeros, stack_option, stack_steps, stack_values


class Adam(OptimizerOption):
    """Train with torch.optim.Adam or AdamW; arms of both kinds train in one program."""

    defaults: ClassVar = {"betas": (0.9, 0.999), "eps": 1e-8}
    numbers = ("eps",)
    optimizers: ClassVar = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}

    def fill_defaults(self, optimizer: str) -> Mapping[str, Any]:
        """Return torch's weight decay of AdamW; its Adam has none."""
        return {"weight_decay": 0.01} if optimizer == "adamw" else {}

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check eps and betas."""
        if not 0 <= rule["eps"] < math.inf:
            return f"eps must be finite and at least 0, got {rule['eps']}"
        if not are_betas(rule["betas"]):
            return f"betas must be two numbers from 0 to below 1, got {rule['betas']!r}"
        return None

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of Adam and AdamW for stacked runs."""
        return StackedAdam(rules, weights, steps)


def are_betas(betas: Any) -> bool:
    """Return whether a value is a pair of numbers from 0 to below 1."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        return False
    for beta in betas:
        number = read_real(beta)
        if number is None or not 0 <= number < 1:
            return False
    return True


class StackedAdam:
    """Update as torch.optim.Adam or AdamW does; decay joins the gradient in Adam only.

    weight -= lr / (1 - beta1^t) * mean / (sqrt(square / (1 - beta2^t)) + eps)
    """

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.means, self.squares = make_zeros(weights), make_zeros(weights)
        kept2, new1, new2, rates, roots = [], [], [], [], []
        for rule in rules:
            beta1, beta2 = rule["betas"]
            kept2.append(beta2)
            new1.append(1 - beta1)
            new2.append(1 - beta2)
            # The bias corrections, in Python's float64 as in torch.optim; t counts steps from 1.
            rates.append([lr / (1 - beta1**t) for t, lr in enumerate(rule.list_lrs(steps), 1)])
            roots.append([math.sqrt(1 - beta2**t) for t in range(1, steps + 1)])
        # The shares of the old squares, the new gradient and the new square in the running means.
        self.kept2 = stack_values(kept2, like)
        self.new1, self.new2 = stack_values(new1, like), stack_values(new2, like)
        self.rates, self.roots = stack_steps(rates, like), stack_steps(roots, like)
        self.eps = stack_option(rules, "eps", like)
        self._prepare_decay(rules, steps, like)

    def _prepare_decay(self, rules: Sequence[Rule], steps: int, like: Tensor) -> None:
        """Set `joined`, Adam's decay of each run, and `kept`, AdamW's factor on the weights."""
        joined, apart, kept = [], [], []
        for rule in rules:
            decay, is_apart = rule["weight_decay"], rule["optimizer"] == "adamw"
            joined.append(0.0 if is_apart else decay)
            apart.append(decay if is_apart else 0.0)
            kept.append([1 - lr * apart[-1] for lr in rule.list_lrs(steps)])
        # As everywhere in the stack, what no run uses costs no time.
        self.joined = stack_values(joined, like) if any(joined) else None
        self.kept = stack_steps(kept, like) if any(apart) else None

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, mean, square = self.weights[index], self.means[index], self.squares[index]
        if self.joined is not None:
            # gradient = gradient + weight_decay * weight
            gradient = torch.addcmul(gradient, weight, self.joined)
        if self.kept is not None:
            # weight = (1 - lr * weight_decay) * weight
            weight.mul_(self.kept[step])
        # mean = beta1 * mean + (1 - beta1) * gradient, and likewise for the squares
        mean.lerp_(gradient, self.new1)
        square.mul_(self.kept2).addcmul_(gradient * self.new2, gradient)
        # sqrt(square / (1 - beta2^t)), divided in the order of torch.optim to round alike
        divisor = square.sqrt().div_(self.roots[step]).add_(self.eps)
        weight.addcdiv_(mean * self.rates[step], divisor, value=-1)


OPTION = Adam()
