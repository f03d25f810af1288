"""Add the optimizer "schedule_free_sgd", which takes momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from nbkit.lab.runs.averaging import ScheduleFree, StackedAverage
from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import OptimizerOption, Rule, StackedUpdate


class ScheduleFreeSgd(ScheduleFree):
    """Step z along the gradient at y; torch has no schedule-free optimizer.

        z -= lr * (gradient(y) + weight_decay * y)

    The momentum is the share of the average x in y. `evaluate_averages` evaluates at x.

    Source: Defazio et al. 2024, "The road less scheduled", algorithm of section 2.
    """

    def __init__(
        self, params: Any, lr: float = 1.0, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        defaults = {"lr": lr, "beta": momentum, "momentum": momentum}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})

    def find_direction(self, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
        """Return the gradient."""
        assert parameter.grad is not None  # for the type checker: `step` has looked
        return parameter.grad


class ScheduleFreeSgdOption(OptimizerOption):
    """Train with schedule-free SGD; `Runs.losses` are at y, and `evaluate` looks at x."""

    optimizers: ClassVar[Mapping[str, type[torch.optim.Optimizer]]] = {
        "schedule_free_sgd": ScheduleFreeSgd
    }
    shared = ("momentum",)

    def fill_defaults(self, optimizer: str) -> Mapping[str, Any]:
        """Return the momentum of the package `schedulefree`."""
        return {"momentum": 0.9}

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that the momentum can be the share of an average."""
        if rule["optimizer"] in self.optimizers and not 0 <= rule["momentum"] <= 1:
            return f"momentum must be from 0 to 1 with schedule_free_sgd, got {rule['momentum']}"
        return None

    def stack_update(
        self,
        rules: Sequence[Rule],
        weights: Sequence[Tensor],
        steps: int,
        layouts: Sequence[Layout],
    ) -> StackedUpdate:
        """Return the update of schedule-free SGD for stacked runs."""
        return StackedScheduleFreeSgd(rules, weights, [rule["momentum"] for rule in rules], steps)


class StackedScheduleFreeSgd(StackedAverage):
    """Update as ScheduleFreeSgd does."""

    def take_step(self, step: int, index: int, gradient: Tensor) -> None:
        """Update one parameter of all runs in place."""
        self.move_weights(step, index, gradient)


OPTION = ScheduleFreeSgdOption()
