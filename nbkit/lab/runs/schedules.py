"""Make schedules for arms: functions from the step to the factor on the arm's lr."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nbkit.schedules import Schedule, lr_schedule


def one_cycle(
    *, total_steps: int, rise: float = 0.3, start: float = 1 / 25, end: float = 4e-6
) -> Schedule:
    """Raise the lr to its full value along a half cosine, then lower it to almost nothing.

    Args:
        total_steps: number of optimizer steps in the whole cycle.
        rise: share of the steps in which the lr rises, less than 1 and more than one step.
        start: factor of the first step.
        end: factor of the last step, and of every step after it.
    Returns:
        Schedule: `nbkit.lr_schedule("one_cycle", ...)` that holds its last factor.
    Raises:
        ValueError: if rise is out of its range.

    With the defaults the factors are those of `torch.optim.lr_scheduler.OneCycleLR` with
    `cycle_momentum=False`; momentum stays as it is.

    Source: Smith & Topin 2018, "Super-Convergence"; the cosine shape is fastai's.

    >>> factor = one_cycle(total_steps=10)
    >>> [round(factor(step), 2) for step in (0, 1, 2, 9)]
    [0.04, 0.52, 1.0, 0.0]
    """
    # Races run on after the cycle, until the target is reached.
    return lr_schedule("one_cycle", total_steps, rise=rise, start=start, end=end, past_end="hold")


def follow_curve(heights: Sequence[float], total_steps: int) -> Callable[[int], float]:
    """Make a schedule of a drawn curve: its heights are equally far apart over the training.

    Args:
        heights: at least two factors; between two of them the line is straight.
        total_steps: number of optimizer steps; later ones keep the last height.

    >>> factor = follow_curve([1.0, 0.0], 4)  # each step takes the height at its middle
    >>> [factor(step) for step in range(4)]
    [0.875, 0.625, 0.375, 0.125]
    """
    last = len(heights) - 1

    def find_height(step: int) -> float:
        place = min((step + 0.5) / total_steps, 1.0) * last
        before = min(int(place), last - 1)
        return heights[before] + (heights[before + 1] - heights[before]) * (place - before)

    return find_height
