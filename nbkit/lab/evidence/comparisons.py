"""Compare two arms in a sentence, and find when a curve reaches a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nbkit.lab.evidence.stats import paired_ratio


def compare_losses(
    name: str,
    losses: Sequence[float],
    other: str,
    others: Sequence[float],
    *,
    margin: float = 1.05,
) -> str:
    """Compare the final losses of two arms with the same seeds in one sentence.

    Args:
        name, losses: the first arm's name, and one loss for each seed.
        other, others: the same for the second arm; a loss that is not finite has diverged.
        margin: ratio of losses, above 1, from which on a difference counts: 1.05 is 5 %. A
            smaller difference is reported as none, even if the interval excludes 1: with a slider
            at its twentieth stop, one such interval is expected by chance.
    Raises:
        ValueError: if margin is not a finite number above 1, or `paired_ratio` refuses the losses.

    >>> compare_losses("mine", [1.0, 1.1, 1.2], "theirs", [2.0, 2.1, 2.3])
    'mine ends lower than theirs by more than 5 %: ratio of losses 0.515 [0.483, 0.549]'
    """
    if not 1 < margin < math.inf:
        raise ValueError(
            f"margin must be a ratio of losses above 1, such as 1.05 for 5 %, got {margin}."
        )
    n, percent = len(losses), f"{100 * (margin - 1):.3g} %"
    lost, others_lost = _count_diverged(losses), _count_diverged(others)
    # No ratio of losses stands for a run that diverged: the counts are the result.
    if lost or others_lost:
        return f"{name} diverged with {lost} of {n} seeds, {other} with {others_lost} of {n}"

    ratio = paired_ratio(losses, others)
    # The whole interval must lie beyond the margin, on one side or the other.
    if ratio.high < 1 / margin:
        side = f"{name} ends lower than {other} by more than {percent}"
    elif ratio.low > margin:
        side = f"{name} ends higher than {other} by more than {percent}"
    else:
        side = f"no difference of more than {percent} that these {n} seeds can see"
    return f"{side}: ratio of losses {ratio.estimate:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"


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
