"""Add the optimizer "schedule_free_adamw", which takes betas and eps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nbkit.lab.runs.averaging import ScheduleFree, StackedAverage
from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate
from nbkit.lab.runs.run_values import make_zeros, stack_option, stack_steps, stack_values


class ScheduleFreeAdamW(ScheduleFree):
    """Step z along the gradient at y over its root mean square; torch has no such optimizer.

        square = beta2 * square + (1 - beta2) * gradient^2
        z -= lr * (gradient / (sqrt(square / (1 - beta2^t)) + eps) + weight_decay * y)

    beta1 is the share of the average x in y. `evaluate_averages` evaluates at x.

    Source: Defazio et al. 2024, "The road less scheduled", algorithm 1; the bias correction is that
    of the package `schedulefree` 1.4.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "beta": betas[0], "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})

    def find_direction(self, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
        """Return the gradient over its root mean square."""
        state, gradient, beta2 = self.state[parameter], parameter.grad, group["betas"][1]
        assert gradient is not None  # for the type checker: `step` has looked
        square: Tensor = state.setdefault("square", torch.zeros_like(parameter))
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        divisor = square.div(1 - beta2 ** state["step"]).sqrt_().add_(group["eps"])
        direction: Tensor = gradient / divisor
        return direction


class ScheduleFreeAdamWOption(OptimizerOption):
    """Train with schedule-free AdamW; `Runs.losses` are at y, and `evaluate` looks at x."""

    optimizers: ClassVar[Mapping[str, type[torch.optim.Optimizer]]] = {
        "schedule_free_adamw": ScheduleFreeAdamW
    }
    shared = ("betas", "eps")

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of schedule-free AdamW for stacked runs."""
        return StackedScheduleFreeAdamW(rules, weights, steps)


class StackedScheduleFreeAdamW(StackedAverage):
    """Update as ScheduleFreeAdamW does."""

    def __init__(self, rules: Sequence[Rule], weights: Sequence[Tensor], steps: int) -> None:
        super().__init__(rules, weights, [rule["betas"][0] for rule in rules], steps)
        like = weights[0]
        self.squares = make_zeros(weights)
        kept, new, roots = [], [], []
        for rule in rules:
            beta2 = rule["betas"][1]
            kept.append(beta2)
            new.append(1 - beta2)
            # The bias correction; t counts steps from 1.
            roots.append([math.sqrt(1 - beta2**t) for t in range(1, steps + 1)])
        self.kept, self.new = stack_values(kept, like), stack_values(new, like)
        self.roots, self.eps = stack_steps(roots, like), stack_option(rules, "eps", like)

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        square = self.squares[index]
        square.mul_(self.kept).addcmul_(gradient * self.new, gradient)
        divisor = square.sqrt().div_(self.roots[step]).add_(self.eps)
        self.move_weights(step, index, gradient / divisor)


OPTION = ScheduleFreeAdamWOption()
