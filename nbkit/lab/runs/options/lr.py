"""Add lr and schedule: the learning rate of each step."""

from __future__ import annotations

import math
from typing import ClassVar

from nbkit.lab.runs.option import REQUIRED, Option, Rule


class LearningRate(Option):
    """Train with the lr `lr * schedule(step)` in each step; without a schedule it is lr."""

    defaults: ClassVar = {"lr": REQUIRED, "schedule": None}
    numbers = ("lr",)

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check the learning rate of every step."""
        lrs = rule.list_lrs(steps)
        for lr in (rule["lr"], *lrs):
            if not 0 <= lr < math.inf:  # true for NaN as well
                lowest, highest = min(lrs, default=lr), max(lrs, default=lr)
                return (
                    f"lr * schedule(step) must be finite and at least 0, got lr={rule['lr']}, "
                    f"scheduled from {lowest} to {highest}"
                )
        return None


OPTION = LearningRate()
