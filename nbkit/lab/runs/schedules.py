"""Make schedules: functions from the step to the factor on the arm's lr."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def one_cycle(
    *, total_steps: int, warmup: float = 0.3, start: float = 1 / 25, end: float = 4e-6
) -> Schedule:
    """Raise the lr to its full value along a half cosine, then lower it to almost nothing.

    Args:
        total_steps: number of optimizer steps in the whole cycle.
        warmup: share of the steps in which the lr rises, less than 1 and more than one step.
        start: factor of the first step.
        end: factor of the last step.
    Raises:
        ValueError: if warmup is out of its range.

    With the defaults the factors are those of `torch.optim.lr_scheduler.OneCycleLR` with
    `cycle_momentum=False`; momentum stays as it is.

    Source: Smith & Topin 2018, "Super-Convergence"; the cosine shape is fastai's.

    >>> factor = one_cycle(total_steps=10)
    >>> [round(factor(step), 2) for step in (0, 1, 2, 9)]
    [0.04, 0.52, 1.0, 0.0]
    """
    if not 1 / total_steps < warmup < 1:
        raise ValueError(
            f"warmup must be less than 1 and more than one step of the cycle, got "
            f"total_steps={total_steps}, warmup={warmup}."
        )

    top = warmup * total_steps - 1  # the step at which the factor is 1, perhaps a fraction

    def find_factor(step: int) -> float:
        if step <= top:
            return _follow_cosine(start, 1.0, step / top)
        # Steps after the cycle keep its last factor.
        return _follow_cosine(1.0, end, min(1.0, (step - top) / (total_steps - 1 - top)))

    return find_factor


def _follow_cosine(first: float, last: float, share: float) -> float:
    """Return the value at a share of the way along a half cosine from `first` to `last`."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
