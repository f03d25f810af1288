"""Add the optimizer "lion"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import make_zeros, stack_lrs, stack_values


class Lion(torch.optim.Optimizer):
    """Step by the sign of a mean of the gradients; torch has no Lion.

        weight -= lr * (sign(beta1 * mean + (1 - beta1) * gradient) + weight_decay * weight)
        mean = beta2 * mean + (1 - beta2) * gradient

    Every number moves by lr in each step, so a good lr is a third to a tenth of AdamW's.

    Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms".
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move_parameter(parameter, group)

    def _move_parameter(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None  # for the type checker: `step` has looked
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        direction = torch.lerp(mean, gradient, 1 - beta1).sign_()
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"])
        mean.lerp_(gradient, 1 - beta2)


class LionOption(OptimizerOption):
    """Train with Lion, which also takes betas."""

    optimizers: ClassVar = {"lion": Lion}
    shared = ("betas",)

    def fill_defaults(self, optimizer: str) -> Mapping[str, Any]:
        """Return the paper's betas."""
        return {"betas": (0.9, 0.99)}

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of Lion for stacked runs."""
        return StackedLion(rules, weights, steps)


class StackedLion:
    """Update as Lion does."""

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        like = weights[0]
        self.weights, self.means = weights, make_zeros(weights)
        self.lrs = stack_lrs(rules, steps, like)
        self.new1 = stack_values([1 - rule["betas"][0] for rule in rules], like)
        self.new2 = stack_values([1 - rule["betas"][1] for rule in rules], like)
        # The share of the weights that each run's decay leaves.
        decays = stack_values([rule["weight_decay"] for rule in rules], like)
        self.kept = 1 - self.lrs * decays if decays.any() else None

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        weight, mean = self.weights[index], self.means[index]
        direction = torch.lerp(mean, gradient, self.new1).sign_()
        if self.kept is not None:
            weight.mul_(self.kept[step])
        weight.addcmul_(direction, self.lrs[step], value=-1)
        mean.lerp_(gradient, self.new2)


OPTION = LionOption()
