"""The optimizers "adam" and "adamw", with betas and eps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nbkit.base.numbers import read_real
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import stack_steps, stack_used_values, stack_values


class Adam(OptimizerOption):
    """torch.optim.Adam and AdamW; arms of both kinds train in one program."""

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
        self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int
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
    """torch.optim.Adam and AdamW: they differ in whether decay joins the gradient or the weight.

    weight -= lr / (1 - beta1^t) * mean / (sqrt(square / (1 - beta2^t)) + eps)
    """

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights = weights
        self.means = [torch.zeros_like(weight) for weight in weights]
        self.squares = [torch.zeros_like(weight) for weight in weights]
        self.beta2 = stack_values([rule["betas"][1] for rule in rules], like)
        self.new1 = stack_values([1 - rule["betas"][0] for rule in rules], like)
        self.new2 = stack_values([1 - rule["betas"][1] for rule in rules], like)
        self.eps = stack_values([rule["eps"] for rule in rules], like)
        # In Python's float64, as torch.optim computes them; t counts the steps from 1.
        rates, roots, kept, decays = [], [], [], []
        for rule in rules:
            beta1, beta2 = rule["betas"]
            lrs, decay = rule.list_lrs(steps), rule["weight_decay"]
            apart, joined = (decay, 0.0) if rule["optimizer"] == "adamw" else (0.0, decay)
            rates.append([lr / (1 - beta1**t) for t, lr in enumerate(lrs, 1)])
            roots.append([math.sqrt(1 - beta2**t) for t in range(1, steps + 1)])
            kept.append([1 - lr * apart for lr in lrs])
            decays.append((apart, joined))
        self.rates, self.roots = stack_steps(rates, like), stack_steps(roots, like)
        # As in StackedSgd, a kind of decay that no run uses costs no time.
        self.joined = stack_used_values([joined for _, joined in decays], like)
        self.kept = stack_steps(kept, like) if any(apart for apart, _ in decays) else None

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, mean, square = self.weights[index], self.means[index], self.squares[index]
        if self.joined is not None:
            gradient = torch.addcmul(gradient, weight, self.joined)
        if self.kept is not None:
            weight.mul_(self.kept[step])
        mean.lerp_(gradient, self.new1)
        square.mul_(self.beta2).addcmul_(gradient * self.new2, gradient)
        divisor = square.sqrt().div_(self.roots[step]).add_(self.eps)
        weight.addcdiv_(mean * self.rates[step], divisor, value=-1)


OPTION = Adam()
