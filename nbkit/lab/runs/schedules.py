"""Schedules: functions from the step to the factor on the arm's lr."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def one_cycle(
    *, total_steps: int, warmup: float = 0.3, start: float = 1 / 25, end: float = 4e-6
) -> Schedule:
    """One cycle: up to the full lr along a half cosine, then down to almost nothing.

    Args:
        total_steps: optimizer steps of the whole cycle.
        warmup: the share of the steps that goes up, less than 1 and more than one step.
        start: factor of the first step.
        end: factor of the last step.
    Raises:
        ValueError: if a number is out of its range.

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

    top = warmup * total_steps - 1  # where the factor is 1; need not be a whole step

    def factor(step: int) -> float:
        if step <= top:
            return _half_cosine(start, 1.0, step / top)
        return _half_cosine(1.0, end, min(1.0, (step - top) / (total_steps - 1 - top)))

    return factor


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
