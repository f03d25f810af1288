"""lr and schedule: the learning rate of each step."""

from __future__ import annotations

import math
from typing import ClassVar

from nbkit.lab.runs.option import REQUIRED, Option, Rule


class LearningRate(Option):
    """`lr * schedule(step)` is the learning rate of a step; without a schedule it is lr."""

    defaults: ClassVar = {"lr": REQUIRED, "schedule": None}
    numbers = ("lr",)

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check the learning rate of every step."""
        lrs = rule.list_lrs(steps)
        if all(math.isfinite(lr) and lr >= 0 for lr in [rule["lr"], *lrs]):
            return None
        lowest, highest = min(lrs, default=rule["lr"]), max(lrs, default=rule["lr"])
        return (
            f"lr * schedule(step) must be finite and at least 0, got lr={rule['lr']}, "
            f"scheduled from {lowest} to {highest}"
        )


OPTION = LearningRate()
