"""The closed form of each kind of schedule, without its warm-up.

A shape is called with the number k of an update, the number n of all updates and the settings of
the schedule. It returns the factor on the lr, for k from 0 to n. Update n - 1 is the last one; the
factor at n is what remains after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Settings = Mapping[str, float]
Shape = Callable[[int, int, Settings], float]


def keep_constant(k: int, n: int, settings: Settings) -> float:
    """Return 1."""
    return 1.0


def fall_linearly(k: int, n: int, settings: Settings) -> float:
    """Fall from 1 to `end` along a straight line, as torch's LinearLR."""
    return 1.0 + (settings["end"] - 1.0) * k / n


def fall_along_cosine(k: int, n: int, settings: Settings) -> float:
    """Fall from 1 to `end` along a half cosine, as torch's CosineAnnealingLR up to its T_max."""
    return _follow_cosine(1.0, settings["end"], k / n)


def fall_exponentially(k: int, n: int, settings: Settings) -> float:
    """Fall from 1 to `end` by the same factor at every update, as torch's ExponentialLR."""
    return float(settings["end"] ** (k / n))


def fall_in_steps(k: int, n: int, settings: Settings) -> float:
    """Multiply by `gamma` after each `every` updates, as torch's StepLR."""
    return float(settings["gamma"] ** (k // settings["every"]))


def decay_at_end(k: int, n: int, settings: Settings) -> float:
    """Stay at 1, then fall linearly to `end` during the last `decay_updates`."""
    decay = settings["decay_updates"]
    # The decay has begun decay - (n - k) updates ago; before, that number is negative.
    share = max(0.0, decay - (n - k)) / decay
    return 1.0 + (settings["end"] - 1.0) * share


def cycle_once(k: int, n: int, settings: Settings) -> float:
    """Rise from `start` to 1 and fall to `end`, each along a half cosine, as torch's OneCycleLR."""
    # torch's place of the peak may be a fraction: then no update has exactly the factor 1.
    top = settings["rise"] * n - 1
    if k <= top:
        return _follow_cosine(settings["start"], 1.0, k / top)
    # As in torch, the last update has the factor `end`, and it stays after it.
    return _follow_cosine(1.0, settings["end"], min(1.0, (k - top) / (n - 1 - top)))


def cycle_in_triangles(k: int, n: int, settings: Settings) -> float:
    """Rise from `start` to 1 and fall back in every `every` updates, as torch's CyclicLR."""
    # From 0 at the ends of a cycle to 1 in its middle.
    height = 1.0 - abs(2.0 * (k % settings["every"]) / settings["every"] - 1.0)
    return settings["start"] + (1.0 - settings["start"]) * height


def _follow_cosine(first: float, last: float, share: float) -> float:
    """Return the value at a share of the way along a half cosine from `first` to `last`."""
    return last + (first - last) * (1.0 + math.cos(math.pi * share)) / 2.0


@dataclass(frozen=True)
class Kind:
    """A kind of schedule: its shape, its settings with their defaults, and how it starts.

    Attributes:
        shape: the closed form.
        defaults: every setting that the kind has; None is computed from the number of updates.
        rises: whether it starts below 1 and rises, so that a warm-up in front makes no sense.
    """

    shape: Shape
    defaults: Mapping[str, float | None]
    rises: bool = False


KINDS = {
    "constant": Kind(keep_constant, {}),
    "linear": Kind(fall_linearly, {"end": 0.0}),
    "cosine": Kind(fall_along_cosine, {"end": 0.0}),
    # 4e-6 is torch's: the start divided by 10,000.
    "one_cycle": Kind(cycle_once, {"rise": 0.3, "start": 1 / 25, "end": 4e-6}, rises=True),
    "wsd": Kind(decay_at_end, {"decay": 0.2, "end": 0.0}),
    "step": Kind(fall_in_steps, {"gamma": 0.1, "every": None}),
    "exponential": Kind(fall_exponentially, {"end": 0.01}),
    "cyclical": Kind(cycle_in_triangles, {"start": 0.25, "every": None}, rises=True),
}
