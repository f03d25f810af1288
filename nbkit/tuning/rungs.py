"""Plan a successive halving: how many configurations are trained how far, and what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nbkit.base.numbers import read_integer


@dataclass(frozen=True)
class RungPlan:
    """One rung of the plan.

    Attributes:
        configs: how many configurations are trained in this rung.
        updates: the update up to which each of them is trained, counted from its start.
        steps: what the rung costs for each seed, if no run is lost.
    """

    configs: int
    updates: int
    steps: int


def plan_rungs(configs: int, updates: int, *, eta: int = 3, min_updates: int = 1) -> list[RungPlan]:
    """Plan the rungs of a successive halving, from the shortest to the full length.

        configs in rung k + 1 = ceil(configs in rung k / eta)
        updates in the last rung = updates; in each one before, 1 / eta of the next one's

    The configurations that reach the full length are `eta` at most, and at least two if there are
    that many. A larger `min_updates` leaves the shortest rungs out, and then more of them do.

    Args:
        configs: how many configurations are tried, >= 1.
        updates: length of a full training, >= 1.
        eta: of each rung the best 1 / eta go on, >= 2.
        min_updates: the shortest rung that a configuration is judged by.
    Returns:
        list[RungPlan]: their `steps` add up to the cost for each seed.
    Raises:
        ValueError: if an argument is no integer or out of its range.

    >>> plan_rungs(27, 90)[0], sum(rung.steps for rung in plan_rungs(27, 90))
    (RungPlan(configs=27, updates=10, steps=270), 630)
    """
    _check_counts(configs, updates, eta, min_updates)

    sizes = [configs]
    while sizes[-1] > eta:
        sizes.append(math.ceil(sizes[-1] / eta))
    # From the full length downwards, as long as there are sizes and the rungs are long enough.
    lengths = [updates]
    while len(lengths) < len(sizes) and lengths[0] // eta >= min_updates:
        lengths.insert(0, lengths[0] // eta)
    plan = []
    before = 0
    for size, length in zip(sizes, lengths, strict=False):  # with fewer rungs, the last is fuller
        plan.append(RungPlan(size, length, size * (length - before)))
        before = length
    return plan


def _check_counts(configs: int, updates: int, eta: int, min_updates: int) -> None:
    """Refuse what is no integer or out of its range."""
    counts = {"configs": (configs, 1), "updates": (updates, 1), "eta": (eta, 2)}
    counts["min_updates"] = (min_updates, 1)
    for name, (value, least) in counts.items():
        number = read_integer(value)
        if number is None or number < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
    if min_updates > updates:
        raise ValueError(
            f"min_updates must be at most updates, the full length of {updates}, got {min_updates}."
        )
