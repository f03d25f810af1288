"""Compare two arms in a sentence, and find when a curve reaches a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nbkit.lab.evidence.stats import paired_ratio


def compare_losses(name: str, losses: Sequence[float], other: str, others: Sequence[float]) -> str:
    """Compare the final losses of two arms with the same seeds in one sentence.

    Args:
        name, losses: the first arm's name, and one loss for each seed.
        other, others: the same for the second arm; a loss that is not finite has diverged.

    >>> compare_losses("mine", [1.0, 1.1, 1.2], "theirs", [2.0, 2.1, 2.3])
    'mine ends lower than theirs: ratio of losses 0.515 [0.483, 0.549] (95% interval, n = 3)'
    """
    lost, others_lost = _count_diverged(losses), _count_diverged(others)
    # No ratio of losses stands for a run that diverged: the counts are the result.
    if lost or others_lost:
        n = len(losses)
        return f"{name} diverged with {lost} of {n} seeds, {other} with {others_lost} of {n}"

    ratio = paired_ratio(losses, others)
    # The whole interval must lie on one side of 1, where the losses are equal.
    if ratio.high < 1:
        side = f"{name} ends lower than {other}"
    elif ratio.low > 1:
        side = f"{name} ends higher than {other}"
    else:
        side = f"{name} and {other} cannot be told apart"
    return f"{side}: ratio of losses {ratio}"


def _count_diverged(losses: Sequence[float]) -> int:
    return sum(not math.isfinite(loss) for loss in losses)


def first_step(values: Sequence[float], steps: Sequence[int], *, at_least: float) -> float:
    """Find the first step whose value is at least `at_least`; infinity if there is none.

    Args:
        values: one value for each step; NaN never counts as reached.
        steps: the numbers of the steps, in order.
        at_least: the value to reach.
    Raises:
        ValueError: if values and steps differ in length.

    >>> first_step([0.2, 0.6, 0.9, 0.8], steps=[10, 20, 30, 40], at_least=0.9)
    30.0
    """
    if len(values) != len(steps):
        raise ValueError(f"one value a step, got {len(values)} values and {len(steps)} steps.")

    for value, step in zip(values, steps, strict=True):
        if value >= at_least:
            return float(step)
    return math.inf
