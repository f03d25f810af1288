"""Add weight_decay: shrink the weights a little in each step."""

from __future__ import annotations

import math
from typing import ClassVar

from nbkit.lab.runs.option import Option, Rule


class WeightDecay(Option):
    """Decay the weights as the arm's optimizer does; each optimizer's file does the work."""

    defaults: ClassVar = {"weight_decay": 0.0}
    numbers = ("weight_decay",)

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that the decay is finite and not negative."""
        decay = rule["weight_decay"]
        if not 0 <= decay < math.inf:
            return f"weight_decay must be finite and at least 0, got {decay}"
        return None


OPTION = WeightDecay()
