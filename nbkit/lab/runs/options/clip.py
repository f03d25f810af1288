"""Add max_norm, max_value and agc: clip each run's gradients by its own threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from nbkit.clipping import MODES, clip_gradients_
from nbkit.lab.runs.layouts import Layout
from nbkit.lab.runs.option import GradientOption, Gradients, Rule
from nbkit.lab.runs.stacked_clipping import StackedClip


class Clipping(GradientOption):
    """Clip as `clip_gradients_` does with nonfinite="ignore"; a threshold of inf does not clip."""

    defaults: ClassVar = dict.fromkeys(MODES, math.inf)
    numbers = MODES

    def find_problem(self, rule: Rule, steps: int) -> str | None:
        """Check that the thresholds are positive and that at most one clips."""
        for mode in MODES:
            # Written so that NaN is refused, too.
            if not rule[mode] > 0:
                return f"{mode} must be above 0, got {rule[mode]}"
        chosen = choose_mode(rule)
        if len(chosen) > 1:
            return f"only one of {', '.join(MODES)} may be finite, got {chosen}"
        return None

    def change_gradients(self, rule: Rule, model: nn.Module) -> Callable[[], None] | None:
        """Return a call of `clip_gradients_`, or None if no threshold is finite."""
        arguments: dict[str, Any] = choose_mode(rule)
        if not arguments:
            return None

        def clip_run() -> None:
            # A run that has diverged trains on beside the others, as it would in torch.
            clip_gradients_(model, nonfinite="ignore", **arguments)

        return clip_run

    def stack_change(
        self, rules: Sequence[Rule], weights: Sequence[Tensor], layouts: Sequence[Layout]
    ) -> Callable[[Gradients], Gradients] | None:
        """Return a StackedClip, which skips the modes that no run uses."""
        return StackedClip(rules, weights, layouts)


def choose_mode(rule: Rule) -> dict[str, float]:
    """Return the argument that `clip_gradients_` gets: the one finite threshold, or nothing."""
    chosen = {}
    for mode in MODES:
        if math.isfinite(rule[mode]):
            chosen[mode] = rule[mode]
    return chosen


OPTION = Clipping()
