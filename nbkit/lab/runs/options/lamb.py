"""Add the optimizer "lamb"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import (
    make_zeros,
    stack_lrs,
    stack_option,
    stack_steps,
    stack_values,
)


class Lamb(torch.optim.Optimizer):
    """Step in Adam's direction by a share of the parameter's own norm; torch has no LAMB.

        direction = mean / (1 - beta1^t) / (sqrt(square / (1 - beta2^t)) + eps) + decay * weight
        weight -= lr * |weight| / |direction| * direction

    Both bias corrections come before the ratio, so the first step is lr times the norm of the
    weights. Where one of the norms is 0 the ratio is 1, so weights that start at 0 can leave it.
    The gradients are not clipped, and no ratio is.

    Source: You et al. 2020, "Large batch optimization for deep learning", algorithm 2 with the
    identity as phi.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

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
        if not state:
            zeros = torch.zeros_like(parameter)
            state.update(step=0, mean=zeros, square=zeros.clone())
        state["step"] += 1
        mean = state["mean"].lerp_(gradient, 1 - beta1)
        square = state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = square.sqrt() / math.sqrt(1 - beta2 ** state["step"])
        direction = mean / (1 - beta1 ** state["step"]) / (root + group["eps"])
        direction += group["weight_decay"] * parameter
        ratio = divide_norms(parameter.flatten()[None], direction.flatten()[None]).item()
        parameter.sub_(direction * (group["lr"] * ratio))


def divide_norms(weight: Tensor, direction: Tensor) -> Tensor:
    """Return |weight| / |direction| of each row, or 1 where one of them is 0: (rows, 1)."""
    above, below = vector_norm(weight, dim=1), vector_norm(direction, dim=1)
    is_defined = (above > 0) & (below > 0)
    return torch.where(is_defined, above / below, 1.0)[:, None]


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
