"""A schedule: a plain function from the number of an update to the factor on the lr.

>>> schedule = lr_schedule("wsd", 10, warmup=3, decay=0.4)
>>> [round(schedule(update), 2) for update in range(10)]
[0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from nbkit.base.report import Report, ensure_axes
from nbkit.schedules.part import SchedulePart, make_part

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Schedule(Report):
    """A function of the update's number; `lr_schedule` makes one, and `*` multiplies two.

        lr of update k = base lr * schedule(k)

    It has no state, so a training is resumed from the number of its updates alone. It cannot be
    changed, compares equal to one with the same settings, can be pickled, and goes where a
    function is expected: `torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)`.

    Attributes:
        parts: the schedules that are multiplied; of `lr_schedule` it is one.

    >>> half = lr_schedule("step", 4, gamma=0.5, every=2)
    >>> product = half * lr_schedule("linear", 4)
    >>> [product(update) for update in range(4)]
    [1.0, 0.75, 0.25, 0.125]
    """

    parts: tuple[SchedulePart, ...]

    def __call__(self, update: int) -> float:
        """Return the factor of an update; the first one is number 0.

        The number `updates`, one behind the last, gives what remains after the last update.
        torch's schedulers ask for it. Larger numbers raise or hold, as `past_end` says.
        """
        if update < 0:
            raise ValueError(f"updates are counted from 0, got update {update}.")
        factor = 1.0
        for part in self.parts:
            factor *= part.find_factor(update)
        return factor

    def __mul__(self, other: object) -> Schedule:
        if not isinstance(other, Schedule):
            return NotImplemented
        return Schedule(self.parts + other.parts)

    @cached_property
    def limit(self) -> float:
        """Return after how many updates it raises; infinity if it holds its last factor."""
        ends = [part.updates for part in self.parts if part.past_end == "raise"]
        return min(ends, default=math.inf)

    @cached_property
    def updates(self) -> int:
        """Return for how many updates it is made."""
        longest = max(part.updates for part in self.parts)
        return int(min(longest, self.limit))

    @cached_property
    def warmup(self) -> int:
        """Return the number of updates during which the lr still rises to its full value."""
        return max(part.rising for part in self.parts)

    @property
    def kind(self) -> str:
        """Return its kind; of a product the kinds of all parts, with * between them."""
        return " * ".join([part.kind for part in self.parts])

    def to_dict(self) -> dict[str, object]:
        """Return all that it is made of as plain JSON: two are equal if these are equal."""
        return {"parts": [part.to_dict() for part in self.parts]}

    def table(self) -> tuple[str, tuple[str, ...], list[tuple[int, float]]]:
        """Return what it is made of, and the factor at a few updates."""
        wanted = {0, self.warmup, self.updates - 1}
        for quarter in (1, 2, 3):
            wanted.add(self.updates * quarter // 4)
        rows = []
        for update in sorted(wanted):
            # A product may end before its longest warm-up does.
            if update < self.updates:
                rows.append((update, self(update)))
        summary = " * ".join([part.describe() for part in self.parts])
        return summary, ("update", "factor on the lr"), rows

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the factor of every update."""
        ax = ensure_axes(ax)
        numbers = list(range(self.updates))
        ax.plot(numbers, [self(update) for update in numbers], color="#D55E00")
        ax.set(xlabel="update", ylabel="factor on the lr", title=self.table()[0])
        ax.set_ylim(bottom=0.0)
        return ax


def lr_schedule(
    kind: str,
    updates: int,
    *,
    warmup: int = 0,
    end: float | None = None,
    decay: float | None = None,
    rise: float | None = None,
    start: float | None = None,
    every: int | None = None,
    gamma: float | None = None,
    past_end: Literal["raise", "hold"] = "raise",
) -> Schedule:
    """Make a schedule: a function from the number of an update to the factor on the lr.

        warm-up of w updates:  (k + 1) / (w + 1) for k < w, so that update w is the first full one
        then, with n = updates - w and k counted from there:
        constant       1
        linear         1 + (end - 1) k / n
        cosine         end + (1 - end) (1 + cos(pi k / n)) / 2
        wsd            1, and linear to end during the last `decay` of all updates
        step           gamma ** floor(k / every)
        exponential    end ** (k / n)
        one_cycle      half cosines from start up to 1 at rise * n - 1, and down to end at n - 1
        cyclical       triangles from start up to 1 and back, one in every `every` updates

    Args:
        kind: one of the names above.
        updates: number of optimizer updates of the whole training, warm-up included; the function
            `nbkit.updates` counts them.
        warmup: number of updates (not a share) in front, in which the lr rises linearly. It is
            never 0 in the first one. Not for one_cycle and cyclical, which rise by themselves.
        end: factor that linear (0), cosine (0), wsd (0), exponential (0.01) and one_cycle (4e-6)
            fall to. All but one_cycle would reach it at the update behind the last one, so that no
            update is wasted at an lr of 0.
        decay: for wsd, the share of all updates in which the lr falls; default 0.2.
        rise: for one_cycle, the share of the updates in which the lr rises; default 0.3.
        start: the lowest factor of one_cycle (1/25) or cyclical (0.25), above 0.
        every: for step, the updates between two drops, and for cyclical, the updates of a cycle;
            by default a third of all.
        gamma: for step, the factor of one drop; default 0.1.
        past_end: what a further update gets: "raise" an error, or "hold" the last factor.
    Returns:
        Schedule: call it with the number of an update; it prints as a table and has a `plot()`.
    Raises:
        ValueError: if a number is out of its range, or the kind does not have a setting.

    Every kind is the one that torch has, but as a closed form: torch's schedulers compute each lr
    from the one before, and go wrong if the optimizer is a new one. one_cycle leaves momentum and
    betas as they are.

    Source: cosine: Loshchilov & Hutter 2017, "SGDR"; one_cycle: Smith & Topin 2018,
    "Super-Convergence"; cyclical: Smith 2017, "Cyclical learning rates for training neural
    networks"; wsd: Hu et al. 2024, "MiniCPM".

    >>> schedule = lr_schedule("linear", 4)
    >>> [schedule(update) for update in range(4)], schedule(4)
    ([1.0, 0.75, 0.5, 0.25], 0.0)
    >>> schedule(5)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: this schedule (linear, 4 updates, end=0) has ended: update 5 was asked for. ...
    """
    given: Mapping[str, Any] = {
        "end": end,
        "decay": decay,
        "rise": rise,
        "start": start,
        "every": every,
        "gamma": gamma,
    }
    return Schedule((make_part(kind, updates, warmup, given, past_end),))
